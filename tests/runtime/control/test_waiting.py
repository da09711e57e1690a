"""Who waits for a change at a terminal sees how far it is."""

import io
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
from rich.console import Console

from runtime.control.service import CommandFailed, Service
from runtime.control.waiting import phase_of, phase_shown

COPYING = {"swap": {"pipeline": "0", "epoch": 3, "phase": "copy"}}


@pytest.mark.parametrize(
    ("status", "shown"),
    [(COPYING, "pipeline 0 to epoch 3: copy"), ({"swap": None}, "waiting"), ([], "waiting")],
)
def test_a_phase_is_told_in_words(status: object, shown: str) -> None:
    assert phase_of(status) == shown


@dataclass(frozen=True)
class Copying(Service):
    """A service in the middle of a change; the second time it is asked, it is gone."""

    asked: threading.Event = field(default_factory=threading.Event)
    is_gone: threading.Event = field(default_factory=threading.Event)

    def get(self, path: str, timeout_s: float = 1.0) -> Any:
        if self.asked.is_set():
            self.is_gone.set()
            raise CommandFailed("nobody is there")
        self.asked.set()
        return COPYING


def test_a_terminal_shows_the_phase_until_nobody_tells_it() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    service = Copying("http://nobody")
    with phase_shown(service, console):
        assert service.is_gone.wait(30)
    assert isinstance(console.file, io.StringIO)
    assert "waiting" in console.file.getvalue()


def test_what_is_no_terminal_is_not_written_to_and_nobody_is_asked() -> None:
    console = Console(file=io.StringIO())
    service = Copying("http://nobody")
    with phase_shown(service, console):
        assert not service.asked.is_set()
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""
