"""Figures of many streams: how evenly they were served, and what they had in all."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


def jain(shares: Sequence[float]) -> float:
    """Jain's index: 1 where all have the same, 1/n where one has everything; 1 of nothing at all.

    Source: Jain, Chiu and Hawe (1984), "A quantitative measure of fairness", section 2.
    """
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


@dataclass(frozen=True, slots=True)
class Spread:
    """The least, the middle and the most of some values."""

    least: float
    middle: float
    most: float

    def __str__(self) -> str:
        return f"{self.least:g} / {self.middle:g} / {self.most:g}"


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(min(values), statistics.median(values), max(values))


def growth(samples: Sequence[int]) -> float:
    """By which share memory grew in the second half of a run: the first half is for warming up.

    Medians of the third and the last quarter are compared, so that one peak says nothing.
    """
    if len(samples) < 8:
        return 0.0
    quarter = len(samples) // 4
    third, last = samples[2 * quarter : 3 * quarter], samples[3 * quarter :]
    return statistics.median(last) / statistics.median(third) - 1
