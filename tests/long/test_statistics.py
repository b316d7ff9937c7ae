"""What the docstrings of `pslib.evidence.stats` say of its intervals and tests, by simulation:
coverage and false positives.
"""

import numpy as np
import pytest

from pslib.evidence import stats


@pytest.mark.parametrize(
    "seeds, draw, bootstrap, student",
    [
        (5, "normal", 0.85, 0.96),
        (3, "normal", 0.72, 0.95),
        (5, "exponential", 0.82, 0.90),
    ],
)
def test_how_often_an_interval_over_seeds_holds_the_true_mean(seeds, draw, bootstrap, student):
    rng, trials = np.random.default_rng(1), 2000
    true, held = float(draw == "exponential"), np.zeros(2)
    for trial in range(trials):
        values = getattr(rng, draw)(size=seeds)
        low, high = stats.bootstrap_interval(values, resamples=2000, seed=trial)
        mean, half = stats.mean_interval(values)
        held += low <= true <= high, abs(mean - true) <= half
    assert held / trials == pytest.approx(
        [bootstrap, student], abs=0.03
    )  # three standard errors are 0.015 to 0.03


def test_a_detectable_difference_is_detected_with_its_power():
    values = np.random.default_rng(0).normal(stats.smallest_detectable(1, 5), 1, (20000, 5))
    assert np.mean(
        [stats.mean_interval(row)[0] > stats.mean_interval(row)[1] for row in values]
    ) == pytest.approx(0.8, abs=0.01)
