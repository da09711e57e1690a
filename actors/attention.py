"""Whether we ourselves were here while others seemed silent, and whom that excuses.

A process that is stopped for a while (a frozen machine, a debugger, a loop that stood still) finds
every connection broken at its wake, by its own absence. One timer a process tells of that; each
actor that judges others excuses each of them once a wake, looks for it anew, and counts what it
finds then. The rule itself is pure: `actors.membership.Presence`.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from actors.kernel.ref import Ref
from actors.membership import LOOK_S, Presence


class Attention:
    """One process's presence; without `kept` it never was away, as on virtual time."""

    def __init__(self) -> None:
        self._presence: Presence | None = None
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Look at the clock again and again while this is held."""
        self._look_again()
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _look_again(self) -> None:
        self.look()
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look_again)

    def look(self) -> None:
        """The timer has fired."""
        now = asyncio.get_running_loop().time()
        before = self._presence
        self._presence = Presence(looked_at=now) if before is None else before.look(now)

    @property
    def woke_at(self) -> float | None:
        """When an absence ended that is not long over, on the loop's clock; None if none did."""
        if self._presence is None:
            return None
        return self._presence.woke_at(asyncio.get_running_loop().time())

    @property
    def was_away(self) -> bool:
        """Whether what we missed lately may be our own fault."""
        return self.woke_at is not None


class Excuses:
    """Whom one actor has excused since its process woke up."""

    def __init__(self, attention: Attention) -> None:
        self._attention = attention
        self._excused: set[Ref] = set()

    @property
    def was_away(self) -> bool:
        """Whether what we missed lately may be our own fault."""
        return self._attention.was_away

    def excuse(self, ref: Ref) -> bool:
        """Whether the silence of somebody is to be counted anew; it is once a wake."""
        if not self._attention.was_away:
            self._excused.clear()
            return False
        if ref in self._excused:
            return False
        self._excused.add(ref)
        return True
