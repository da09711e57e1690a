"""Which steps a stage has run lately, and who waits until it has run one.

The one idea: a stage runs its steps in order, so one that was not run when a later one was is never
run: whoever waits for it is told so at once. It never knows what a step is.
"""

import asyncio
from collections import deque

MAX_REMEMBERED = 64
"""More than are in flight in any pipeline: whoever asks for a step names one that is."""


class StepMarks:
    """Steps by epoch and number, those run last.

    Example:
        >>> async def main() -> None:
        ...     marks = StepMarks()
        ...     marks.mark(1, 7)
        ...     print(await marks.reached(1, 7), await marks.reached(1, 6))
        >>> asyncio.run(main())
        True False
    """

    def __init__(self) -> None:
        self._ran: deque[tuple[int, int]] = deque(maxlen=MAX_REMEMBERED)
        self._latest = (0, -1)
        self._waiting: dict[tuple[int, int], asyncio.Future[bool]] = {}

    def mark(self, epoch: int, step: int) -> None:
        """A step was run."""
        self._ran.append((epoch, step))
        self._latest = max(self._latest, (epoch, step))
        for wanted in [w for w in self._waiting if w <= self._latest]:
            self._waiting.pop(wanted).set_result(wanted == (epoch, step))

    async def reached(self, epoch: int, step: int) -> bool:
        """Whether a step was run, once that is known; whoever waits has a deadline."""
        wanted = (epoch, step)
        if wanted <= self._latest:
            return wanted in self._ran
        waiting = self._waiting.get(wanted)
        if waiting is None:
            waiting = self._waiting[wanted] = asyncio.get_running_loop().create_future()
        return await asyncio.shield(waiting)
