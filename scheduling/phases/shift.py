"""Whether requests have become others: a change-point rule with a stated rate of false alarms.

The one idea: each new value is replaced by its rank among a reference of the values before, and the
rank by the normal deviate of the same place (the sequential normal scores of Conover,
Tercero-Gomez, Cordero-Franco, 2017). What the scores are like while nothing changes then depends on
no distribution of lengths whatever, so that one simulation says how high two cumulative sums
(Page, Biometrika 1954) must rise to be an alarm as seldom as was asked for. The threshold that
stands here is such a one's, which its tests run again.

Ties take the middle rank, which makes alarms rarer. Values that depend on each other, as the gaps
of bursts do, make them more frequent: gaps are told as means over a report, not one by one.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass
from math import log
from statistics import NormalDist
from typing import Literal

from scheduling.phases.profiler import Seen

Stream = Literal["prompt", "output", "gap"]
STREAMS: tuple[Stream, ...] = ("prompt", "output", "gap")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftRule:
    """When a change is told.

    As it stands, one horizon in fifty has an alarm for nothing, over all streams together; another
    reference, drift or horizon wants another threshold for that.

    Attributes:
        num_reference: values that later ones are compared with.
        drift: what a score must exceed to count, in deviations of the reference.
        threshold: height of a sum that is an alarm.
        horizon: values after which the newest become the reference, if nothing changed.
    """

    num_reference: int = 96
    drift: float = 0.5
    threshold: float = 12.8
    horizon: int = 500

    def __post_init__(self) -> None:
        if self.num_reference < 8 or self.horizon < self.num_reference:
            raise ValueError(
                f"shift: expected a reference of 8 or more and a horizon no shorter, got "
                f"{self.num_reference} and {self.horizon}"
            )
        if self.drift < 0 or self.threshold <= 0:
            raise ValueError(
                f"shift: expected a drift of 0 or more and a threshold above 0, got {self.drift} "
                f"and {self.threshold}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """A change that was noticed.

    Attributes:
        stream: of what.
        is_up: whether values grew.
        num_values: values since it began, by the sum's last zero.
    """

    stream: Stream
    is_up: bool
    num_values: int


class RankCusum:
    """One stream's sums; it needs `num_reference` values before it can notice anything."""

    def __init__(self, rule: ShiftRule) -> None:
        self._rule = rule
        self._scores = _scores(rule.num_reference)
        self._newest: deque[float] = deque(maxlen=rule.num_reference)
        self._reference: list[float] = []
        self._sums, self._num_up, self._num_values = [0.0, 0.0], [0, 0], 0

    def restart(self) -> None:
        """Forget all, as when a change was noticed."""
        self._newest.clear()
        self._begin([])

    def take(self, value: float) -> tuple[bool, int] | None:
        """A new value; whether values grew and for how many, if that is an alarm."""
        self._newest.append(value)
        if not self._reference:
            if len(self._newest) == self._rule.num_reference:
                self._reference = sorted(self._newest)
            return None
        rank = bisect_left(self._reference, value) + bisect_right(self._reference, value)
        score = self._scores[rank]
        self._num_values += 1
        for number, sign in enumerate((1.0, -1.0)):
            self._sums[number] = max(0.0, self._sums[number] + sign * score - self._rule.drift)
            self._num_up[number] = self._num_up[number] + 1 if self._sums[number] > 0 else 0
            if self._sums[number] > self._rule.threshold:
                return sign > 0, self._num_up[number]
        if self._num_values == self._rule.horizon:
            self._begin(sorted(self._newest))
        return None

    def _begin(self, reference: list[float]) -> None:
        self._reference = reference
        self._sums, self._num_up, self._num_values = [0.0, 0.0], [0, 0], 0


class ShiftDetector:
    """Prompts, answers and gaps between requests; any of them may change."""

    def __init__(self, rule: ShiftRule | None = None) -> None:
        """By a rule whose threshold belongs to three streams."""
        rule = rule or ShiftRule()
        self._streams = {stream: RankCusum(rule) for stream in STREAMS}

    def restart(self) -> None:
        """Learn anew what is usual."""
        for stream in self._streams.values():
            stream.restart()

    def take(self, seen: Seen) -> Shift | None:
        """News of requests; the first change in it, upon which all is learnt anew."""
        for prompt, output in zip(seen.prompts, seen.outputs, strict=True):
            found = self._take("prompt", log(prompt)) or self._take("output", log(output))
            if found is not None:
                return found
        if seen.elapsed_s > 0:  # where none came, the gap is longer than the report
            return self._take("gap", seen.elapsed_s / max(0.5, seen.num_arrived))
        return None

    def _take(self, stream: Stream, value: float) -> Shift | None:
        alarm = self._streams[stream].take(value)
        if alarm is None:
            return None
        self.restart()
        return Shift(stream=stream, is_up=alarm[0], num_values=alarm[1])


def _scores(num_reference: int) -> list[float]:
    """The normal deviate of each place among a reference, by the sum of both ranks of ties."""
    return [
        NormalDist().inv_cdf((ranks / 2 + 0.5) / (num_reference + 1))
        for ranks in range(2 * num_reference + 1)
    ]
