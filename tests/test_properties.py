"""The properties of properties.py, a few cases each, and three that need a model: padding on both
sides, micro-batches.
"""

import properties
import pytest
import torch
from hypothesis import strategies as st
from test_train import graded_by_parity, gradients, start  # noqa: F401 - two are fixtures

from pslib import policy
from pslib.lab.engines import DecoderEngine, GenerateEngine
from pslib.rollouts import Decoding

ids = st.lists(st.integers(6, 150), min_size=1, max_size=8)


def scoring_does_not_see_padding_or_neighbours(model64):
    """A row's log-probs and entropies are the plain ones of its own prompt and tokens, whatever
    stands beside and after it, and whether or not it shares its prompt.
    """

    def check(prompts, rows, more, fill):
        rows = [(prompts[place % len(prompts)], response) for place, response in rows]
        owner = torch.tensor([prompts.index(prompt) for prompt, _ in rows])
        lengths = torch.tensor([len(response) for _, response in rows])
        padded = torch.full((len(rows), int(lengths.max()) + more), fill)
        for row, (_, response) in enumerate(rows):
            padded[row, : len(response)] = torch.tensor(response)
        with torch.no_grad():
            together = policy.Policy(model64)(policy.pack(prompts, owner, padded, lengths))
            for row, (prompt, response) in enumerate(rows):
                logits = model64(input_ids=torch.tensor([prompt + response])).logits[
                    :, len(prompt) - 1 : -1
                ]
                alone = policy.logprobs_and_entropy(logits, torch.tensor([response]))
                for ours, theirs in zip(together, alone, strict=True):
                    properties.close(ours[row, : len(response)], theirs[0], 1e-10)
                    assert (ours[row, len(response) :] == 0).all()

    return check, {
        "prompts": st.lists(ids, min_size=1, max_size=3),
        "more": st.integers(0, 4),
        "rows": st.lists(st.tuples(st.integers(0, 2), ids), min_size=1, max_size=4),
        "fill": st.integers(0, 199),
    }


def responses_do_not_depend_on_the_prompts_beside_them(model64, tokenizer):
    """Prompts of unlike length, which one engine pads on the left and the other takes apart: as
    each would alone.
    """

    def check(prompts, engine):
        engine = engine(model64, tokenizer)
        said = [
            [row[:n] for row, n in zip(tokens.tolist(), lengths.tolist(), strict=True)]
            for tokens, lengths in (
                engine.generate(given, 1, Decoding(0, 0, 1.0, 4), range(len(given)))
                for given in (prompts, *([prompt] for prompt in prompts))
            )
        ]
        assert said[0] == [alone[0] for alone in said[1:]]

    return check, {
        "prompts": st.lists(ids, min_size=2, max_size=4),
        "engine": st.sampled_from([DecoderEngine, GenerateEngine]),
    }


def the_gradient_does_not_depend_on_micro_batches(model64, start):  # noqa: F811
    """Any size of micro-batch, with the graph of the scores shared or made anew."""
    whole = {
        name: gradients(start(model64, properties.acting(name))) for name in properties.TRAINED
    }

    def check(name, micro, shared):
        metrics, _, ours = gradients(
            start(model64, properties.acting(name), micro_tokens=micro, graph_tokens=65536 * shared)
        )
        expected, _, theirs = whole[name]
        assert abs(metrics["loss"] - expected["loss"]) < 1e-12
        for key in theirs:
            properties.close(ours[key], theirs[key], 1e-11)

    return check, {
        "name": properties.names,
        "micro": st.integers(1, 700),
        "shared": st.integers(0, 1),
    }


def tried_and_survived(check, strategies, cases):
    counts = {"tried": 0, "survived": 0}
    properties.prove(check, strategies, cases, counts)
    return counts


@pytest.mark.parametrize("name", properties.PROPERTIES)
def test_property(name):
    assert tried_and_survived(*properties.PROPERTIES[name], cases=15)["survived"] >= 15


def test_scoring_does_not_see_padding_or_neighbours(model64):
    assert (
        tried_and_survived(*scoring_does_not_see_padding_or_neighbours(model64), cases=10)[
            "survived"
        ]
        >= 10
    )


def test_responses_do_not_depend_on_the_prompts_beside_them(model64, tokenizer):
    assert (
        tried_and_survived(
            *responses_do_not_depend_on_the_prompts_beside_them(model64, tokenizer), 8
        )["survived"]
        >= 8
    )


def test_the_gradient_does_not_depend_on_micro_batches(model64, start):  # noqa: F811
    assert (
        tried_and_survived(
            *the_gradient_does_not_depend_on_micro_batches(model64, start), cases=10
        )["survived"]
        >= 10
    )
