"""Statistics over seeds and questions: intervals, effects, tests and verdicts, by hand."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from pslib.evidence import stats


@pytest.mark.parametrize(
    "values, mean, half",
    [
        # s = 1, sqrt 3, and the 97.5% quantile of t with 2 degrees of freedom, 4.302653 (tables)
        ([1, 2, 3], 2.0, 2.484138),
        # two values: s = sqrt(2), s / sqrt 2 = 1, t with 1 degree of freedom: tan(0.475 pi) =
        # 12.706205
        ([0, 2], 1.0, 12.706205),
        # 4 degrees of freedom, 2.776445; s = sqrt(2.5), s / sqrt 5 = sqrt(0.5)
        ([1, 2, 3, 4, 5], 3.0, 2.776445 * math.sqrt(0.5)),
        ([7, 7, 7], 7.0, 0.0),
    ],
)
def test_the_interval_is_students(values, mean, half):
    assert stats.mean_interval(values) == pytest.approx((mean, half), abs=1e-5)


def test_values_that_are_missing_do_not_count():
    nan = float("nan")
    assert stats.mean_interval([1, nan, 2, 3, nan]) == stats.mean_interval([1, 2, 3])
    mean, half = stats.mean_interval([4.0, nan])
    assert mean == 4.0 and math.isnan(half)


@pytest.mark.parametrize("values", [[], [float("nan")]])
def test_nothing_gives_blanks(values):
    assert all(math.isnan(x) for x in stats.mean_interval(values))


def test_arrays_and_columns_give_plain_floats():
    for values in (np.array([1, 2, 3]), pd.Series([1.0, 2.0, 3.0])):
        out = stats.mean_interval(values)
        assert [type(x) for x in out] == [float, float] and out[0] == 2.0


def test_the_bootstrap_interval_is_inside_the_values_and_repeats():
    values = [1.0, 2.0, 3.0, 4.0, 10.0]
    low, high = stats.bootstrap_interval(values)
    assert 1 < low < 4 < high < 10 and stats.bootstrap_interval(values) == (low, high)
    assert stats.bootstrap_interval([*values, float("nan")]) == (low, high)
    assert stats.bootstrap_interval(values, seed=1) != (low, high)
    inner = stats.bootstrap_interval(values, level=0.5)
    assert low < inner[0] < inner[1] < high
    # BCa follows the skew: the mean is 4, and the interval reaches further up than down (the
    # percentile one hardly).
    assert high - 4 > 1.5 * (4 - low)


def test_the_bootstrap_of_two_values_by_hand():
    # The mean of a resample of 0 and 2 is 0, 1 or 2 with probabilities 1/4, 1/2, 1/4.
    assert stats.bootstrap_interval([0, 2]) == (0, 2)
    assert stats.bootstrap_interval([0, 2], level=0.4) == (1, 1)


@pytest.mark.filterwarnings("error")
def test_the_bootstrap_of_equal_values_falls_back_and_of_one_is_blank():
    assert stats.bootstrap_interval([7, 7, 7]) == (7, 7)
    for values in ([], [7], [7, float("nan")]):
        assert all(math.isnan(x) for x in stats.bootstrap_interval(values))


def test_a_paired_effect_by_hand():
    # Differences 1, 2, 3: t = 2 sqrt 3 with 2 degrees of freedom, for which p = 1 - t / sqrt(2 +
    # t^2)
    effect = stats.paired_effect([11, 22, 33], [10, 20, 30])
    assert effect.difference == 2 and effect.seeds == 3 and effect.d_z == pytest.approx(2)
    assert (effect.low, effect.high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)
    assert effect.p == pytest.approx(1 - math.sqrt(12 / 14))
    assert (effect.bootstrap_low, effect.bootstrap_high) == stats.bootstrap_interval([1, 2, 3])
    other = stats.paired_effect([10, 20, 30], [11, 22, 33])
    assert (other.difference, other.d_z, other.p) == pytest.approx((-2, -2, effect.p))
    nan = float("nan")
    assert stats.paired_effect([11, nan, 22, 5, 33], [10, 4, 20, nan, 30]) == effect


def test_a_paired_effect_without_spread_or_pairs_claims_nothing():
    same = stats.paired_effect([0.3, 0.4, 0.7], [0.2, 0.3, 0.6])  # equal up to rounding
    assert (
        same.difference == pytest.approx(0.1)
        and same.seeds == 3
        and all(math.isnan(x) for x in same[1:7])
    )
    for alone in (stats.paired_effect([1], [3]), stats.paired_effect([1, 2], [3, float("nan")])):
        assert (alone.difference, alone.seeds) == (-2, 1) and all(math.isnan(x) for x in alone[1:7])
    assert (
        math.isnan(stats.paired_effect([], []).difference)
        and stats.paired_effect([], []).seeds == 0
    )
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        stats.paired_effect([1, 2], [1, 2, 3])


def test_two_groups_that_do_not_overlap_by_hand():
    # of the 20 ways to choose three of six ranks, two are as far apart as these
    assert (
        stats.unpaired_p([1, 2, 3], [4, 5, 60])
        == pytest.approx(2 / 20)
        == stats.unpaired_p([4, 5, 60], [1, 2, 3])
    )
    assert stats.unpaired_p([1, 2, 5], [3, 4, 6]) == pytest.approx(
        8 / 20
    )  # ranks 1 + 2 + 5; 4 of 20 ways sum to at most 8
    assert math.isnan(stats.unpaired_p([], [1.0, 2.0]))


@pytest.mark.parametrize(
    "differences, p",
    [
        ([1, 2, 3, 4, 5, 6], 2 / 64),
        ([-0.1, -0.2, -7, -0.4, -0.5, -0.6], 2 / 64),  # all of one sign: the least that six allow
        (
            [3, -1, 2],
            4 / 8,
        ),  # sums of the eight patterns: +-6 and +-4 are as large as 4, +-2 and 0 are not
        ([1, -1], 1),
        ([0, 0, 0], 1),
        ([0.1, 0.2, 0.3, math.nan], 2 / 8),
        ([5], 1),
    ],
)
def test_the_sign_flip_test_by_hand(differences, p):
    assert stats.sign_flip(differences) == p == stats.sign_flip([-d for d in differences])


def test_the_sign_flip_test_counts_every_pattern_and_ties_up_to_rounding():
    rng = np.random.default_rng(0)
    for differences in (
        *rng.normal(1, 1, (5, 6)),
        [0.1, 0.2, -0.3, 0.3, 0.3, 0.3],
        rng.integers(-3, 6, 8) / 10,
    ):
        sums = [
            abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
            for signs in itertools.product((-1, 1), repeat=len(differences))
        ]
        assert stats.sign_flip(differences) == sum(
            each > abs(sum(differences)) - 1e-9 for each in sums
        ) / len(sums)


def test_the_least_p_of_an_exact_test_is_where_the_data_could_not_be_farther_apart():
    for n in (2, 5, 6, 8):
        assert stats.sign_flip(range(1, n + 1)) == 2 / 2**n
    assert stats.unpaired_p([1, 2, 3], [4, 5, 6, 7]) == pytest.approx(2 / 35)


def test_a_sign_flip_test_of_nothing_is_blank_and_of_too_many_refused():
    assert math.isnan(stats.sign_flip([])) and math.isnan(stats.sign_flip([math.nan]))
    with pytest.raises(ValueError, match="at most 20 differences; got 21"):
        stats.sign_flip(range(21))


def test_equivalence_by_hand_and_as_an_interval_of_ninety_percent():
    # Differences 1, 2, 3 within 5: t = (5 - 2) sqrt 3 with 2 degrees of freedom; one-sided p = (1 -
    # t / sqrt(2 + t^2)) / 2
    assert stats.equivalence([1, 2, 3, math.nan], bound=5) == pytest.approx(
        (1 - math.sqrt(27 / 29)) / 2
    )
    assert stats.equivalence([-1, -2, -3], bound=5) == stats.equivalence([1, 2, 3], bound=5)
    assert (
        stats.equivalence([1, 2, 3], bound=2) == pytest.approx(0.5)
        and stats.equivalence([1, 2, 3], bound=1) > 0.88
    )
    values = [0.4, -0.1, 0.3, 0.2, -0.3, 0.1]
    # the 90% interval: the 95% quantile of t with 5 degrees of freedom is 2.015048 (tables)
    half = 2.015048 * np.std(values, ddof=1) / math.sqrt(6)
    assert stats.equivalence(values, bound=0.1 + half) == pytest.approx(0.05, abs=1e-6)


def test_equivalence_of_too_little_is_blank_and_of_nonsense_refused():
    for values in [], [1.0], [2.0, 2.0]:
        assert math.isnan(stats.equivalence(values, bound=1))
    for bound in (0, -1, math.nan):
        with pytest.raises(ValueError, match="a bound above 0"):
            stats.equivalence([1, 2], bound=bound)


def test_holm_by_hand():
    # In order: .01 x 4, .02 x 3 = .06, .03 x 2 = .06, .04 x 1 raised to .06
    assert stats.holm([0.04, 0.01, 0.03, 0.02]).tolist() == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert stats.holm([0.5, 0.9, 0.001]).tolist() == pytest.approx([1, 1, 0.003])
    nan = float("nan")
    assert stats.holm([nan, 0.01, nan, 0.04]).tolist() == pytest.approx(
        [nan, 0.02, nan, 0.04], nan_ok=True
    )
    assert (
        stats.holm([nan]).tolist() == pytest.approx([nan], nan_ok=True)
        and stats.holm([]).tolist() == []
    )


def test_what_is_detectable_agrees_with_the_textbook():
    # Cohen's tables: at 5% two-sided, power .80, an effect of .5 needs 34 pairs, one of .8 needs
    # 15, one of .2 needs 199. The normal approximation, 2.80 / sqrt n, would say 32, 13 and 197.
    for effect, pairs in ((0.5, 34), (0.8, 15), (0.2, 199)):
        assert (
            stats.smallest_detectable(1, pairs) < effect < stats.smallest_detectable(1, pairs - 1)
        )
    assert (
        stats.smallest_detectable(3, 34) == pytest.approx(3 * stats.smallest_detectable(1, 34))
        and stats.smallest_detectable(0, 5) == 0
    )
    assert stats.smallest_detectable(1, 5) < stats.smallest_detectable(
        1, 5, power=0.9
    ) and stats.smallest_detectable(1, 5) < stats.smallest_detectable(1, 5, alpha=0.01)
    assert 10 < stats.smallest_detectable(1, 2) < 12
    assert math.isnan(stats.smallest_detectable(1, 1)) and math.isnan(
        stats.smallest_detectable(float("nan"), 5)
    )


@pytest.mark.parametrize(
    "low, high, direction, expected",
    [
        (0.1, 2, "positive", "confirmed"),
        (0.1, 2, "negative", "refuted"),
        (-2, -0.1, "positive", "refuted"),
        (-2, -0.1, "negative", "confirmed"),
        (-0.1, 2, "positive", "not separated"),
        (-0.1, 2, "negative", "not separated"),
        (0, 2, "positive", "not separated"),
        (-2, 0, "positive", "not separated"),  # the bound itself is on neither side
        (float("nan"), float("nan"), "positive", "not separated"),
        (0.1, float("nan"), "negative", "not separated"),
    ],
)
def test_verdicts(low, high, direction, expected):
    assert stats.verdict(low, high, direction) == expected


def test_a_verdict_on_nonsense_is_refused():
    with pytest.raises(ValueError, match="not 'up'"):
        stats.verdict(0, 1, "up")
    with pytest.raises(ValueError, match="from low to high"):
        stats.verdict(1, 0, "positive")
