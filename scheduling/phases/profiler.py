"""What requests come: bounded statistics over a sliding window, in the caller's time.

The one idea: whoever takes requests tallies them and tells a `Seen` now and then, which is the news
since the last one; whoever plans keeps the news of a window, of all tellers, and reads an
`ObservedWorkload` off it, from which the planner's `Workload` is made. Both are bounded whatever
comes. Lengths are known of requests that ended, so a window should be longer than requests take.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from scheduling.workload import Workload

MAX_PAIRS = 256
"""Lengths in one piece of news."""
MAX_NEWS = 4096
MAX_SILENCE_S = 5.0
"""Tellers tell more often than that while requests come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """News of requests.

    Attributes:
        elapsed_s: seconds it is of.
        num_arrived: requests that came.
        gaps_s2: sum of the squares of the seconds between them.
        num_finished: requests that ended.
        prompts: tokens of the prompts of those, or of every so many of them.
        outputs: tokens of their answers, in the same order.
        prefill_queue_s: seconds that those waited before their prompt was begun, together.
        decode_queue_s: seconds that they waited between their prompt and decoding, together.
    """

    elapsed_s: float
    num_arrived: int
    gaps_s2: float
    num_finished: int
    prompts: tuple[int, ...]
    outputs: tuple[int, ...]
    prefill_queue_s: float
    decode_queue_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedWorkload:
    """Requests as they came in a window.

    Attributes:
        window_s: seconds that were looked at.
        rate: requests a second.
        arrival_cv2: squared coefficient of variation of the times between them; 1 is Poisson.
        num_arrived: requests that came.
        num_finished: requests that ended.
        prompts: tokens of the prompts of some that ended, evenly.
        outputs: tokens of their answers.
        prefill_queue_s: mean seconds that a request waited before its prompt was begun.
        decode_queue_s: mean seconds that it waited between its prompt and decoding.
    """

    window_s: float
    rate: float
    arrival_cv2: float
    num_arrived: int
    num_finished: int
    prompts: tuple[int, ...]
    outputs: tuple[int, ...]
    prefill_queue_s: float
    decode_queue_s: float

    @property
    def is_enough(self) -> bool:
        """Whether a workload can be made of it."""
        return bool(self.prompts) and self.rate > 0

    def workload(self, name: str = "observed", *, part: tuple[int, int] = (0, 1)) -> Workload:
        """The planner's workload; of every k-th request from the i-th, where `part` is (i, k).

        Raises:
            ValueError: no request ended in the window, or none came, or the part is empty.
        """
        first, step = part
        prompts, outputs = self.prompts[first::step], self.outputs[first::step]
        if not prompts or self.rate <= 0:
            raise ValueError(
                f"workload {name!r}: expected requests that came and ended within "
                f"{self.window_s:g} s, got {self.num_arrived} that came and {len(prompts)} lengths "
                "of those that ended; wait for more"
            )
        return Workload(name=name, prompts=prompts, outputs=outputs, rate=self.rate)


class Tally:
    """Counts requests where they come and end, until somebody takes the count.

    Of more than `MAX_PAIRS` that ended since, the lengths of every second are kept, then of every
    fourth, and so on.
    """

    def __init__(self, at_s: float) -> None:
        """From a moment on."""
        self._last_arrival: float | None = None
        self._pairs: list[tuple[int, int]] = []
        self._begin(at_s)

    def arrived(self, at_s: float) -> None:
        """A request came."""
        self._num_arrived += 1
        if self._last_arrival is not None:
            self._gaps_s2 += (at_s - self._last_arrival) ** 2
        self._last_arrival = at_s

    def finished(
        self, prompt: int, output: int, *, prefill_queue_s: float = 0.0, decode_queue_s: float = 0.0
    ) -> None:
        """A request ended; a prompt or an answer of no token counts as one."""
        if self._num_finished % self._step == 0:
            self._pairs.append((max(1, prompt), max(1, output)))
        self._num_finished += 1
        self._prefill_queue_s += prefill_queue_s
        self._decode_queue_s += decode_queue_s
        if len(self._pairs) > MAX_PAIRS:
            self._pairs = self._pairs[::2]
            self._step *= 2

    def take(self, at_s: float) -> Seen:
        """What came since the last time."""
        seen = Seen(
            elapsed_s=max(0.0, at_s - self._since),
            num_arrived=self._num_arrived,
            gaps_s2=self._gaps_s2,
            num_finished=self._num_finished,
            prompts=tuple(prompt for prompt, _ in self._pairs),
            outputs=tuple(output for _, output in self._pairs),
            prefill_queue_s=self._prefill_queue_s,
            decode_queue_s=self._decode_queue_s,
        )
        self._begin(at_s)
        return seen

    def _begin(self, at_s: float) -> None:
        self._since, self._step = at_s, 1
        self._num_arrived, self._num_finished = 0, 0
        self._gaps_s2 = self._prefill_queue_s = self._decode_queue_s = 0.0
        self._pairs = []


