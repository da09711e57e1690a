"""A node between a played coordinator and worker processes that a test scripts."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs

from actors.kernel.ref import ANY, Ref
from actors.kernel.supervision import TEMPORARY, Down
from actors.messages import (
    MAX_REASON,
    Cancel,
    GetPipelineLoad,
    JoinNode,
    JoinRefused,
    LeaveNow,
    LogLine,
    OpenPipeline,
    PipelineDegraded,
    PipelineLoadReport,
    PipelineLost,
    PipelineOpen,
    StageSpec,
    StartWorker,
    StopWorker,
    Welcome,
    WorkerDown,
    WorkerUp,
)
from actors.node import COORDINATOR_GRACE_S, WORKER_GRACE_S, NodeActor
from tests.support.actor_worlds import Played, World, on_virtual_time, settle
from tests.support.stopping import stop_actor
from transport.codec import Message

WELCOME = Welcome(epoch=0)


class ScriptedProcess:
    """A worker process: it ends when a test says so, or after it was asked to."""

    def __init__(self, pid: int, on_line: Callable[[str], None]) -> None:
        self.pid = pid
        self.write = on_line
        self.graces: list[float] = []
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def wait(self) -> str:
        return await asyncio.shield(self._ended)

    async def stop(self, grace_s: float) -> None:
        self.graces.append(grace_s)
        await asyncio.sleep(0.01)
        self.end("exit status 0")

    def end(self, how: str) -> None:
        if not self._ended.done():
            self._ended.set_result(how)


class Launching:
    """Starts scripted processes, and fails or takes its time if told to."""

    def __init__(self) -> None:
        self.processes: list[ScriptedProcess] = []
        self.wanted: list[StartWorker] = []
        self.errors: list[OSError] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def __call__(
        self, wanted: StartWorker, on_line: Callable[[str], None]
    ) -> ScriptedProcess:
        self.wanted.append(wanted)
        await self.may_go_on.wait()
        if self.errors:
            raise self.errors.pop()
        process = ScriptedProcess(100 + len(self.processes), on_line)
        self.processes.append(process)
        return process


class Machine:
    """A node at work in a process of its own, under the eyes of a played neighbour."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.start_worker = Launching()
        self.coordinator: Played
        self.ref: Ref
        self.neighbour = Played()
        self.has_left = asyncio.Event()

    async def open(self, answer: Message | None, *, forwards_logs: bool) -> None:
        """Begin, with this answer to its offer; with None nobody answers."""
        self.coordinator = await self.world.play("coordinator")
        self.coordinator.answers[JoinNode] = lambda join: answer
        self.coordinator.postponed |= {JoinNode: []} if answer is None else {}
        self.system = await self.world.open("node-a")
        join = JoinNode(
            node="a",
            ref=self.system.local_ref("node"),
            devices=("cpu",),
            num_cores=8,
            version="1",
        )
        coordinator = structs.replace(self.coordinator.ref, incarnation=ANY, generation=ANY)
        node = NodeActor(
            join,
            coordinator,
            self.start_worker,
            forwards_logs=forwards_logs,
            on_leave=self.has_left.set,
        )
        neighbour = self.system.spawn(self.neighbour, name="neighbour")
        self.ref = self.system.spawn(node, name="node", supervision=TEMPORARY)
        self.system.watch(neighbour, self.ref)
        await self.coordinator.hears(JoinNode)
        await settle()

    def order(self, message: Message) -> None:
        self.coordinator.tell(self.ref, message)

    async def start(self, worker: str = "w") -> ScriptedProcess:
        """Have a worker started, and its process."""
        before = len(self.start_worker.processes)
        self.order(StartWorker(worker=worker, device="cpu", num_threads=2))
        await settle()
        return self.start_worker.processes[before]

    def report(self, worker: str, pid: int) -> None:
        """Let a worker tell its node that it is up."""
        ref = self.neighbour.ref
        self.neighbour.tell(
            self.ref,
            WorkerUp(
                worker=worker,
                ref=ref,
                pid=pid,
                device="cpu",
                device_name="scripted",
                memory_bytes=1,
                flops_per_s=1.0,
                bytes_per_s=1.0,
                layer_overhead_s=0.0,
            ),
        )

    async def ups(self) -> list[int]:
        """The processes that the coordinator was told of."""
        await settle()
        return [up.pid for up in self.coordinator.all_of(WorkerUp)]


