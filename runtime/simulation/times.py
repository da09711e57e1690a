"""Each request's times, as data: what latencies are judged by once a simulation has ended.

The one idea: one run tells of every target. Which requests were in time is a question to the times
of all, asked as often as there are targets. A request that failed was never in time.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from runtime.simulation.client import Outcome
from runtime.simulation.report import DIGITS

_ROUNDING = 1 + 1e-9
"""Latencies are differences of the loop's times, whose last digits say nothing."""


class RequestTimes(msgspec.Struct, frozen=True, kw_only=True):
    """One request's lengths and times.

    Attributes:
        at_s: when it came, since the service was up.
        num_prompt: tokens of its prompt.
        num_tokens: tokens that it got.
        ttft_s: to its first token; None if none came.
        tpot_s: a token after that; None if there was none, or it did not come to its end.
        e2e_s: to its last token; None if it did not come to its end.
        ended: `stop`, `length`, or how it failed.
    """

    at_s: float
    num_prompt: int
    num_tokens: int
    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float | None
    ended: str

    def is_in_time(self, ttft_s: float, tpot_s: float) -> bool:
        """Whether it came to its end with its first token, and those after it, in time."""
        if self.e2e_s is None or self.ttft_s is None:
            return False
        return self.ttft_s <= ttft_s * _ROUNDING and (self.tpot_s or 0.0) <= tpot_s * _ROUNDING


def times_of(outcomes: Iterable[Outcome]) -> list[RequestTimes]:
    """The times of some requests, in the order of their arrival."""
    return [_times(outcome) for outcome in outcomes]


def attainment(times: Sequence[RequestTimes], ttft_s: float, tpot_s: float) -> float:
    """The part of the requests that kept both latencies; 0 of none.

    Example:
        >>> quick = RequestTimes(at_s=0.0, num_prompt=9, num_tokens=3, ttft_s=0.2, tpot_s=0.1,
        ...                      e2e_s=0.4, ended="length")
        >>> slow = msgspec.structs.replace(quick, ttft_s=2.0, e2e_s=2.2)
        >>> attainment([quick, slow], ttft_s=1.0, tpot_s=0.1)
        0.5
    """
    if not times:
        return 0.0
    return sum(each.is_in_time(ttft_s, tpot_s) for each in times) / len(times)


def save_times(times: Iterable[RequestTimes], path: Path) -> None:
    """Write them as a CSV with a column for each attribute; what there is not stays empty."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(RequestTimes.__struct_fields__)
        for each in times:
            writer.writerow([_cell(value) for value in msgspec.structs.astuple(each)])


def _times(outcome: Outcome) -> RequestTimes:
    first_at, is_done = outcome.first_at, outcome.is_done
    tpot_s = None
    if is_done and first_at is not None and outcome.num_tokens > 1:
        tpot_s = (outcome.last_at - first_at) / (outcome.num_tokens - 1)
    return RequestTimes(
        at_s=outcome.arrival.at_s,
        num_prompt=outcome.arrival.num_prompt,
        num_tokens=outcome.num_tokens,
        ttft_s=None if first_at is None else first_at - outcome.sent_at,
        tpot_s=tpot_s,
        e2e_s=outcome.last_at - outcome.sent_at if is_done else None,
        ended=outcome.ended,
    )


def _cell(value: object) -> object:
    return round(value, DIGITS) if isinstance(value, float) else value
