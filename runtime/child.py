"""The life every child process leads, whatever its role: open, start, wait, stop in order."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeVar

from actors.kernel.system import ActorSystem
from runtime.lifeline import watch_parent
from runtime.opening import open_system
from runtime.settings import ChildSettings, read_settings

CONNECT_TIMEOUT_S = 10.0

_S = TypeVar("_S", bound=ChildSettings)
Start = Callable[[_S, ActorSystem, AsyncExitStack], Awaitable[None]]
"""Starts a role's actors; what it puts on the stack ends before they do."""


def run_child(kind: type[_S], start: Start[_S]) -> None:
    """Live one child's life with the settings that wait on standard input."""
    asyncio.run(_live(read_settings(kind), start))


async def _live(settings: _S, start: Start[_S]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    unwatch = watch_parent(stop.set)
    try:
        async with (
            open_system(settings.name, settings.host, settings.port, settings.token) as system,
            AsyncExitStack() as ending,
        ):
            await system.connect(settings.parent.address, timeout_s=CONNECT_TIMEOUT_S)
            await start(settings, system, ending)
            await stop.wait()
    finally:
        unwatch()
