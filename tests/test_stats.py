"""Statistics: the mean over seeds and its interval, by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from pslib import stats


@pytest.mark.parametrize("values, level, mean, half", [
    # s = 1, sqrt 3, and the 97.5% quantile of t with 2 degrees of freedom, 4.302653 (tables)
    ([1, 2, 3], 0.95, 2.0, 2.484138),
    # two values: s = sqrt(2), s / sqrt 2 = 1, t with 1 degree of freedom: tan(0.475 pi) = 12.706205
    ([0, 2], 0.95, 1.0, 12.706205),
    ([0, 2], 0.50, 1.0, 1.0),  # tan(pi / 4)
    # 4 degrees of freedom, 2.776445; s = sqrt(2.5), s / sqrt 5 = sqrt(0.5)
    ([1, 2, 3, 4, 5], 0.95, 3.0, 2.776445 * math.sqrt(0.5)),
    ([7, 7, 7], 0.95, 7.0, 0.0),
])
def test_the_interval_is_students(values, level, mean, half):
    assert stats.mean_interval(values, level) == pytest.approx((mean, half), abs=1e-5)


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