async def machine(
    world: World, answer: Message | None = WELCOME, *, forwards_logs: bool = False
) -> Machine:
    opened = Machine(world)
    await opened.open(answer, forwards_logs=forwards_logs)
    return opened


# --- joining


@on_virtual_time
async def test_it_offers_what_it_has(world: World) -> None:
    node = await machine(world)
    join = await node.coordinator.hears(JoinNode)
    assert (join.node, join.devices, join.num_cores) == ("a", ("cpu",), 8)
    assert node.neighbour.all_of(Down) == []


@on_virtual_time
async def test_it_ends_with_the_reason_for_which_it_was_refused(world: World) -> None:
    node = await machine(world, JoinRefused(reason="a node named 'a' is here already"))
    down = await node.neighbour.hears(Down)
    assert down.text == "NodeRefused: a node named 'a' is here already"


@on_virtual_time
async def test_it_ends_when_nobody_answers_its_offer(world: World) -> None:
    node = await machine(world, None)
    assert "AskTimeout" in (await node.neighbour.hears(Down)).text


@on_virtual_time
async def test_it_serves_on_without_a_coordinator_and_offers_what_lives_to_the_next(
    world: World,
) -> None:
    node = await machine(world)
    process, other = await node.start(), await node.start("other")
    node.report("w", process.pid)
    node.report("other", other.pid)
    await settle()
    world.lose("coordinator")
    other.end("killed by signal 9")
    await settle(COORDINATOR_GRACE_S / 2)
    assert process.graces == []
    successor = await world.play("coordinator")
    successor.answers[JoinNode] = lambda join: WELCOME
    join = await successor.hears(JoinNode)
    assert (join.node, [(up.worker, up.pid) for up in join.workers]) == ("a", [("w", 100)])
    await settle(2 * COORDINATOR_GRACE_S)
    assert node.neighbour.all_of(Down) == []
    assert len(successor.all_of(JoinNode)) == 1
    world.lose("coordinator")
    assert "the coordinator was lost" in (await node.neighbour.hears(Down)).text


@on_virtual_time
async def test_it_ends_and_stops_its_workers_when_no_coordinator_comes_back(world: World) -> None:
    node = await machine(world)
    process = await node.start()
    world.lose("coordinator")
    await settle(COORDINATOR_GRACE_S / 2)
    assert node.neighbour.all_of(Down) == []
    down = await node.neighbour.hears(Down)
    assert "the coordinator was lost" in down.text
    assert process.graces == [WORKER_GRACE_S]


@on_virtual_time
async def test_it_ends_when_the_next_coordinator_does_not_want_it(world: World) -> None:
    node = await machine(world)
    process = await node.start()
    world.lose("coordinator")
    successor = await world.play("coordinator")
    successor.answers[JoinNode] = lambda join: JoinRefused(reason="it is not in the plan")
    down = await node.neighbour.hears(Down)
    assert down.text == "NodeRefused: it is not in the plan"
    assert process.graces == [WORKER_GRACE_S]


@on_virtual_time
async def test_it_ends_at_once_when_its_coordinator_stops_in_order(world: World) -> None:
    node = await machine(world)
    process = await node.start()
    node.coordinator.context.stop()
    node.coordinator.tell(node.coordinator.ref, WELCOME)
    down = await node.neighbour.hears(Down)
    assert "the coordinator ended" in down.text
    assert process.graces == [WORKER_GRACE_S]


@on_virtual_time
async def test_it_leaves_when_it_is_told_to(world: World) -> None:
    node = await machine(world)
    await node.start()
    assert not node.has_left.is_set()
    node.order(LeaveNow())
    await settle()
    assert node.has_left.is_set()


# --- workers


