"""Strikes carried out: signals to processes of this machine, and orders about links."""

import asyncio
import contextlib
import signal
from collections.abc import Callable
from urllib.parse import urlsplit

from runtime.chaos import processes
from runtime.chaos.site import Site, wait_for_nothing
from runtime.chaos.strikes import (
    Disturb,
    Kill,
    Pause,
    Strike,
    Swap,
    find_pid,
    known_splits,
    known_targets,
)
from runtime.control.service import CommandFailed

SendSignal = Callable[[int, signal.Signals], None]
CommandLine = Callable[[int], str]


class Striker:
    """Does to a service what a strike says; raises `CommandFailed` where that cannot be."""

    def __init__(
        self,
        site: Site,
        *,
        send_signal: SendSignal = processes.send_signal,
        command_line: CommandLine = processes.command_line,
    ) -> None:
        self._site = site
        self._send_signal = send_signal
        self._command_line = command_line
        self._struck: set[int] = set()

    async def check(self, strike: Strike) -> None:
        """Make sure that a strike has something to hit, and that it is here."""
        if isinstance(strike, Kill | Pause):
            await processes.require_here(urlsplit(self._site.url).hostname or "")
            find_pid(await self._site.status(), strike.target)
        elif isinstance(strike, Disturb):
            await self._site.require_link(strike.a, strike.b)

    async def targets(self) -> list[str]:
        """What can be struck from here: the processes on this machine."""
        await processes.require_here(urlsplit(self._site.url).hostname or "")
        known = known_targets(await self._site.status())
        here = [name for name, pid in known.items() if processes.MARK in self._command_line(pid)]
        if not here:
            raise CommandFailed("no process of the service is on this machine")
        return here

    async def splits(self) -> dict[str, tuple[tuple[int, int], ...]]:
        """What can be swapped: the layers of each stage, by pipeline."""
        return known_splits(await self._site.status())

    async def link_ends(self) -> tuple[str, ...]:
        """What links can be disturbed between, wherever the processes are."""
        return await self._site.link_ends()

    async def carry_out(self, strike: Strike) -> str:
        """Strike; returns when nothing of it lasts, with why not where the service refused."""
        match strike:
            case Kill():
                self._send_signal(await self._pid(strike.target), signal.SIGKILL)
            case Pause():
                await self._pause(await self._pid(strike.target), strike.for_s)
            case Disturb():
                await self._site.disturb(strike)
            case Swap():
                return await self._site.swap(strike)
        return ""

    async def wait_whole(self, timeout_s: float) -> None:
        """Wait until the service is ready, and lists no process that did not outlive a strike."""
        await self._site.wait_ready(timeout_s)
        await wait_for_nothing(self._dead, timeout_s, "whole again")

    async def _dead(self) -> str:
        try:
            targets = known_targets(await self._site.status())
        except CommandFailed as error:
            return str(error)
        struck = {name: pid for name, pid in targets.items() if pid in self._struck}
        dead = [name for name, pid in struck.items() if not self._command_line(pid)]
        return f"{', '.join(dead)} is gone" if dead else ""

    async def _pid(self, target: str) -> int:
        pid = find_pid(await self._site.status(), target)
        self._struck.add(pid)
        return pid

    async def _pause(self, pid: int, for_s: float) -> None:
        self._send_signal(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(for_s)
        finally:
            with contextlib.suppress(CommandFailed):  # the service may have ended it meanwhile
                self._send_signal(pid, signal.SIGCONT)
