"""Turns at something that few may do at a time: urgent ones first, else in order.

The one idea: whoever takes a turn while one is free has it at once, without giving up control, so
that it can tell beforehand whether it would have to wait.
"""

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """At most `limit` turns are taken at a time.

    Example:
        >>> async def main() -> None:
        ...     turns = Turns(1)
        ...     async with turns.taken():
        ...         print(turns.num_free)
        ...     print(turns.num_free)
        >>> asyncio.run(main())
        0
        1
    """

    def __init__(self, limit: int) -> None:
        self._num_free = limit
        self._num_came = 0
        self._waiting: list[tuple[bool, int, asyncio.Future[None]]] = []

    @property
    def num_free(self) -> int:
        """How many could take a turn without waiting."""
        return self._num_free

    @asynccontextmanager
    async def taken(self, *, is_urgent: bool = False) -> AsyncIterator[None]:
        """Hold a turn; whoever waits for it has a deadline."""
        await self._take(is_urgent=is_urgent)
        try:
            yield
        finally:
            self._give_back()

    async def _take(self, *, is_urgent: bool) -> None:
        if self._num_free:
            self._num_free -= 1
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._num_came += 1
        heapq.heappush(self._waiting, (not is_urgent, self._num_came, mine))
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():  # it was given to us as we left
                self._give_back()
            raise

    def _give_back(self) -> None:
        while self._waiting:
            _, _, first = heapq.heappop(self._waiting)
            if not first.done():
                first.set_result(None)
                return
        self._num_free += 1
