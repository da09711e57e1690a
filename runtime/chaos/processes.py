"""Signals to processes of a service on this machine, and to no others."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path

from runtime.control.service import CommandFailed

MARK = "runtime.process"
"""Stands in the command line of every process of a service."""
PS_TIMEOUT_S = 5.0
RESOLVE_TIMEOUT_S = 5.0
PROC = Path("/proc")


def send_signal(pid: int, number: signal.Signals) -> None:
    """Signal a process of a service.

    Raises:
        CommandFailed: there is none with this id here, or it is somebody else's.
    """
    if MARK not in command_line(pid):
        raise CommandFailed(f"process {pid} is no process of a service on this machine")
    try:
        os.kill(pid, number)
    except OSError as error:
        raise CommandFailed(f"cannot signal process {pid}: {error.strerror}") from None


def command_line(pid: int) -> str:
    """The words a process was started with; empty if there is none."""
    if (PROC / "self").exists():
        try:
            return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, UnicodeDecodeError):
            return ""
    return ask_ps(pid)


def ask_ps(pid: int) -> str:
    """The same, where the system keeps no files about processes."""
    question = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    try:
        asked = subprocess.run(question, capture_output=True, timeout=PS_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.decode(errors="replace").strip()


async def require_here(host: str) -> None:
    """Make sure that a host is this machine.

    Raises:
        CommandFailed: it is another, or unknown.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            found = await loop.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # a timeout is one too
        found = []
    if not found or not all(_is_ours(family, address) for family, _, _, _, address in found):
        raise CommandFailed(
            f"the service at {host!r} is not on this machine, and processes elsewhere "
            f"cannot be struck from here: run this there"
        )


def _is_ours(family: int, address: Iterable[object]) -> bool:
    """Whether one can listen at an address, which one can at one's own."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((next(iter(address)), 0))
        except OSError:
            return False
    return True
