"""Kills processes of this machine for whoever tries out what a loss does.

The one idea: a name is looked up in the service's own plan, and what it means is struck only if the
launcher that started this gateway started that process too. The process of a node elsewhere has a
number that means another process here, so that a number alone is never enough.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.chaos.processes import send_signal
from runtime.chaos.strikes import known_targets
from runtime.control.service import CommandFailed
from runtime.gateway.errors import ApiError

HOW_TO_ALLOW_KILLS = "launch it with --set admin.kill=true, with the operator's port on loopback"
TIMEOUT_S = 5.0
MAX_DEPTH = 16
"""Processes from a stage's up to its launcher's, at most."""


class ProcessKills:
    """Ends processes below one launcher.

    Args:
        plan: the service's plan, as `/admin/status` shows it.
        launcher: the process below which everything is ours.
        proc: where the system keeps its files about processes.
    """

    def __init__(
        self, plan: Callable[[], dict[str, Any]], launcher: int, proc: Path = Path("/proc")
    ) -> None:
        self._plan = plan
        self._launcher = launcher
        self._proc = proc

    def targets(self) -> list[str]:
        """Names of the processes that can be ended; not this one, which has yet to answer."""
        return sorted(self._pids())

    async def kill(self, target: str) -> None:
        """End a process at once, without a word to anybody; raises `ApiError` 404 or 409."""
        pids = self._pids()
        if target not in pids:
            known = ", ".join(sorted(pids)) or "none"
            raise ApiError(404, f"target: expected one of {known}; got {target!r}", param="target")
        async with asyncio.timeout(TIMEOUT_S):
            await asyncio.to_thread(_kill, target, pids[target])

    def _pids(self) -> dict[str, int]:
        found = known_targets(self._plan())
        return {
            name: pid for name, pid in found.items() if pid != os.getpid() and self._is_ours(pid)
        }

    def _is_ours(self, pid: int) -> bool:
        for _ in range(MAX_DEPTH):
            if pid <= 1:
                return False
            pid = self._parent(pid)
            if pid == self._launcher:
                return True
        return False

    def _parent(self, pid: int) -> int:
        """A process' parent; 0 if it is gone, or where the system does not say."""
        try:
            stat = (self._proc / str(pid) / "stat").read_text(errors="replace")
            return int(stat.rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return 0


def _kill(target: str, pid: int) -> None:
    try:
        send_signal(pid, signal.SIGKILL)
    except CommandFailed as error:
        raise ApiError(409, f"{target} was not killed: {error}", param="target") from None
