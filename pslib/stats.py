"""Statistics over seeds."""

import numpy as np
from scipy import stats


def mean_interval(values, level=0.95):
    """The mean of values and the half-width of its Student t interval: (mean, half-width).

    mean +- t_{n-1, (1+level)/2} s / sqrt n, s with ddof 1. The half-width is NaN for fewer than two values, and so is
    the mean for none: a blank, never an invented certainty.
    """
    values = np.asarray([v for v in values if not np.isnan(v)], float)
    if len(values) == 0:
        return float("nan"), float("nan")
    if len(values) == 1:
        return float(values[0]), float("nan")
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)