@on_virtual_time
async def test_a_worker_is_started_as_it_was_wanted_and_its_news_passed_on(world: World) -> None:
    node = await machine(world)
    process = await node.start()
    assert node.start_worker.wanted == [StartWorker(worker="w", device="cpu", num_threads=2)]
    node.report("w", process.pid)
    assert await node.ups() == [100]
    process.end("killed by signal 9; its last line: loading")
    down = await node.coordinator.hears(WorkerDown)
    assert down == WorkerDown(
        worker="w", pid=100, reason="killed by signal 9; its last line: loading"
    )


@on_virtual_time
async def test_a_worker_that_is_up_before_its_start_is_done_is_told_of(world: World) -> None:
    node = await machine(world)
    node.start_worker.may_go_on.clear()
    node.order(StartWorker(worker="w", device="cpu", num_threads=2))
    await settle()
    node.report("w", 100)
    assert await node.ups() == [100]


@on_virtual_time
async def test_a_worker_that_nobody_wanted_is_not_told_of(world: World) -> None:
    node = await machine(world)
    node.report("unknown", 1)
    assert await node.ups() == []


@on_virtual_time
async def test_late_news_of_a_life_that_has_ended_is_not_told(world: World) -> None:
    """The coordinator would take the dead process for the one that has its name now."""
    node = await machine(world)
    (await node.start()).end("killed by signal 9")
    await node.coordinator.hears(WorkerDown)
    node.report("w", 100)
    second = await node.start()
    node.report("w", 100)
    assert await node.ups() == []
    node.report("w", second.pid)
    assert await node.ups() == [101]


@on_virtual_time
async def test_a_worker_that_is_here_is_not_started_twice(world: World) -> None:
    node = await machine(world)
    process = await node.start()
    node.order(StartWorker(worker="w", device="cpu", num_threads=2))
    await settle()
    assert node.start_worker.processes == [process]
    process.end("exit status 0")
    await node.coordinator.hears(WorkerDown)
    await node.start()
    assert len(node.start_worker.processes) == 2


@on_virtual_time
async def test_a_worker_that_is_here_already_is_told_of_again_to_whoever_wants_it(
    world: World,
) -> None:
    node = await machine(world)
    process = await node.start()
    node.report("w", process.pid)
    assert await node.ups() == [100]
    node.order(StartWorker(worker="w", device="cpu", num_threads=2))
    assert await node.ups() == [100, 100]


@on_virtual_time
async def test_a_process_that_cannot_be_started_is_a_worker_that_ended(world: World) -> None:
    node = await machine(world)
    node.start_worker.errors = [OSError("cannot allocate memory")]
    node.order(StartWorker(worker="w", device="cpu", num_threads=2))
    down = await node.coordinator.hears(WorkerDown)
    reason = "its process did not start: cannot allocate memory"
    assert down == WorkerDown(worker="w", pid=0, reason=reason)
    await node.start()
    assert node.neighbour.all_of(Down) == []


@on_virtual_time
async def test_an_end_with_very_long_last_words_is_told_all_the_same(world: World) -> None:
    node = await machine(world)
    (await node.start()).end("exit status 1; its last line: " + "x" * 100_000)
    down = await node.coordinator.hears(WorkerDown)
    assert down.reason.startswith("exit status 1; its last line: xxx")
    assert len(down.reason) == MAX_REASON


@on_virtual_time
async def test_a_worker_is_stopped_with_a_grace_and_its_end_is_told_once(world: World) -> None:
    node = await machine(world)
    process, other = await node.start(), await node.start("other")
    node.order(StopWorker(worker="w"))
    await node.coordinator.hears(WorkerDown)
    node.order(StopWorker(worker="w"))
    await settle()
    assert (process.graces, other.graces) == ([WORKER_GRACE_S], [])
    assert [down.worker for down in node.coordinator.all_of(WorkerDown)] == ["w"]


@on_virtual_time
async def test_an_order_to_stop_an_unknown_worker_changes_nothing(world: World) -> None:
    node = await machine(world)
    process = await node.start()
    node.order(StopWorker(worker="unknown"))
    node.order(Cancel(request="r"))
    await settle()
    assert process.graces == []
    assert node.neighbour.all_of(Down) == []


