"""Which measurements count as the same."""

from math import log

_STEP = 1.05


def rounded(value: float) -> float:
    """The nearest of values that lie 5 % apart: noise in a measurement is no news.

    Example:
        >>> rounded(100.0) == rounded(101.0)
        True
    """
    return float(_STEP ** round(log(value) / log(_STEP))) if value > 0 else 0.0