class Profiler:
    """Keeps the news of a window; the oldest is let go where it is too much.

    Several tellers may each tell of themselves: rates add up, and how bursty arrivals are is the
    mean of theirs by rate (Whitt, Approximating a point process by a renewal process, 1982).
    """

    def __init__(self, *, window_s: float = 300.0, max_pairs: int = 2048) -> None:
        """Of a window and a number of lengths that are kept at most."""
        if not 0 < window_s < inf or max_pairs < MAX_PAIRS:
            raise ValueError(
                f"profiler: expected a window above 0 s and {MAX_PAIRS} lengths or more, got "
                f"{window_s} and {max_pairs}"
            )
        self.window_s, self._max_pairs = window_s, max_pairs
        self._news: dict[str, deque[tuple[float, Seen]]] = {}
        self._num_pairs = 0

    def add(self, at_s: float, teller: str, seen: Seen) -> None:
        """News that came at some time; times never go back."""
        self._news.setdefault(teller, deque()).append((at_s, seen))
        self._num_pairs += len(seen.prompts)
        self._let_go(at_s)

    def forget(self) -> None:
        """Let all go, as when the requests have become others."""
        self._news.clear()
        self._num_pairs = 0

    def observed(self, at_s: float) -> ObservedWorkload:
        """What the window holds now."""
        self._let_go(at_s)
        news = [seen for queue in self._news.values() for _, seen in queue]
        rates = [_rate(queue, at_s) for queue in self._news.values()]
        num_finished = sum(seen.num_finished for seen in news)
        return ObservedWorkload(
            window_s=max((_elapsed(queue) for queue in self._news.values()), default=0.0),
            rate=sum(rate for rate, _ in rates),
            arrival_cv2=_mean_by([cv2 for _, cv2 in rates], [rate for rate, _ in rates], 1.0),
            num_arrived=sum(seen.num_arrived for seen in news),
            num_finished=num_finished,
            prompts=tuple(length for seen in news for length in seen.prompts),
            outputs=tuple(length for seen in news for length in seen.outputs),
            prefill_queue_s=sum(seen.prefill_queue_s for seen in news) / max(1, num_finished),
            decode_queue_s=sum(seen.decode_queue_s for seen in news) / max(1, num_finished),
        )

    def _let_go(self, at_s: float) -> None:
        for queue in self._news.values():
            while queue and queue[0][0] <= at_s - self.window_s:
                self._drop(queue)
        while self._num_pairs > self._max_pairs or self._num_news > MAX_NEWS:
            self._drop(min((q for q in self._news.values() if q), key=lambda queue: queue[0][0]))
        self._news = {teller: queue for teller, queue in self._news.items() if queue}

    @property
    def _num_news(self) -> int:
        return sum(len(queue) for queue in self._news.values())

    def _drop(self, queue: deque[tuple[float, Seen]]) -> None:
        _, seen = queue.popleft()
        self._num_pairs -= len(seen.prompts)


def _elapsed(queue: deque[tuple[float, Seen]]) -> float:
    return sum(seen.elapsed_s for _, seen in queue)


def _rate(queue: Sequence[tuple[float, Seen]], at_s: float) -> tuple[float, float]:
    """Requests a second of one teller, and how bursty they came.

    Who has said nothing for long, because nothing came or it is gone, counts for less and less.
    """
    news = [seen for _, seen in queue]
    silent_s = max(0.0, at_s - queue[-1][0] - MAX_SILENCE_S) if queue else 0.0
    elapsed_s, num = sum(seen.elapsed_s for seen in news), sum(seen.num_arrived for seen in news)
    if elapsed_s <= 0 or num == 0:
        return 0.0, 1.0
    mean_s = elapsed_s / num
    cv2 = sum(seen.gaps_s2 for seen in news) / num / mean_s**2 - 1.0
    return num / (elapsed_s + silent_s), max(0.0, cv2) if num > 2 else 1.0


def _mean_by(values: Sequence[float], weights: Sequence[float], usual: float) -> float:
    total = sum(weights)
    if total <= 0:
        return usual
    return sum(v * w for v, w in zip(values, weights, strict=True)) / total
