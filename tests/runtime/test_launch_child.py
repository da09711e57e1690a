"""A child that is asked to stop before it has begun."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from actors.child_process import ChildProcess
from actors.kernel.ref import Ref
from actors.kernel.system import ActorSystem
from runtime import child
from runtime.config import Config
from runtime.journal import Journal
from runtime.opening import open_system
from runtime.roles import coordinator
from runtime.settings import ChildSettings, CoordinatorSettings, NodeSettings, to_plain


@asynccontextmanager
async def deaf_parent() -> AsyncIterator[tuple[Ref, asyncio.Event]]:
    """An address where calls are taken and nobody ever answers; set once somebody called."""
    called, over = asyncio.Event(), asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        called.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(60):
                await over.wait()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield Ref(f"tcp://{host}:{port}", 1, "launcher"), called
    finally:
        over.set()
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def beginning() -> AsyncIterator[tuple[ChildProcess, "asyncio.Task[str]"]]:
    """A node's process that waits for its parent's answer."""
    async with deaf_parent() as (parent, called), asyncio.TaskGroup() as tasks:
        settings = NodeSettings(
            name="node", host="127.0.0.1", token="t", parent=parent, node="n", coordinator=parent
        )
        started = await ChildProcess.start(
            "runtime.process", "node", to_plain(settings), on_line=lambda _: None
        )
        ending = tasks.create_task(started.wait())
        try:
            async with asyncio.timeout(60):
                await called.wait()
            yield started, ending
        finally:
            started.kill()


async def test_a_child_that_waits_for_its_parent_stops_when_it_is_asked_to() -> None:
    async with beginning() as (started, ending):
        await started.stop(child.CONNECT_TIMEOUT_S / 2)
        async with asyncio.timeout(30):
            assert await ending == "exit status 0"


async def test_a_child_asked_twice_stops_as_if_asked_once() -> None:
    async with beginning() as (started, ending):
        started.signal_stop()
        await started.stop(child.CONNECT_TIMEOUT_S / 2)
        async with asyncio.timeout(30):
            assert await ending == "exit status 0"


@pytest.fixture
def parent_ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[], None]]]:
    """What a life in this process calls when its parent is gone."""
    watching: list[Callable[[], None]] = []

    def watch(on_gone: Callable[[], None]) -> Callable[[], None]:
        watching.append(on_gone)
        return watching.clear

    monkeypatch.setattr(child, "watch_parent", watch)
    yield watching
    assert not watching


async def test_a_timeout_of_the_beginning_itself_is_a_failure(
    parent_ends: list[Callable[[], None]],
) -> None:
    async def start(_: ChildSettings, system: ActorSystem, ending: AsyncExitStack) -> None:
        raise TimeoutError("too slow")

    async with open_system("launcher", "127.0.0.1", 0, "t") as system:
        settings = ChildSettings(
            name="x", host="127.0.0.1", token="t", parent=system.local_ref("launcher")
        )
        with pytest.raises(TimeoutError, match="too slow"):
            await child._live(settings, start)


async def test_a_parent_that_goes_while_a_child_begins_ends_it_in_order(
    parent_ends: list[Callable[[], None]],
) -> None:
    ended: list[str] = []

    async def start(_: ChildSettings, system: ActorSystem, ending: AsyncExitStack) -> None:
        ending.callback(ended.append, "what it had begun")
        parent_ends[0]()
        await asyncio.sleep(3600)

    async with open_system("launcher", "127.0.0.1", 0, "t") as system:
        settings = ChildSettings(
            name="x", host="127.0.0.1", token="t", parent=system.local_ref("launcher")
        )
        async with asyncio.timeout(30):
            await child._live(settings, start)
    assert ended == ["what it had begun"]


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_a_coordinator_writes_its_journal_until_it_ends_and_lets_go_of_it(
    parent_ends: list[Callable[[], None]], tmp_path: Path
) -> None:
    path = tmp_path / "journal"

    async def start(
        settings: CoordinatorSettings, system: ActorSystem, ending: AsyncExitStack
    ) -> None:
        await coordinator.start(settings, system, ending)
        assert path.exists()
        parent_ends[0]()

    async with open_system("launcher", "127.0.0.1", 0, "t") as system:
        settings = CoordinatorSettings(
            name="coordinator",
            host="127.0.0.1",
            token="t",
            parent=system.local_ref("launcher"),
            config=Config(),
            journal=str(path),
        )
        async with asyncio.timeout(30):
            await child._live(settings, start)
    assert names_in(tmp_path) == ["journal"]
    Journal.open(path).close()
