"""Every method: exact resume after each of twelve steps, and every number that may not be
finite.
"""

import itertools
import math
import random
import time

import pytest

from pslib import methods, train
from tests.long.reliability import record
from tests.support import faults
from tests.support.steps import POOL, TRAINED, everything, spoil_a_step, through

pytestmark = pytest.mark.usefixtures("graded_by_parity")

STEPS = 12


def test_a_run_stopped_after_any_step_or_three_times_goes_on_bit_for_bit(model, start, tmp_path):
    begun, tried, survived, rng = time.time(), 0, 0, random.Random(0)
    for name in TRAINED:
        whole = start(model, name, steps=STEPS)
        expected = through([whole], None, ())
        stops = [(step,) for step in range(1, STEPS + 1)] + [
            tuple(sorted(rng.sample(range(1, STEPS + 1), 3)))
        ]
        for stop in stops:
            states = [start(model, name, steps=STEPS, save_every=3) for _ in range(len(stop) + 1)]
            rows = through(states, tmp_path / f"{name}-{stop}", stop)
            tried += 1
            survived += (
                rows == expected
                and len(rows) == STEPS
                and everything(states[-1]) == everything(whole)
            )
    record(
        "Exact resume: a run stopped after any of 12 steps, and one stopped three times, of every "
        "method",
        tried,
        survived,
        time.time() - begun,
    )
    assert tried == survived == len(TRAINED) * (STEPS + 1)


def test_a_number_that_is_not_finite_at_any_point_of_any_method_changes_nothing(model, start):
    begun, tried, failed = time.time(), 0, []
    for name, where, bad in itertools.product(
        TRAINED, faults.NOT_FINITE, (math.nan, math.inf, -math.inf)
    ):
        tried += 1
        try:
            said = spoil_a_step(start(model, name, **faults.NOT_FINITE[where][2]), where, bad)
            assert methods.get(name).label in said and said.endswith(("q0", "q1"))
        except (AssertionError, FloatingPointError, pytest.fail.Exception) as error:
            failed.append((name, where, bad, repr(error)[:200]))
    record(
        "Non-finite numbers: NaN and both infinities at every point of every method",
        tried,
        tried - len(failed),
        time.time() - begun,
    )
    assert not failed


def test_entropy_or_accuracy_beyond_a_bound_is_counted_and_stops_only_where_asked(
    model, start, tmp_path
):
    begun, tried, survived = time.time(), 0, 0
    for name, bound in itertools.product(
        TRAINED, ({"max_entropy_bits": 0.001}, {"min_accuracy": 1.01})
    ):
        for asked in (0, 3):
            counts, ended = [], False
            for _ in range(
                2
                # the second goes on where the first stopped: not at all, whether it is done or ran
                # away
            ):
                try:
                    train.run(
                        start(model, name, stop_beyond=asked, **bound),
                        POOL,
                        tmp_path / str(tried),
                        lambda metrics, _: counts.append(metrics["beyond_bounds"]),
                    )
                except RuntimeError as error:
                    ended = f"stopped after step {asked}: for {asked} steps" in str(error)
            tried += 1
            survived += counts == list(range(1, (asked or 5) + 1)) and ended == bool(asked)
    record(
        "Runaway entropy: counted in the metrics, and stopped only where asked, for every method",
        tried,
        survived,
        time.time() - begun,
    )
    assert tried == survived
