"""How long a request will wait for its first token, and for each one after: learnt, not modelled.

The one idea: what a request waits for lies before it. Its turn comes when as many others have
ended, at the pace at which they end; then the prompt tokens before it and its own are computed, at
the pace seen of late. Nothing is forecast from fewer than `MIN_SAMPLES` requests: whoever acts on a
forecast acts on evidence. Pure, told the time.
"""

from collections import deque
from dataclasses import dataclass
from statistics import median

import numpy as np

MIN_SAMPLES = 8
MAX_SAMPLES = 64
"""What is older counts no more: a service changes."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds to the first token, and from each token to the next; None is not known yet."""

    ttft_s: float | None
    tpot_s: float | None


class LatencyForecast:
    """Learns from requests as they go, and says what the next one may expect."""

    def __init__(self) -> None:
        self._prefills: deque[tuple[int, float]] = deque(maxlen=MAX_SAMPLES)
        self._tpots: deque[float] = deque(maxlen=MAX_SAMPLES)
        self._ends: deque[float] = deque(maxlen=MAX_SAMPLES)

    def prefilled(self, num_tokens: int, seconds: float) -> None:
        """A first token came: prompt tokens up to and with its own, seconds since its turn."""
        self._prefills.append((num_tokens, seconds))

    def decoded(self, tpot_s: float) -> None:
        """A request has ended that took so long from each token to the next."""
        self._tpots.append(tpot_s)

    def ended(self, now: float, *, others_wait: bool) -> None:
        """A place is free; only while others wait does that tell the pace of a full service."""
        if not others_wait:
            self._ends.clear()
        self._ends.append(now)

    def next(self, num_tokens: int, num_before: int) -> Latency:
        """What a request may expect.

        Args:
            num_tokens: prompt tokens that are to be computed up to and with its own.
            num_before: requests that must end before its turn comes, itself included; 0 if it
                may go at once.
        """
        turn_s, prefill_s = self._turn_s(num_before), self._prefill_s(num_tokens)
        ttft_s = None if turn_s is None or prefill_s is None else turn_s + prefill_s
        tpot_s = median(self._tpots) if len(self._tpots) >= MIN_SAMPLES else None
        return Latency(ttft_s, tpot_s)

    def _turn_s(self, num_before: int) -> float | None:
        if not num_before:
            return 0.0
        if len(self._ends) < MIN_SAMPLES:
            return None
        return num_before * (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)

    def _prefill_s(self, num_tokens: int) -> float | None:
        """A straight line through what was seen, that does not fall; its mean if all were alike."""
        if len(self._prefills) < MIN_SAMPLES:
            return None
        tokens, seconds = np.array(self._prefills, dtype=float).T
        spread = tokens - tokens.mean()
        square = float(spread @ spread)
        slope = max(0.0, float(spread @ seconds) / square) if square else 0.0
        return max(0.0, float(seconds.mean()) + slope * (num_tokens - float(tokens.mean())))
