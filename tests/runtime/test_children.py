import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from actors.child_process import ChildProcess
from actors.kernel.ref import Ref
from runtime.children import Children
from runtime.settings import ChildSettings

CHILD = """
import os, signal, sys
sys.stdin.readline()
what = sys.argv[1]
if what == "failing":
    print("no such thing"); sys.exit(3)
if what == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if what == "messy":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("a mess"))
if what == "orderly":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(os.getpid())
while True:
    signal.pause()
"""


class Told:
    """What children told, with a way to wait for more."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.unexpected: list[str] = []
        self.disorderly: list[str] = []
        self._changed = asyncio.Event()

    def on_line(self, role: str, line: str) -> None:
        self.lines.append((role, line))
        self._changed.set()

    def on_unexpected(self, reason: str) -> None:
        self.unexpected.append(reason)
        self._changed.set()

    async def wait_for(self, count: int) -> None:
        """Wait until so many things were told."""
        async with asyncio.timeout(30):
            while len(self.lines) + len(self.unexpected) < count:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture(autouse=True)
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children run the script above in place of a role's module."""
    (tmp_path / "scripted_child.py").write_text(CHILD, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    start = ChildProcess.start

    async def start_script(
        _: str, role: str, plain: Mapping[str, Any], *, on_line: Callable[[str], None]
    ) -> ChildProcess:
        return await start("scripted_child", role, plain, on_line=on_line)

    monkeypatch.setattr(ChildProcess, "start", start_script)


@asynccontextmanager
async def started(*roles: str) -> AsyncIterator[tuple[Children, Told]]:
    told = Told()
    async with asyncio.TaskGroup() as tasks:
        children = Children(tasks, told.on_line, told.on_unexpected, told.disorderly.append)
        try:
            for role in roles:
                await children.start(settings(role))
            yield children, told
        finally:
            children.kill_all()


def settings(role: str) -> ChildSettings:
    parent = Ref(address="tcp://127.0.0.1:1", incarnation=1, name="launcher")
    return ChildSettings(name=role, host="127.0.0.1", token="t", parent=parent)


async def test_lines_come_with_the_role_that_wrote_them() -> None:
    async with started("orderly", "other") as (_, told):
        await told.wait_for(2)
    assert sorted(role for role, _ in told.lines) == ["orderly", "other"]
    assert len({pid for _, pid in told.lines}) == 2


async def test_an_end_that_nobody_asked_for_is_reported_with_its_last_line() -> None:
    async with started("failing") as (_, told):
        await told.wait_for(2)
    expected = "the failing ended by itself: exit status 3; its last line: no such thing"
    assert told.unexpected == [expected]


async def test_a_stop_in_order_is_no_news() -> None:
    async with started("orderly", "default") as (children, told):
        await told.wait_for(2)
        await children.stop("orderly", 20)
        await children.stop("default", 20)
        await children.stop("never started", 20)
    assert (told.unexpected, told.disorderly) == ([], [])


async def test_a_stop_that_fails_is_told_with_its_reason() -> None:
    async with started("messy") as (children, told):
        await told.wait_for(1)
        await children.stop("messy", 20)
    assert told.unexpected == []
    expected = "the messy did not stop in order: exit status 1; its last line: a mess"
    assert told.disorderly == [expected]


async def test_a_child_that_does_not_stop_is_killed_after_its_grace() -> None:
    async with started("stubborn") as (children, told):
        await told.wait_for(1)
        await children.stop("stubborn", 0.1)
    assert "killed by signal 9" in told.disorderly[0]


async def test_all_are_killed_at_once_and_none_of_them_is_a_surprise() -> None:
    async with started("stubborn", "orderly") as (children, told):
        await told.wait_for(2)
        children.kill_all()
    assert told.unexpected == []
    assert len(told.disorderly) == 2


async def test_a_child_killed_by_somebody_else_is_a_surprise() -> None:
    async with started("orderly") as (_, told):
        await told.wait_for(1)
        os.kill(int(told.lines[0][1]), signal.SIGKILL)
        await told.wait_for(2)
    assert told.unexpected[0].startswith("the orderly ended by itself: killed by signal 9")
