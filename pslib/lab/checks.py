"""Checks before training: what would fail later is refused first, in one sentence."""

import torch

from pslib import policy
from pslib.modes import rendered
from pslib.rollouts import check_room, copies_in_each

SLOW_BF16 = (
    "this processor has no instructions for bfloat16, so that steps may take ten times as long as "
    "in float32; set bf16 to false in the settings of training"
)


def check_training(model, tokenizer, method, modes, settings, questions=()):
    """Refuse what a method cannot train, before anything is computed or written.

    It needs a prompt of its own for each of the method's modes, weights that require a gradient, a
    model that `Policy` scores and that fits the tokenizer, and for every question's response room
    in the context. ValueError in one sentence.
    """
    if not method.training:
        raise ValueError(f"{method.label} is not trained; evaluate the base model instead")
    named = {mode.name: mode for mode in modes}
    if not named.keys() >= set(method.needed):
        raise ValueError(
            f"{method.label} needs the modes {', '.join(method.needed)}; got {', '.join(named)}"
        )
    copies_in_each(settings.group_size, method.sampling)
    require_learnable(model)
    used = [named[name] for name in method.needed]
    rendered(tokenizer, used)
    policy.check(model, tokenizer)
    check_questions(model, tokenizer, used, questions, settings.max_new_tokens)


def half(model):
    """The type, of 16 bits, of a weight that is to learn; None where there is none.

    A step of 3e-6 is lost in a bfloat16 weight of 0.02, whose neighbours are 6e-5 away.
    """
    kinds = {weight.dtype for weight in model.parameters() if weight.requires_grad}
    return next(iter(kinds & {torch.bfloat16, torch.float16}), None)


def require_learnable(model):
    """ValueError unless some weights require a gradient, and can take up a small step."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            "no weight of the model requires a gradient, so there is nothing to train; set "
            "requires_grad where it is to learn"
        )
    if half(model):
        raise ValueError(
            f"the weights are {half(model)}, in which most updates are lost; load the model in "
            "float32 and set bf16, which has the products alone in bfloat16"
        )


def check_questions(model, tokenizer, modes, questions, max_new_tokens):
    """ValueError unless each question has an id, a text, and room for its response in each mode."""
    questions = [questions[k] for k in range(len(questions))]  # as `tasks.batches` reads them
    for k, row in enumerate(questions, start=1):
        if "id" not in row:
            raise ValueError(f"question {k} of the data set has no column id, which names it")
        if not isinstance(row.get("question"), str):
            raise ValueError(f"question {k} of the data set has no text in its column question")
    check_room(model, tokenizer, modes, questions, max_new_tokens)


def require_finite(what, values, rollouts, where, rows=None):
    """FloatingPointError that names the questions, unless all values are finite.

    values: one number, or some for each of the rows of a step; rows: their numbers (default: all).
    A step's rows are the responses, once for each training mode.
    """
    bad, ids = ~torch.isfinite(values), rollouts.question_ids
    if not bad.any():
        return
    if bad.ndim:
        rows = range(len(bad)) if rows is None else rows
        some = bad.reshape(len(bad), -1).any(1)
        ids = [ids[row % len(ids)] for row, is_bad in zip(rows, some, strict=True) if is_bad]
    raise FloatingPointError(
        f"{what} not finite at {where}; no weight was changed. Lower the learning rate, or look at "
        f"the questions {', '.join(map(str, dict.fromkeys(ids)))}"
    )
