import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from actors.cluster import MAX_FAILURES
from actors.kernel.virtual_time import run
from actors.messages import JoinNode, JoinRefused
from actors.placement import ServiceSettings, StageWish
from actors.router import NoPipeline, QueueIsFull
from tests.actors.emulated_pipeline import request
from tests.actors.emulated_service import Service, service, settings

Scenario = Callable[[Service], Coroutine[Any, Any, None]]


def simulate(
    scenario: Scenario, wanted: ServiceSettings | None = None, *, seed: int = 0, **wire: float
) -> None:
    async def main(rng: random.Random) -> None:
        async with service(rng, wanted, **wire) as world:
            await scenario(world)

    run(main, seed=seed)


async def ready(world: Service) -> None:
    await world.until(lambda world: world.is_ready)


THREE_NODES = settings(wait_nodes=("a", "b", "c"), num_stages=3)


@pytest.mark.parametrize("seed", range(3))
def test_three_nodes_serve_one_pipeline_over_a_wire_that_loses_and_doubles(seed: int) -> None:
    async def scenario(world: Service) -> None:
        for name in ("a", "b", "c"):
            await world.start_node(name)
        await ready(world)
        plan = world.router.plan
        assert plan is not None
        assert [stage.node for stage in plan.pipelines[0].stages] == ["a", "b", "c"]
        assert Counter(await world.generate_many(20)) == {"right": 20}

    simulate(scenario, THREE_NODES, seed=seed, loss=0.05, duplication=0.05)


def test_until_every_node_is_there_it_says_who_is_missing_and_serves_nothing() -> None:
    async def scenario(world: Service) -> None:
        await world.start_node("b")
        await world.until(lambda world: world.router.plan is not None)
        await asyncio.sleep(1)
        assert world.router.not_ready_reason() == "waiting for node a; waiting for node c"
        assert not world.workers
        with pytest.raises(NoPipeline, match="waiting for node a"):
            world.router.open(request("r", [1], 1))

    simulate(scenario, THREE_NODES)


def test_nodes_that_join_while_stages_start_have_no_stage_started_twice() -> None:
    async def scenario(world: Service) -> None:
        for name in ("a", "b", "c", "d"):
            await world.start_node(name)
        await ready(world)
        assert Counter(worker.name for worker in world.workers).most_common(1)[0][1] == 1

    simulate(scenario, settings(num_nodes=2))


@pytest.mark.parametrize(
    ("node", "reason"),
    [("a", "a node named 'a' is here already"), ("z", "node 'z' is not in the plan; it has: a, b")],
)
def test_a_node_that_has_no_place_is_refused(node: str, reason: str) -> None:
    async def scenario(world: Service) -> None:
        await world.start_node("a")
        stranger = await world.start_process("stranger")
        await asyncio.sleep(1)
        join = JoinNode(
            node=node, ref=stranger.local_ref("x"), devices=("cpu",), num_cores=1, version="1"
        )
        answer = await stranger.ask(world.coordinator, join, timeout_s=10)
        assert isinstance(answer, JoinRefused)
        assert reason in answer.reason

    simulate(scenario, THREE_NODES)


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("num_spares", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_a_killed_worker_is_replaced_and_every_stream_goes_on(
    stage: int, num_spares: int, seed: int
) -> None:
    async def scenario(world: Service) -> None:
        await world.start_node("local")
        await ready(world)
        await world.until(lambda world: len(world.workers) == 3 + num_spares)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(12))
            await asyncio.sleep(0.3)
            world.living(f"local/stage-0.{stage}").die()
        assert Counter(running.result()) == {"right": 12}
        assert any(note.startswith(f"recovered stage={stage} gap_ms=") for note in world.notes)
        await ready(world)
        assert Counter(await world.generate_many(5, "again")) == {"right": 5}

    simulate(scenario, settings(num_stages=3, num_spares=num_spares), seed=seed)


def test_a_worker_that_hangs_is_ended_and_started_again() -> None:
    async def scenario(world: Service) -> None:
        await world.start_node("local")
        await ready(world)
        hung = world.living("local/stage-0.1")
        for other in ("coordinator", "node-local", world.living("local/stage-0.0").address):
            world.network.partition(hung.address, other)
        assert await world.generate("r", [1, 2], 5) == "right"
        hung.die()  # what the node's force does to a process that does not end by itself
        await world.until(lambda world: len(world.workers) == 3)
        for other in ("coordinator", "node-local", world.living("local/stage-0.0").address):
            world.network.heal(hung.address, other)
        await ready(world)
        assert await world.generate("again", [1, 2], 5) == "right"

    simulate(scenario)


def test_a_stage_that_cannot_load_ends_the_launch_with_its_reason() -> None:
    async def scenario(world: Service) -> None:
        await world.start_node("local")
        await world.until(lambda world: world.failure is not None)
        assert world.failure is not None
        assert "on node local could not start: no such folder: missing" in world.failure

    simulate(scenario, settings(model="missing"))


def test_a_worker_that_ends_before_it_ever_served_ends_the_launch() -> None:
    async def scenario(world: Service) -> None:
        await world.start_node("local")
        await world.until(lambda world: len(world.workers) == 2)
        world.workers[1].die("exit status 1; its last line: no torch here")
        await world.until(lambda world: world.failure is not None)
        assert world.failure is not None
        assert "stage 1 on node local could not start: exit status 1" in world.failure

    simulate(scenario)


