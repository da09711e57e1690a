import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from actors.child_process import ChildProcess
from actors.kernel.ref import Ref
from runtime.child import REFUSED
from runtime.children import LIVES, Children, ChildrenEvents, Prepare
from runtime.errors import LaunchFailed
from runtime.settings import ChildSettings

_T = TypeVar("_T")

CHILD = """
import json, os, signal, sys
what = json.loads(sys.stdin.readline())["name"]
if what == "failing":
    print("no such thing"); sys.exit(3)
if what == "crashing":
    sys.exit("a crash")
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
        self.pids: list[int] = []
        self.num_ended = 0
        self.again: list[tuple[str, str]] = []
        self.final: list[str] = []
        self.disorderly: list[str] = []
        self.left: list[str] = []
        self._changed = asyncio.Event()

    def events(self) -> ChildrenEvents:
        return ChildrenEvents(
            on_line=lambda role, line: self._note(self.lines, (role, line)),
            on_started=lambda _, pid: self._note(self.pids, pid),
            on_ended=self._on_ended,
            on_started_again=lambda role, ended: self._note(self.again, (role, ended)),
            on_final_end=lambda reason: self._note(self.final, reason),
            on_left=lambda role: self._note(self.left, role),
            on_disorderly_stop=lambda reason: self._note(self.disorderly, reason),
        )

    def _note(self, what: list[_T], item: _T) -> None:
        what.append(item)
        self._changed.set()

    def _on_ended(self, _: str) -> None:
        self.num_ended += 1
        self._changed.set()

    async def wait_for(self, is_told: Callable[[], bool]) -> None:
        """Wait until something was told."""
        async with asyncio.timeout(30):
            while not is_told():
                self._changed.clear()
                await self._changed.wait()

    async def wait_lines(self, count: int) -> None:
        await self.wait_for(lambda: len(self.lines) >= count)


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
async def started(
    *roles: str, restarts: bool = False, prepare: Prepare | None = None
) -> AsyncIterator[tuple[Children, Told]]:
    told = Told()
    async with asyncio.TaskGroup() as tasks:
        children = Children(tasks, told.events(), random.Random(0))
        children.restarts = restarts
        try:
            for role in roles:
                children.keep(role, prepare or ready_to_start(role))
            yield children, told
        finally:
            children.kill_all()


def ready_to_start(role: str) -> Prepare:
    async def prepare() -> ChildSettings:
        return settings(role)

    return prepare


def settings(role: str) -> ChildSettings:
    parent = Ref(address="tcp://127.0.0.1:1", incarnation=1, name="launcher")
    return ChildSettings(name=role, host="127.0.0.1", token="t", parent=parent)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_lines_come_with_the_role_that_wrote_them() -> None:
    async with started("orderly", "other") as (_, told):
        await told.wait_lines(2)
    assert sorted(role for role, _ in told.lines) == ["orderly", "other"]
    assert sorted(int(line) for _, line in told.lines) == sorted(told.pids)


async def test_an_end_before_restarts_are_allowed_is_final_with_its_last_line() -> None:
    async with started("failing") as (_, told):
        await told.wait_for(lambda: bool(told.final))
    expected = "the failing ended by itself: exit status 3; its last line: no such thing"
    assert told.final == [expected]
    assert told.num_ended == 1


async def test_a_killed_child_is_started_again_and_told_of_once_per_life() -> None:
    async with started("orderly", restarts=True) as (_, told):
        for life in range(1, 4):
            await told.wait_lines(life)
            kill(told.pids[-1])
        await told.wait_lines(4)
    assert len(set(told.pids)) == 4
    assert [role for role, _ in told.again] == ["orderly"] * 3
    assert all(ended.startswith("killed by signal 9; ") for _, ended in told.again)
    assert told.final == []


async def test_a_child_that_stops_in_order_unasked_is_started_again_as_well() -> None:
    async with started("orderly", restarts=True) as (_, told):
        await told.wait_lines(1)
        os.kill(told.pids[0], signal.SIGTERM)
        await told.wait_lines(2)
    assert [ended.partition(";")[0] for _, ended in told.again] == ["exit status 0"]


async def test_a_role_that_dies_too_often_is_given_up_with_the_reason_of_its_last_end() -> None:
    async with started("crashing", restarts=True) as (_, told):
        await told.wait_for(lambda: bool(told.final))
    assert len(told.pids) == LIVES.max_restarts + 1
    expected = (
        "the crashing ended by itself: exit status 1; its last line: a crash; "
        "5 restarts in 60 s did not help"
    )
    assert told.final == [expected]


async def test_restarts_are_counted_for_each_role_alone() -> None:
    async with started("crashing", "orderly", restarts=True) as (_, told):
        await told.wait_for(lambda: bool(told.final))
        await told.wait_for(lambda: "orderly" in {role for role, _ in told.lines})
        (pid,) = [int(line) for role, line in told.lines if role == "orderly"]
        kill(pid)
        await told.wait_for(lambda: "orderly" in {role for role, _ in told.again})
    assert len(told.final) == 1


async def test_a_refusal_of_a_first_life_is_final_though_restarts_are_allowed() -> None:
    async with started("failing", restarts=True) as (_, told):
        await told.wait_for(lambda: bool(told.final))
    assert len(told.pids) == 1
    assert REFUSED == 3
    assert told.final[0].endswith("its last line: no such thing")


async def test_a_refusal_of_a_later_life_may_pass_and_is_tried_again() -> None:
    """Whoever refused it may not have missed the life before."""
    names = iter(["orderly", "failing", "orderly"])

    async def prepare() -> ChildSettings:
        return settings(next(names))

    async with started("orderly", restarts=True, prepare=prepare) as (_, told):
        await told.wait_lines(1)
        kill(told.pids[0])
        await told.wait_for(lambda: len(told.pids) == 3)
    assert [ended.partition(";")[0] for _, ended in told.again] == [
        "killed by signal 9",
        "exit status 3",
    ]
    assert told.final == []


async def test_a_process_that_cannot_be_started_counts_as_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*_: object, **__: object) -> ChildProcess:
        raise OSError("no more processes")

    monkeypatch.setattr(ChildProcess, "start", fail)
    async with started("orderly") as (_, told):
        await told.wait_for(lambda: bool(told.final))
    expected = "the orderly ended by itself: its process did not start: no more processes"
    assert told.final == [expected]


async def test_what_a_life_needs_and_does_not_get_is_final() -> None:
    async def prepare() -> ChildSettings:
        raise LaunchFailed("no coordinator")

    async with started("orderly", restarts=True, prepare=prepare) as (_, told):
        await told.wait_for(lambda: bool(told.final))
    assert (told.final, told.pids) == (["no coordinator"], [])


async def test_a_stop_in_order_is_no_news_and_begins_no_other_life() -> None:
    async with started("orderly", "default", restarts=True) as (children, told):
        await told.wait_lines(2)
        await children.stop("orderly", 20)
        await children.stop("default", 20)
        await children.stop("never started", 20)
    assert (told.final, told.again, told.disorderly) == ([], [], [])
    assert not [pid for pid in told.pids if is_alive(pid)]


async def test_a_child_that_dies_while_it_stops_is_not_started_again() -> None:
    async with started("stubborn", restarts=True) as (children, told):
        await told.wait_lines(1)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(children.stop("stubborn", 20))
            await asyncio.sleep(0)
            kill(told.pids[0])
    assert "killed by signal 9" in told.disorderly[0]
    assert (len(told.pids), told.final, told.again) == (1, [], [])


async def test_a_child_that_dies_while_another_stops_is_neither_news_nor_started_again() -> None:
    async with started("stubborn", "orderly", restarts=True) as (children, told):
        await told.wait_lines(2)
        children.close()
        for pid in told.pids:
            kill(pid)
        await told.wait_for(lambda: told.num_ended == 2)
    assert len(told.pids) == 2
    assert (told.final, told.again, told.disorderly) == ([], [], [])


async def test_a_stop_ends_the_wait_between_two_lives() -> None:
    waiting = asyncio.Event()
    is_first = True

    async def prepare() -> ChildSettings:
        nonlocal is_first
        if not is_first:
            waiting.set()
            await asyncio.sleep(3600)
        is_first = False
        return settings("orderly")

    async with started("orderly", restarts=True, prepare=prepare) as (children, told):
        await told.wait_lines(1)
        kill(told.pids[0])
        async with asyncio.timeout(30):
            await waiting.wait()
        await children.stop("orderly", 20)
    assert (len(told.pids), told.final, told.again, told.disorderly) == (1, [], [], [])


async def test_a_child_whose_start_a_stop_overtakes_is_ended_and_no_news(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, begun, go_on = ChildProcess.start, asyncio.Event(), asyncio.Event()

    async def start_slowly(*values: Any, **named: Any) -> ChildProcess:
        child = await start(*values, **named)
        begun.set()
        async with asyncio.timeout(30):
            await go_on.wait()
        return child

    monkeypatch.setattr(ChildProcess, "start", start_slowly)
    async with started("orderly", restarts=True) as (children, told):
        async with asyncio.timeout(30):
            await begun.wait()
        await children.stop("orderly", 20)
        go_on.set()
        await told.wait_for(lambda: told.num_ended == 1)
    assert (told.final, told.again, told.disorderly) == ([], [], [])
    assert not is_alive(told.pids[0])


async def test_children_closed_before_they_began_never_do() -> None:
    async with started("orderly") as (children, told):
        children.close()
    assert told.pids == []


async def test_a_stop_that_fails_is_told_with_its_reason() -> None:
    async with started("messy") as (children, told):
        await told.wait_lines(1)
        await children.stop("messy", 20)
    assert told.final == []
    expected = "the messy did not stop in order: exit status 1; its last line: a mess"
    assert told.disorderly == [expected]


async def test_a_child_that_does_not_stop_is_killed_after_its_grace() -> None:
    async with started("stubborn") as (children, told):
        await told.wait_lines(1)
        await children.stop("stubborn", 0.1)
    assert "killed by signal 9" in told.disorderly[0]


async def test_all_are_killed_at_once_and_none_of_them_is_a_surprise() -> None:
    async with started("stubborn", "orderly", restarts=True) as (children, told):
        await told.wait_lines(2)
        children.kill_all()
    assert (told.final, told.again) == ([], [])
    assert len(told.disorderly) == 2
