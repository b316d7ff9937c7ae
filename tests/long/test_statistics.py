"""What the docstrings of `pslib.evidence.stats` say of its intervals and tests, by simulation:
coverage and false positives.
"""

import numpy as np
import pandas as pd
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


def drawn(rng, seeds, questions, by_seed, by_question, samples=8):
    """Two methods that are equally good over all seeds and questions, which move each by itself ->
    their tables.
    """
    ease, tables = rng.normal(1, 1.5, questions), []
    for _ in range(2):
        logits = (
            ease
            + by_seed * rng.normal(size=(seeds, 1))
            + by_question * rng.normal(size=questions)
            + min(by_seed, by_question) * rng.normal(size=(seeds, questions))
        )
        shares = rng.binomial(samples, 1 / (1 + np.exp(-logits))) / samples
        tables.append(
            pd.DataFrame(
                {
                    "seed": np.repeat(np.arange(seeds), questions),
                    "question_id": np.tile(np.arange(questions), seeds),
                    "correct": shares.ravel(),
                }
            )
        )
    return tables


@pytest.mark.parametrize("seeds, questions", [(5, 100), (3, 40)])
@pytest.mark.parametrize("by_seed, by_question", [(0, 0), (0.3, 0), (0, 0.7), (0.3, 0.7)])
def test_methods_that_are_equal_are_seldom_told_apart(seeds, questions, by_seed, by_question):
    rng, trials = np.random.default_rng(0), 1000
    found = sum(
        stats.paired_by_question(*drawn(rng, seeds, questions, by_seed, by_question)).p < 0.05
        for _ in range(trials)
    )
    assert 0.005 < found / trials < 0.07  # 5% is nominal, and three standard errors above it are 7%


def test_a_detectable_difference_is_detected_with_its_power():
    values = np.random.default_rng(0).normal(stats.smallest_detectable(1, 5), 1, (20000, 5))
    assert np.mean(
        [stats.mean_interval(row)[0] > stats.mean_interval(row)[1] for row in values]
    ) == pytest.approx(0.8, abs=0.01)
