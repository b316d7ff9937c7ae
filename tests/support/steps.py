"""Steps of the loop on the tiny model: settings, questions, and what the tests of training read
off a step.
"""

import math

import pytest
import torch

from pslib import methods, modes, train
from pslib.lab import checkpoint
from pslib.lab.settings import Training
from tests.support import faults

TRAINED = [name for name, method in methods.METHODS.items() if method.training]


# No weight decay and hardly any clipping of the gradient, so that all that moves a weight is the
# loss.
SETTINGS = Training(
    steps=5,
    questions=2,
    group_size=4,
    pool=6,
    learning_rate=1e-3,
    max_new_tokens=6,
    weight_decay=0.0,
    grad_clip_norm=1e9,
    save_every=1,
    measure_every=1,
)


POOL = [
    {"id": f"q{k}", "question": f"{k + 1}+8+6+1+2+{k + 3}{'+1' * (k % 3)}", "answer": "0"}
    for k in range(6)
]


def parity(text, *asked):
    """1.0 for about half of all texts: an untrained model is never right, and dead groups would
    hide what differs.
    """
    return float(sum(map(ord, text)) % 2)


def gradients(state, questions=POOL[:2]):
    """(metrics, rollouts, gradient of every weight) of a step, with the weights left alone."""
    kept = {}

    def keep_gradients():
        kept.update({name: weight.grad.clone() for name, weight in state.model.named_parameters()})

    state.optimiser.step = keep_gradients
    return *state.step(questions), kept


def rendered(tokenizer, he):
    """The prompts of the first two questions in each mode."""
    return {
        mode.name: [modes.render(tokenizer, mode, q["question"]) for q in POOL[:2]]
        for mode in (modes.NORMAL, he)
    }


def distributions(model, prompt, response, temperature=1.0):
    """log pi(. | prompt, response so far) at every token of a response, one row on its own."""
    logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.double() / temperature, -1)


def everything(state):
    """All that a step may change, as bytes (NaN is not equal to itself)."""
    tensors = checkpoint.state_of(state.model, state.optimiser, state.generators)
    return (
        {name: tensor.numpy().tobytes() for name, tensor in tensors.items()},
        state.done,
        state.beyond,
    )


def spoil_a_step(state, where, bad):
    """Take a good step, then one with a bad number: the message; what came before must be as it
    was, and go on.
    """
    inject, what, _ = faults.NOT_FINITE[where]
    state.step(POOL[:2])  # so that the optimiser has a state
    before = everything(state)
    with pytest.MonkeyPatch.context() as patch:
        inject(patch, state, bad)
        with pytest.raises(FloatingPointError, match=f"^{what} not finite at step 2 of ") as error:
            state.step(POOL[:2])
    assert everything(state) == before
    metrics, _ = state.step(POOL[:2])
    assert (
        math.isfinite(metrics["grad_norm"]) and everything(state) != before
    )  # no bad gradient was left behind
    return str(error.value)


class Stop(Exception):
    """What a test raises to end a run between two steps."""


def row_of(metrics, rollouts):
    """Metrics and rollouts, all but the seconds, in a form that is equal only if every bit is."""
    kept = {key: repr(value) for key, value in metrics.items() if not key.startswith("seconds")}
    held = {
        key: value.tolist() if torch.is_tensor(value) else value
        for key, value in vars(rollouts).items()
    }
    return kept, held


def through(states, folder, stops):
    """Run each state in turn on one folder, the first ones up to a step each and the last to the
    end -> a row a step.

    A stop is before the step's checkpoint, so the step is taken again.
    """
    rows = {}
    for state, stop in zip(states, (*stops, None), strict=True):

        def record(metrics, rollouts):
            rows[metrics["step"]] = row_of(metrics, rollouts)
            if metrics["step"] == stop:
                raise Stop

        try:
            train.run(state, POOL, folder, record)
            assert stop is None
        except Stop:
            assert state.done == stop
    return rows


def laid_out(packed):
    """The (prompt, response) ids of each row of a Packed, read back from its places."""
    rows, width = [], packed.prompt_at.shape[1]
    for row in range(packed.shape[0]):
        first = packed.predictor[packed.rows == row][
            0
        ]  # the last token of the prompt predicts the first of the response
        places = packed.prompt_at[packed.owner[row], :width].tolist()
        prompt = packed.tokens[places[: places.index(int(first)) + 1]]
        rows.append((tuple(prompt.tolist()), tuple(packed.target[packed.rows == row].tolist())))
    return rows
