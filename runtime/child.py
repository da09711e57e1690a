"""The life every child process leads, whatever its role: open, start, wait, stop in order."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from actors.attention import Attention
from actors.kernel.system import ActorSystem
from runtime import pulse
from runtime.garbage import keep_for_good
from runtime.lifeline import watch_parent
from runtime.opening import open_system
from runtime.service_security import read_secret_key
from runtime.settings import ChildSettings, read_settings

CONNECT_TIMEOUT_S = 10.0
REFUSED = 3
"""Exit status of a child that the service does not want: to start it again would not help."""
LEFT = 4
"""Exit status of a child whose work others have taken over: nobody misses it."""

_S = TypeVar("_S", bound=ChildSettings)
Start = Callable[[_S, ActorSystem, AsyncExitStack], Awaitable[None]]
"""Starts a role's actors; what it puts on the stack ends before they do."""
Leave = Callable[[_S, ActorSystem], Awaitable[bool]]
"""Has others take over before a child ends that has the time; whether they did."""


def run_child(kind: type[_S], start: Start[_S], leave: Leave[_S] | None = None) -> None:
    """Live one child's life with the settings that wait on standard input.

    SIGTERM asks it to end and to `leave` first; SIGINT, or the end of its input, to end now.
    """
    if asyncio.run(_live(read_settings(kind), start, leave)):
        sys.exit(LEFT)


async def _live(settings: _S, start: Start[_S], leave: Leave[_S] | None = None) -> bool:
    stop, has_left = _Stop(), False
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.ask_in_time)
    loop.add_signal_handler(signal.SIGINT, stop.ask)
    unwatch = watch_parent(stop.ask)
    try:
        async with (
            open_system(
                settings.name,
                settings.host,
                settings.port,
                settings.token,
                settings.faults,
                keys=read_secret_key(settings.secret_key),
                model_hash=settings.model_hash,
            ) as system,
            AsyncExitStack() as ending,
        ):
            system.spawn(pulse.PulseActor(), name=pulse.NAME)
            await stop.or_done(_begin(settings, start, system, ending))
            await stop.wait()
            if leave is not None and stop.has_time:
                has_left = await leave(settings, system)
    finally:
        unwatch()
    return has_left


async def _begin(
    settings: _S, start: Start[_S], system: ActorSystem, ending: AsyncExitStack
) -> None:
    await system.connect(settings.parent.address, timeout_s=CONNECT_TIMEOUT_S)
    await start(settings, system, ending)
    keep_for_good()


def kept_attention(ending: AsyncExitStack) -> Attention:
    """This process's presence, watched until it ends."""
    attention = Attention()
    ending.enter_context(attention.kept())
    return attention


class _Stop:
    """The wish that this process ends.

    It may come while the process still begins, and whom that waits for may be gone already.
    """

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self.has_time = False
        self._beginning: asyncio.Timeout | None = None

    def ask_in_time(self) -> None:
        """Ask for it, if not asked before, and leave it the time to do so in order."""
        self.has_time = not self._asked.is_set() and self._beginning is None
        self.ask()

    def ask(self) -> None:
        """Ask for it; asking again changes nothing."""
        self._asked.set()
        if self._beginning is not None:
            self._beginning.reschedule(0.0)
            self._beginning = None

    async def wait(self) -> None:
        """Wait until it was asked for."""
        await self._asked.wait()

    async def or_done(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait until work is done or a stop was asked for, which cancels it."""
        try:
            async with asyncio.timeout(0 if self._asked.is_set() else None) as self._beginning:
                await work
        except TimeoutError:
            if not self._asked.is_set():
                raise
        finally:
            self._beginning = None
