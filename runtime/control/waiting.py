"""What a person sees who waits for a change: how far it is."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status

from runtime.control.service import CommandFailed, Service

INTERVAL_S = 0.2


@contextmanager
def phase_shown(service: Service, console: Console) -> Iterator[None]:
    """Show on a terminal in which phase the service's change is, until this is left."""
    if not console.is_terminal:
        yield
        return
    is_over = threading.Event()
    with console.status("waiting") as line:
        watching = threading.Thread(target=_watch, args=(service, line, is_over), daemon=True)
        watching.start()
        try:
            yield
        finally:
            is_over.set()


def _watch(service: Service, line: Status, is_over: threading.Event) -> None:
    while not is_over.wait(INTERVAL_S):
        try:
            line.update(phase_of(service.get("/admin/status")))
        except CommandFailed:  # whoever gave the order hears of it
            return


def phase_of(status: object) -> str:
    """How far a change is, in words."""
    swap = status.get("swap") if isinstance(status, dict) else None
    if not isinstance(swap, dict):
        return "waiting"
    return f"pipeline {swap.get('pipeline')} to epoch {swap.get('epoch')}: {swap.get('phase')}"
