"""How a child notices that its parent is gone: the kernel's signal, and the end of its input."""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies; elsewhere than Linux, do nothing."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), signal.SIGKILL)


def watch_parent(on_gone: Callable[[], None]) -> Callable[[], None]:
    """Call `on_gone` once standard input ends; returns what stops the watching."""
    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()

    def on_readable() -> None:
        if not os.read(descriptor, 4096):
            loop.remove_reader(descriptor)
            on_gone()

    def unwatch() -> None:
        loop.remove_reader(descriptor)

    loop.add_reader(descriptor, on_readable)
    return unwatch
