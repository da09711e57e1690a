"""A node with real worker processes: what ends them, and how the coordinator learns of it."""

import asyncio
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.child_process import ChildProcess
from actors.messages import JoinNode, LogLine, StartWorker, StopWorker, Welcome, WorkerDown
from actors.node import NodeActor
from tests.support.actor_worlds import Played, World, play_with
from tests.support.stopping import stop_actor

CHILD = """
import subprocess, sys
settings = sys.stdin.readline()
if sys.argv[1] == "parent":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("up", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "worker_under_test.py").write_text(CHILD, encoding="utf-8")
    return {"PYTHONPATH": str(tmp_path)}


class Machine:
    """A node whose workers are processes, and the coordinator that a test plays."""

    def __init__(self, world: World, environment: dict[str, str]) -> None:
        self._world = world
        self._environment = environment
        self.processes: list[ChildProcess] = []
        self.coordinator: Played

    async def open(self) -> None:
        self.coordinator = await self._world.play("coordinator")
        self.coordinator.answers[JoinNode] = lambda join: Welcome(epoch=0)
        self.system = await self._world.open("node-a")
        ref = self.system.local_ref("node")
        join = JoinNode(node="a", ref=ref, devices=("cpu",), num_cores=1, version="1")
        node = NodeActor(
            join, self.coordinator.ref, self._start, forwards_logs=True, on_leave=lambda: None
        )
        self.node = self.system.spawn(node, name="node")

    async def _start(self, wanted: StartWorker, on_line: Callable[[str], None]) -> ChildProcess:
        process = await ChildProcess.start(
            "worker_under_test",
            wanted.worker,
            {},
            on_line=on_line,
            environment=self._environment,
        )
        self.processes.append(process)
        return process

    async def start(self, worker: str = "alone") -> ChildProcess:
        """Have a worker started, and wait until it writes that it is up."""
        before = len(self.coordinator.all_of(LogLine))
        start = StartWorker(worker=worker, device="cpu", num_threads=1)
        self.coordinator.tell(self.node, start)
        assert (await self.coordinator.hears(LogLine, before + 1)).line == "up"
        return self.processes[-1]

    async def hears_end(self) -> WorkerDown:
        async with asyncio.timeout(30):
            return await self.coordinator.hears(WorkerDown)


async def machine(world: World, environment: dict[str, str]) -> Machine:
    opened = Machine(world, environment)
    await opened.open()
    return opened


async def test_a_killed_process_is_told_of_with_its_signal(environment: dict[str, str]) -> None:
    async def scenario(world: World) -> None:
        node = await machine(world, environment)
        process = await node.start()
        os.kill(process.pid, signal.SIGKILL)
        reason = "killed by signal 9; its last line: up"
        assert await node.hears_end() == WorkerDown(worker="alone", pid=process.pid, reason=reason)

    await play_with(random.Random(0), scenario)


async def test_a_stopped_process_ends_and_another_may_start(environment: dict[str, str]) -> None:
    async def scenario(world: World) -> None:
        node = await machine(world, environment)
        first = await node.start()
        node.coordinator.tell(node.node, StopWorker(worker="alone"))
        assert (await node.hears_end()).reason.startswith("killed by signal 15")
        assert (await node.start()).pid != first.pid

    await play_with(random.Random(0), scenario)


async def test_no_process_outlives_its_node(environment: dict[str, str]) -> None:
    async def scenario(world: World) -> None:
        node = await machine(world, environment)
        processes = [await node.start(name) for name in ("one", "two")]
        await stop_actor(node.system, "node")
        for process in processes:
            assert "killed by signal 15" in await process.wait()
            with pytest.raises(ProcessLookupError):
                os.kill(process.pid, 0)

    await play_with(random.Random(0), scenario)


async def test_the_end_of_a_process_is_told_though_its_own_child_lives_on(
    environment: dict[str, str],
) -> None:
    """The grandchild holds the output open, so the end of that says nothing."""

    async def scenario(world: World) -> None:
        node = await machine(world, environment)
        process = await node.start("parent")
        os.kill(process.pid, signal.SIGKILL)
        assert (await node.hears_end()).reason.startswith("killed by signal 9")

    await play_with(random.Random(0), scenario)
