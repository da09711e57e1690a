"""What happened to a service, as a bounded list: who joined and was lost, what changed and why.

The one idea: the last so many events, numbered without a gap, so that a reader who comes back says
up to where it has read and is told if it missed any. It holds no prompt, no token and no key.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: a short word for it, and its facts."""

    kind: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """An event with its number and its time, in seconds since 1970."""

    id: int
    at: float
    kind: str
    facts: dict[str, Any]

    def body(self) -> dict[str, Any]:
        """Its JSON."""
        return asdict(self)


class EventLog:
    """The last events of a service; `clock` is the wall clock."""

    def __init__(self, max_events: int, clock: Callable[[], float]) -> None:
        self._entries: deque[Entry] = deque(maxlen=max_events)
        self._clock = clock
        self._last_id = 0
        self._more = asyncio.Event()

    @property
    def last_id(self) -> int:
        """The newest event's number, 0 before the first."""
        return self._last_id

    def add(self, event: Event) -> None:
        """Write an event down, and wake whoever waits for one."""
        self._last_id += 1
        self._entries.append(Entry(self._last_id, self._clock(), event.kind, event.facts))
        self._more.set()
        self._more = asyncio.Event()

    def all(self) -> tuple[Entry, ...]:
        """Every event that is kept, oldest first."""
        return tuple(self._entries)

    def after(self, event_id: int, limit: int) -> tuple[Entry, ...]:
        """The oldest events with greater numbers, as many as wanted."""
        return tuple(entry for entry in self._entries if entry.id > event_id)[:limit]

    def num_missed(self, event_id: int) -> int:
        """How many events after that number are not kept any more."""
        oldest = self._entries[0].id if self._entries else self._last_id + 1
        return max(0, oldest - event_id - 1)

    async def wait_after(self, event_id: int, timeout_s: float) -> bool:
        """Wait until there is an event with a greater number; False if none came in time."""
        if self._last_id > event_id:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._more.wait()
        except TimeoutError:
            return False
        return True
