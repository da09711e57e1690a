import asyncio
import io
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from actors.kernel.ref import Ref
from runtime import lives, network
from runtime.announcer import Announcer
from runtime.config import ClusterSettings, Config, HttpSettings
from runtime.launcher_actor import LauncherActor
from runtime.lives import JOURNAL, Lives, journal_path
from runtime.network import free_port

PARENT = Ref("tcp://127.0.0.1:1", 1, "launcher")
COORDINATOR = Ref("tcp://127.0.0.1:7001", 5, "coordinator")


class Launcher(LauncherActor):
    """Knows one coordinator from the beginning."""

    def __init__(self) -> None:
        announcer = Announcer(Console(file=io.StringIO()))
        super().__init__(announcer, lambda _: None, shows_other_nodes=True)

    async def wait_coordinator(self) -> Ref:
        return COORDINATOR


def service(port: int = 0, http_port: int = 0) -> Lives:
    config = Config(cluster=ClusterSettings(port=port), http=HttpSettings(port=http_port))
    return Lives(
        launcher=Launcher(),
        parent=PARENT,
        config=config,
        token="t",
        node_id="n",
        journal=Path("/somewhere/journal"),
    )


@pytest.fixture
def held() -> Iterator[socket.socket]:
    """A port that somebody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


async def test_a_coordinator_begins_at_the_configured_port_and_later_where_the_first_was() -> None:
    port = free_port("127.0.0.1")
    begun = service()
    assert (await begun.coordinator()).port == 0
    begun.coordinator_ref = Ref(f"tcp://127.0.0.1:{port}", 1, "coordinator")
    for _ in range(2):
        again = await begun.coordinator()
        assert (again.port, again.journal) == (port, "/somewhere/journal")
    begun.coordinator_ref = Ref(f"tcp://[::1]:{port}", 1, "coordinator")
    assert (await begun.coordinator()).port == port


async def test_gateway_and_node_are_given_the_coordinator_there_is_now() -> None:
    begun = service(http_port=free_port("127.0.0.1"))
    gateway, node = await begun.gateway(), await begun.node()
    assert gateway.coordinator == node.coordinator == COORDINATOR
    assert gateway.config.http == begun.config.http
    assert node.node == "n"


async def test_a_life_waits_until_the_port_of_the_former_one_is_free(
    held: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, look = asyncio.Event(), network.why_not_bindable

    def looks(host: str, port: int) -> str | None:
        looked.set()
        return look(host, port)

    monkeypatch.setattr(lives, "why_not_bindable", looks)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        preparing = tasks.create_task(service(http_port=held.getsockname()[1]).gateway())
        await looked.wait()
        assert not preparing.done()
        held.close()


async def test_a_port_that_stays_taken_is_left_to_the_child_to_tell_of(
    held: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lives, "PORT_RETRY_S", 0.001)
    port = held.getsockname()[1]
    assert (await service(port=port).coordinator()).port == port


def test_a_journal_is_where_the_operator_wants_it_else_in_this_launchs_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = Config(cluster=ClusterSettings(journal="mine.journal"))
    assert journal_path(named, Path("/scratch")) == tmp_path / "mine.journal"
    assert journal_path(Config(), Path("/scratch")) == Path("/scratch") / JOURNAL
