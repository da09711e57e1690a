"""How many tokens were generated in each of the last seconds: a ring that nobody has to wind.

The one idea: tokens count for the second in which they came, and a second without any costs
nothing, so that the history is there for whoever begins to watch, without a task that samples.
"""

from collections import deque
from collections.abc import Callable

NUM_SECONDS = 600


class TokenHistory:
    """Tokens by second; `clock` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float], num_seconds: int = NUM_SECONDS) -> None:
        self._clock = clock
        self._counts: deque[tuple[int, int]] = deque(maxlen=num_seconds)
        self._num_seconds = num_seconds

    def add(self, num_tokens: int) -> None:
        """So many tokens came now."""
        second = int(self._clock())
        if self._counts and self._counts[-1][0] == second:
            num_tokens += self._counts.pop()[1]
        self._counts.append((second, num_tokens))

    @property
    def now(self) -> float:
        """The time by this clock."""
        return self._clock()

    def after(self, second: int) -> list[tuple[int, int]]:
        """Whole seconds behind that one in which tokens came, oldest first, with their counts."""
        now = int(self._clock())
        first = max(second + 1, now - self._num_seconds)
        return [(at, count) for at, count in self._counts if first <= at < now]
