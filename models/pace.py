"""How fast weights may be read, so that what serves beside the reading is not starved.

The one idea: every byte read has its time, and who is ahead of it waits. Time that was not used is
not saved up, so a slow disk is never followed by a burst. It runs in a loader's own thread, which
is why it may sleep.
"""

import time
from collections.abc import Callable

from models.errors import ModelError


class Pace:
    """Lets bytes through at a rate; None lets them through at once."""

    def __init__(
        self,
        max_bytes_per_s: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if max_bytes_per_s is not None and not max_bytes_per_s > 0:
            raise ModelError(f"max_bytes_per_s: expected more than 0, got {max_bytes_per_s}")
        self._rate, self._clock, self._sleep = max_bytes_per_s, clock, sleep
        self._due_s = clock()

    def spend(self, num_bytes: int) -> None:
        """Wait until so many more bytes are due."""
        if self._rate is None:
            return
        self._due_s += num_bytes / self._rate
        now_s = self._clock()
        if self._due_s > now_s:
            self._sleep(self._due_s - now_s)
        else:
            self._due_s = now_s