def test_a_stage_that_is_lost_again_and_again_ends_the_launch() -> None:
    async def scenario(world: Service) -> None:
        await world.start_node("local")
        for _ in range(MAX_FAILURES - 1):
            await ready(world)
            world.living("local/stage-0.0").die()
            await world.until(lambda world: not world.is_ready)
        await ready(world)
        assert world.failure is None
        world.living("local/stage-0.0").die()
        await world.until(lambda world: world.failure is not None)
        assert f"{MAX_FAILURES} attempts in a row did not help" in str(world.failure)

    simulate(scenario)


@pytest.mark.parametrize("lost", ["a", "b", "c"])
@pytest.mark.parametrize("seed", range(3))
def test_a_node_that_is_lost_leaves_its_layers_to_the_others(lost: str, seed: int) -> None:
    async def scenario(world: Service) -> None:
        for name in ("a", "b", "c"):
            await world.start_node(name)
        await ready(world)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(8))
            await asyncio.sleep(0.2)
            world.kill_node(lost)
        assert Counter(running.result()) == {"right": 8}
        await ready(world)
        plan = world.router.plan
        assert plan is not None
        left = [name for name in ("a", "b", "c") if name != lost]
        assert [stage.node for stage in plan.pipelines[0].stages] == left
        await world.start_node(lost)
        assert Counter(await world.generate_many(8, "again")) == {"right": 8}

    simulate(scenario, THREE_NODES, seed=seed)


def test_when_no_node_is_left_requests_wait_for_one_to_come_back() -> None:
    async def scenario(world: Service) -> None:
        await world.start_node("local")
        await ready(world)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(8))
            await asyncio.sleep(0.2)
            world.kill_node("local")
            await world.until(
                lambda world: world.router.not_ready_reason() == "waiting for node local"
            )
            late = group.create_task(world.generate_many(3, "late"))
            await asyncio.sleep(5)
            await world.start_node("local")
        assert Counter(running.result()) == {"right": 8}
        assert Counter(late.result()) == {"right": 3}

    simulate(scenario)


def test_requests_that_no_capacity_comes_for_end_with_an_error() -> None:
    async def scenario(world: Service) -> None:
        await world.start_node("local")
        await ready(world)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(8))
            await asyncio.sleep(0.2)
            world.kill_node("local")
        assert set(running.result()) <= {"right", "no_capacity"}
        assert "no_capacity" in running.result()

    simulate(scenario)


TWO_PIPELINES = settings(
    pipelines=((StageWish(),), (StageWish(),)), max_running=2, max_waiting=2, num_stages=0
)


def test_two_pipelines_share_the_requests_and_one_serves_on_when_the_other_is_lost() -> None:
    async def scenario(world: Service) -> None:
        await world.start_node("local")
        await ready(world)
        streams = [world.router.open(request(f"r{i}", [1, 2], 3)) for i in range(8)]
        assert Counter(stream.pipeline for stream in streams) == {"0": 4, "1": 4}
        with pytest.raises(QueueIsFull):
            world.router.open(request("one too many", [1], 1))
        for stream in streams:
            await world.read_all(stream)
        world.living("local/stage-1.0").die()
        await asyncio.sleep(0.05)
        await world.until(lambda world: len(world.workers) == 3)
        assert await world.generate("after", [1, 2], 3) == "right"

    simulate(scenario, TWO_PIPELINES)


def test_a_closed_stream_is_cancelled_and_leaves_nothing_behind() -> None:
    async def scenario(world: Service) -> None:
        await world.start_node("local")
        await ready(world)
        stream = world.router.open(request("r", [1, 2], 50))
        await world.router.next(stream, 60)
        world.router.close(stream)
        world.router.close(stream)
        assert Counter(await world.generate_many(6)) == {"right": 6}

    simulate(scenario)


def test_when_the_service_stops_every_stream_ends_with_an_error() -> None:
    async def scenario(world: Service) -> None:
        await world.start_node("local")
        await ready(world)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(6))
            await asyncio.sleep(0.2)
            world.router.fail_all("stopping", "the service stops")
        ends = running.result()
        assert "stopping" in ends
        assert set(ends) <= {"stopping", "right"}

    simulate(scenario)


def trace(seed: int) -> list[tuple[float, str]]:
    """When every request ended, and how, in a service that loses a stage."""
    ends: list[tuple[float, str]] = []

    async def scenario(world: Service) -> None:
        await world.start_node("local")
        await ready(world)

        async def one(number: int) -> None:
            how = await world.generate(f"r{number}", [number, 1], 20)
            ends.append((asyncio.get_running_loop().time(), f"{number} {how}"))

        async with asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(one(number))
            await asyncio.sleep(0.4)
            world.living("local/stage-0.1").die()
        await ready(world)
        ends.append((asyncio.get_running_loop().time(), "ready"))

    simulate(scenario, seed=seed)
    return ends


def test_one_seed_gives_one_trace_and_another_seed_another() -> None:
    assert trace(1) == trace(1) != trace(2)
