"""Tokens a second while a cluster is loaded, without its filling and draining.

The one idea: what counts for a plan is what it gives under a steady load, and that is seen in the
second half of the time in which requests come: the first half fills the pipelines, and after the
last arrival they run empty one by one.
"""

from collections.abc import Iterable

from runtime.simulation.client import Outcome


def steady_tokens_per_s(outcomes: Iterable[Outcome], start_s: float, last_s: float) -> float:
    """Tokens a second that came between half of the arrivals' time and its end.

    A stream's tokens count as if they had come evenly between its first and its last.

    Args:
        outcomes: all requests; times are the loop's.
        start_s: when the service was up.
        last_s: when the last request came, counted from then.
    """
    begin, end = start_s + last_s / 2, start_s + last_s
    if end <= begin:
        return 0.0
    return sum(_tokens_within(outcome, begin, end) for outcome in outcomes) / (end - begin)


def _tokens_within(outcome: Outcome, begin: float, end: float) -> float:
    if outcome.first_at is None:
        return 0.0
    took_s = outcome.last_at - outcome.first_at
    if took_s <= 0:
        return outcome.num_tokens * float(begin <= outcome.first_at < end)
    within_s = min(outcome.last_at, end) - max(outcome.first_at, begin)
    return outcome.num_tokens * max(0.0, within_s) / took_s
