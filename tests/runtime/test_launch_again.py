"""Services of real processes, whose processes are killed one by one."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.journal import Journal
from tests.support.services import STOP_TIMEOUT_S, Client, Launched, descendants, is_alive, launched

TOKEN = "a-token-for-the-tests"
ROLES = ("coordinator", "gateway", "node")


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where launchers keep what they must not leave behind."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@contextlib.contextmanager
def service(*arguments: str) -> Iterator[tuple[Client, Launched]]:
    stages = ["--stages", "1", "--port", "0", "--token", TOKEN]
    with launched("--model", "demo", *stages, *arguments) as running:
        yield Client(running.wait_line(r"^ready (http://\S+) ")[1]), running


def until(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, what
        threading.Event().wait(0.02)


def role_of(pid: int) -> str:
    """The role a process of a service plays; none if it is gone or not one of them."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return words[3].decode() if words[1:3] == [b"-m", b"runtime.process"] else ""


def parent_of(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def pid_of(running: Launched, role: str) -> int:
    """The process that plays a role, once it is there.

    What a process starts bears its name for a moment, so that only the launcher's own count.
    """
    launcher, found = running.process.pid, list[int]()

    def look() -> bool:
        own = [pid for pid in descendants(launcher) if parent_of(pid) == launcher]
        found[:] = [pid for pid in own if role_of(pid) == role]
        return bool(found)

    until(look, f"no {role} in\n" + "\n".join(running.lines[-20:]))
    return found[0]


def kill(running: Launched, role: str) -> int:
    pid = pid_of(running, role)
    os.kill(pid, signal.SIGKILL)
    return pid


def num_again(running: Launched, role: str) -> int:
    return sum(line.startswith(f"{role} ended (") for line in running.lines)


def wait_again(running: Launched, role: str, times: int = 1) -> None:
    until(
        lambda: num_again(running, role) >= times or running.process.poll() is not None,
        f"no {role} for the {times}. time",
    )


def last_line(running: Launched) -> str:
    """The last line of a launch that failed."""
    assert running.process.wait(STOP_TIMEOUT_S) == 1
    running.wait_line("^<end>$")
    return running.lines[-2]


def is_listed(client: Client, node: str) -> bool:
    with contextlib.suppress(OSError):
        return node in client.get("/admin/status")[1]["nodes"]
    return False


def test_a_killed_gateway_answers_again_at_its_port_with_the_same_text(scratch: Path) -> None:
    with service() as (client, running):
        assert list(scratch.glob("remuda-*"))
        expected = client.complete("The", max_tokens=8)["choices"]
        for times in range(1, 3):
            former = kill(running, "gateway")
            wait_again(running, "gateway", times)
            assert pid_of(running, "gateway") != former
            until(lambda: is_listed(client, "local"), "the gateway does not answer")
            client.wait_until(lambda: client.get("/health")[0] == 200)
            assert client.complete("The", max_tokens=8)["choices"] == expected
        running.wait_line(r"^gateway ended \(killed by signal 9\); started again$")
        assert running.stop() == 0
    assert not list(scratch.glob("remuda-*"))


def test_a_killed_node_takes_its_stage_along_and_serves_again() -> None:
    with service() as (client, running):
        (stage,) = client.stages()
        kill(running, "node")
        wait_again(running, "node")
        client.wait_until(lambda: [s["pid"] for s in client.stages()] not in ([stage["pid"]], [0]))
        client.wait_until(lambda: client.get("/health")[0] == 200)
        assert not is_alive(stage["pid"])
        assert client.complete("The", max_tokens=4)["usage"]["completion_tokens"] == 4


def test_a_killed_coordinator_is_back_at_its_address_with_its_nodes() -> None:
    with service() as (_, running):
        address = running.wait_line(r"^cluster address (\S+)$")[1]
        for times in range(1, 3):
            kill(running, "coordinator")
            wait_again(running, "coordinator", times)
        with launched("--join", address, "--token", TOKEN, "--node-id", "other") as joined:
            joined.wait_line("^node other is in the cluster$")


def test_a_role_that_is_killed_too_often_ends_the_launch_with_the_reason(scratch: Path) -> None:
    with service() as (_, running):
        processes = descendants(running.process.pid)
        for times in range(1, 6):
            kill(running, "gateway")
            wait_again(running, "gateway", times)
        kill(running, "gateway")
        expected = r"^error: the gateway ended by itself: killed by signal 9.*"
        last = last_line(running)
        running.wait_line(expected + "; 5 restarts in 60 s did not help$")
        assert last.startswith("error: ")
        assert num_again(running, "gateway") == 5
        assert not [pid for pid in processes if is_alive(pid)]
    assert not list(scratch.glob("remuda-*"))


@pytest.mark.parametrize("role", ROLES)
def test_before_it_is_ready_a_death_ends_the_launch_with_the_reason(role: str) -> None:
    arguments = ["--set", "cluster.num_nodes=2", "--port", "0"]
    with launched(*arguments) as running:
        running.wait_line("^waiting for 1 more node$")
        kill(running, role)
        assert last_line(running).startswith(
            f"error: the {role} ended by itself: killed by signal 9"
        )


def test_a_damaged_journal_ends_the_launch_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.journal"
    path.write_bytes(b"no journal at all " * 100)
    with launched("--port", "0", "--set", f"cluster.journal={path}") as running:
        assert f"error: journal {path} is damaged: " in last_line(running)
    assert path.read_bytes() == b"no journal at all " * 100


def test_a_journal_of_the_operators_stays_after_the_launch(tmp_path: Path) -> None:
    path = tmp_path / "mine.journal"
    with service("--set", f"cluster.journal={path}") as (_, running):
        assert running.stop() == 0
    Journal.open(path).close()


@pytest.mark.parametrize("role", ROLES)
def test_a_stop_while_a_process_is_missed_leaves_nothing(role: str, scratch: Path) -> None:
    with service() as (_, running):
        processes = descendants(running.process.pid)
        kill(running, role)
        assert running.stop() == 0
        until(lambda: not [pid for pid in processes if is_alive(pid)], "some are left")
    assert not list(scratch.glob("remuda-*"))


@pytest.mark.parametrize("role", ROLES)
def test_a_stop_while_a_process_starts_again_leaves_nothing(role: str, scratch: Path) -> None:
    with service() as (_, running):
        kill(running, role)
        wait_again(running, role)
        processes = descendants(running.process.pid)
        assert running.stop() == 0
        assert not [pid for pid in processes if is_alive(pid)]
        running.wait_line("^<end>$")
        assert running.lines[-2] == "stopping"
    assert not list(scratch.glob("remuda-*"))


def test_a_second_signal_in_the_middle_of_a_restart_stops_at_once(scratch: Path) -> None:
    with service() as (client, running):
        os.kill(client.stages()[0]["pid"], signal.SIGSTOP)  # one that would not stop in order
        kill(running, "gateway")
        wait_again(running, "gateway")
        processes = descendants(running.process.pid)
        running.process.send_signal(signal.SIGINT)
        running.wait_line("^stopping")
        running.process.send_signal(signal.SIGINT)
        running.wait_line("^the node did not stop in order: killed by signal 9")
        running.process.wait(STOP_TIMEOUT_S)
        until(lambda: not [pid for pid in processes if is_alive(pid)], "some are left")
    assert not list(scratch.glob("remuda-*"))


def test_a_node_that_is_refused_ends_its_launch_and_one_that_died_does_not() -> None:
    with service() as (client, running):
        address = running.wait_line(r"^cluster address (\S+)$")[1]
        join = ["--join", address, "--token", TOKEN, "--node-id"]
        with launched(*join, "local") as refused:
            expected = "a node named 'local' is here already"
            assert last_line(refused).endswith(expected)
            assert num_again(refused, "node") == 0
        with launched(*join, "other") as joined:
            joined.wait_line("^node other is in the cluster$")
            kill(joined, "node")
            wait_again(joined, "node")
            joined.wait_line(r"^node ended \(killed by signal 9\); started again$")
            client.wait_until(lambda: is_listed(client, "other"))
            assert running.stop() == 0
            assert last_line(joined) == "error: the service was stopped"
