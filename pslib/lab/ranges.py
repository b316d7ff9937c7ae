"""Ranges: between which numbers each setting lies, so that a slip is a sentence where a run starts
and no strange result.
"""

from dataclasses import dataclass, fields
from math import inf
from numbers import Integral, Real
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """The finite numbers from low to high, without open ends; with `whole` whole ones alone."""

    low: float = -inf
    high: float = inf
    open_low: bool = False
    open_high: bool = False
    whole: bool = False

    def __contains__(self, value):
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        if not -inf < value < inf:  # false for NaN too
            return False
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self):
        parts = []
        if self.low > -inf:
            parts.append(f"{'above' if self.open_low else 'at least'} {self.low:g}")
        if self.high < inf:
            parts.append(f"{'below' if self.open_high else 'at most'} {self.high:g}")
        return f"a {'whole' if self.whole else 'finite'} number {' and '.join(parts)}".rstrip()


ANY = Range()
COUNT = Range(low=1, whole=True)
COUNT_OR_NONE = Range(low=0, whole=True)
DIGIT = Range(low=1, high=9, whole=True)  # a number of the nano world's sums
# what a torch.Generator takes and a run's folder can be called
SEED = Range(low=0, high=2**63, open_high=True, whole=True)
FROM_ONE = Range(low=1)
FROM_ZERO = Range(low=0)
POSITIVE = Range(low=0, open_low=True)
SHARE = Range(low=0, high=1)
POSITIVE_SHARE = Range(low=0, high=1, open_low=True)
BETWEEN = Range(low=0, high=1, open_low=True, open_high=True)


def check(values, ranges, where):
    """ValueError names the first of some values, a dict, that lies outside its range."""
    for name, allowed in ranges.items():
        if name in values and values[name] not in allowed:
            raise ValueError(f"{where}: {name} must be {allowed}; got {values[name]!r}")


# Types of settings: a number and its range, checked where a `Checked` dataclass is made.
Count = Annotated[int, COUNT]
CountOrNone = Annotated[int, COUNT_OR_NONE]
Digit = Annotated[int, DIGIT]
Seed = Annotated[int, SEED]
Any = Annotated[float, ANY]
FromZero = Annotated[float, FROM_ZERO]
Positive = Annotated[float, POSITIVE]
PositiveShare = Annotated[float, POSITIVE_SHARE]
Between = Annotated[float, BETWEEN]


def of_fields(cls):
    """{field: its range} of a dataclass."""
    found = {field.name: getattr(field.type, "__metadata__", ()) for field in fields(cls)}
    return {name: metadata[0] for name, metadata in found.items() if metadata}


class Checked:
    """A dataclass whose numbers must lie in the ranges that their types name."""

    def __post_init__(self):
        check(vars(self), of_fields(self), type(self).__name__)
