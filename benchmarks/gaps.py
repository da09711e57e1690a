"""What a client sees of a change, from the times and words of its streams: pure arithmetic.

A gap is the time between two pieces of one stream. What a change costs is the longest gap that it
touches, beside the gaps of the same streams before it; what it must not cost is any token.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """Gaps of undisturbed streams, in seconds."""

    p50_s: float
    p99_s: float
    max_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """Tokens of disturbed streams that are not those of undisturbed ones; broken streams."""

    lost: int = 0
    repeated: int = 0
    different: int = 0
    broken: int = 0

    def __add__(self, other: "Differences") -> "Differences":
        return Differences(
            lost=self.lost + other.lost,
            repeated=self.repeated + other.repeated,
            different=self.different + other.different,
            broken=self.broken + other.broken,
        )

    @property
    def total(self) -> int:
        """All of them; 0 is what is wanted."""
        return self.lost + self.repeated + self.different + self.broken

    def __str__(self) -> str:
        return (
            f"{self.lost} lost, {self.repeated} repeated, {self.different} different, "
            f"{self.broken} streams broken"
        )


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that at least this share of all does not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def steady_gaps(streams: Sequence[Sequence[float]], since: float, until: float) -> Steady:
    """Gaps that lie between two moments, over all streams.

    Raises:
        ValueError: there are none.
    """
    gaps = [
        after - before
        for before, after in _gaps(streams)
        if since <= before and after <= until
    ]  # fmt: skip
    if not gaps:
        raise ValueError("no stream had two tokens in the steady time")
    return Steady(p50_s=percentile(gaps, 0.5), p99_s=percentile(gaps, 0.99), max_s=max(gaps))


def longest_gap(streams: Sequence[Sequence[float]], since: float, until: float) -> float:
    """The longest gap that has a part between two moments, over all streams; 0 without any."""
    touching = (
        after - before
        for before, after in _gaps(streams)
        if after >= since and before <= until
    )  # fmt: skip
    return max(touching, default=0.0)


def _gaps(streams: Sequence[Sequence[float]]) -> Iterator[tuple[float, float]]:
    for times in streams:
        yield from pairwise(times)


def differences(found: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]) -> Differences:
    """What disturbed streams lack, have too much, or have otherwise than undisturbed ones."""
    return sum((_differences_of(f, e) for f, e in zip(found, expected, strict=True)), Differences())


def _differences_of(found: Sequence[str], expected: Sequence[str]) -> Differences:
    counts = {"delete": 0, "insert": 0, "replace": 0, "equal": 0}
    matcher = SequenceMatcher(None, list(expected), list(found), autojunk=False)
    for what, start, end, found_start, found_end in matcher.get_opcodes():
        counts[what] += max(end - start, found_end - found_start)
    return Differences(
        lost=counts["delete"], repeated=counts["insert"], different=counts["replace"]
    )