@pytest.mark.parametrize("how", ["stop", "drain"])
@on_virtual_time
async def test_all_workers_are_stopped_when_the_node_ends(world: World, how: str) -> None:
    node = await machine(world)
    processes = [await node.start(f"w{n}") for n in range(3)]
    if how == "stop":
        await stop_actor(node.system, "node")
    else:
        await node.system.drain("node", timeout_s=1)
    assert [process.graces for process in processes] == [[WORKER_GRACE_S]] * 3
    assert (await node.neighbour.hears(Down)).reason == "shutdown"


# --- lines


@pytest.mark.parametrize("forwards", [True, False])
@on_virtual_time
async def test_lines_are_passed_on_only_where_it_is_asked_for(world: World, forwards: bool) -> None:
    node = await machine(world, forwards_logs=forwards)
    process = await node.start()
    process.write("loading")
    process.write("y" * 100_000)
    await settle()
    expected = [LogLine(source="w", line=line) for line in ("loading", "y" * MAX_REASON)]
    assert node.coordinator.all_of(LogLine) == (expected if forwards else [])


# --- pipelines


def opening(*stages: Ref, epoch: int = 1) -> OpenPipeline:
    sizes: dict[str, Any] = {"num_blocks": 8, "block_tokens": 4, "max_running": 2, "max_waiting": 2}
    return OpenPipeline(
        epoch=epoch,
        pipeline="0",
        stages=tuple(
            StageSpec(
                ref=ref,
                start=number,
                end=number + 1,
                kept_start=0,
                kept_end=0,
                num_logged_blocks=0,
                keeps_log=False,
            )
            for number, ref in enumerate(stages)
        ),
        max_step_tokens=8,
        max_model_len=16,
        step_deadline_s=5.0,
        recovery_timeout_s=20.0,
        takes_over=False,
        **sizes,
    )


async def ask(node: Machine, ref: Ref, message: Message) -> Message:
    return await node.coordinator.context.ask(ref, message, timeout_s=5)


@on_virtual_time
async def test_a_pipeline_opens_here_and_is_at_work_at_once(world: World) -> None:
    node = await machine(world)
    stage = await world.play("stage")
    answer = await ask(node, node.ref, opening(stage.ref))
    assert isinstance(answer, PipelineOpen)
    assert (answer.epoch, answer.pipeline, answer.ref.name) == (1, "0", "pipeline-0-1")
    load = await ask(node, answer.ref, GetPipelineLoad())
    assert isinstance(load, PipelineLoadReport)
    assert (load.pipeline, load.num_blocks) == ("0", 8)


@on_virtual_time
async def test_a_pipeline_that_ends_is_told_of_and_the_node_goes_on(world: World) -> None:
    node = await machine(world)
    stage = await world.play("stage")
    await ask(node, node.ref, opening(stage.ref))
    world.lose("stage")
    degraded = await node.coordinator.hears(PipelineDegraded)
    assert degraded.reason == "stage 0 of pipeline 0 was lost (no_connection)"
    own = await node.coordinator.hears(PipelineLost)
    assert own.reason == "stage 0 of pipeline 0 was lost; nothing replaced it within 20 s"
    nodes = await node.coordinator.hears(PipelineLost, 2)
    assert (nodes.epoch, nodes.pipeline) == (1, "0")
    other = await world.play("another stage")
    answer = await ask(node, node.ref, opening(other.ref, epoch=2))
    assert isinstance(answer, PipelineOpen)
    assert node.neighbour.all_of(Down) == []


@on_virtual_time
async def test_a_pipeline_that_fails_is_told_of_though_its_words_are_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("z" * 100_000)

    monkeypatch.setattr("actors.pipeline.PipelineActor._on_cancel", fail)
    node = await machine(world)
    stage = await world.play("stage")
    answer = await ask(node, node.ref, opening(stage.ref))
    assert isinstance(answer, PipelineOpen)
    node.coordinator.tell(answer.ref, Cancel(request="r"))
    lost = await node.coordinator.hears(PipelineLost)
    assert lost.reason.startswith("its actor ended (error) RuntimeError: zzz")
    assert node.neighbour.all_of(Down) == []
