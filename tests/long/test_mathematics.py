"""Gradients and invariances in their long form: two hundred cases of each property, every weight
tensor of every method.
"""

import time

import pytest

from tests.long.reliability import record
from tests.support import differences, properties
from tests.support.steps import rendered

pytestmark = pytest.mark.usefixtures("graded_by_parity")

CASES = 200


def counting(trials):
    """Run trials -> how many were run, how many passed, seconds, and the first failure."""
    begun, survived, failure = time.perf_counter(), 0, None
    for trial in trials:
        try:
            trial()
            survived += 1
        except Exception as error:
            failure = failure or error
    return len(trials), survived, time.perf_counter() - begun, failure


def concluded(claim, tried, survived, seconds, failure):
    record(claim, tried, survived, seconds)
    if failure:
        raise failure
    assert survived == tried


def test_gradcheck_of_every_loss_and_method():
    concluded(
        "gradcheck in float64: every loss, and every method's loss in the logits",
        *counting(
            [lambda seed=seed: differences.check_losses(seed) for seed in range(20)]
            + [
                lambda name=name, seed=seed: differences.check_whole_loss(name, seed)
                for name in properties.TRAINED
                for seed in range(20)
            ]
        ),
    )


def test_finite_differences_of_every_weight_tensor(model64, tokenizer, he, start):
    def trial(name, **changes):
        state = start(model64, properties.acting(name), **changes)
        assert differences.error_of_a_step(name, state, rendered(tokenizer, he), each=True) < 1e-5

    concluded(
        "a training step's gradient against finite differences: every method, every weight tensor",
        *counting(
            [
                lambda name=name, seed=seed: trial(
                    name, seed=seed, micro_tokens=60, graph_tokens=65536 * (seed % 2)
                )
                for name in properties.TRAINED
                for seed in range(4)
            ]
        ),
    )


def test_properties_hold_in_two_hundred_cases_each(model64, tokenizer, start):
    every = dict(properties.PROPERTIES)
    for made in (
        properties.scoring_does_not_see_padding_or_neighbours(model64),
        properties.responses_do_not_depend_on_the_prompts_beside_them(model64, tokenizer),
        properties.the_gradient_does_not_depend_on_micro_batches(model64, start),
    ):
        every[made[0].__qualname__] = made
    counts, failures, begun = {"tried": 0, "survived": 0}, [], time.perf_counter()
    for name, (check, strategies) in every.items():
        before = counts["survived"]
        try:
            properties.prove(check, strategies, CASES, counts)
        except Exception as error:
            failures.append(error)
        if counts["survived"] - before < CASES:
            failures.append(
                AssertionError(
                    f"{name} was tried on {counts['survived'] - before} cases, not {CASES}"
                )
            )
    concluded(
        f"invariances: {len(every)} properties, {CASES} cases each",
        counts["tried"],
        counts["survived"],
        time.perf_counter() - begun,
        failures[0] if failures else None,
    )
