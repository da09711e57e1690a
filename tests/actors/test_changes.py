"""Stages change under running requests: cut anew, more, fewer, replaced, and no token differs."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import pytest

from actors import stage_change
from actors.kernel.virtual_time import run
from actors.messages import BlocksSent, ChangePlan, DrainNode, MoveRequest, PlanReport
from actors.placement import ServiceSettings, StageWish
from actors.stage_change import move_blocks
from scheduling.plan import NodeId, PipelineId, PipelinePlan, StagePlan, WorkerId
from tests.actors.emulated_pipeline import NUM_LAYERS
from tests.actors.emulated_service import Service, service, settings

Scenario = Callable[[Service], Coroutine[Any, Any, None]]


def simulate(
    scenario: Scenario, wanted: ServiceSettings | None = None, *, seed: int = 0, **wire: float
) -> None:
    async def main(rng: random.Random) -> None:
        async with service(rng, wanted, **wire) as world:
            await world.start_node("local")
            await world.until(lambda world: world.is_ready)
            await scenario(world)

    run(main, seed=seed)


async def change(
    world: Service, *, layers: str = "", stages: int = 0, plan: bytes = b""
) -> PlanReport:
    """What the operator's command would ask."""
    wish = ChangePlan(pipeline="", layers=layers, num_stages=stages, plan=plan, is_dry_run=False)
    return await world.ask(wish)


def layers_of(world: Service) -> list[tuple[int, int]]:
    plan = world.router.plan
    assert plan is not None
    return [(stage.start, stage.end) for stage in plan.pipelines[0].stages]


@pytest.mark.parametrize("layers", ["0:1,1:6", "0:5,5:6", "0:2,2:4,4:6", "0:6"])
@pytest.mark.parametrize("seed", range(3))
def test_a_swap_under_load_changes_no_token_and_tells_its_phases(layers: str, seed: int) -> None:
    async def scenario(world: Service) -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(12))
            await asyncio.sleep(0.3)
            report = await change(world, layers=layers)
        assert (report.is_done, report.reason) == (True, "")
        phases = [phase.phase for phase in report.phases]
        assert phases == ["prepare", "copy", "pause", "delta", "commit", "release"]
        assert ",".join(f"{start}:{end}" for start, end in layers_of(world)) == layers
        assert Counter(running.result()) == {"right": 12}
        assert world.notes == []
        assert Counter(await world.generate_many(5, "again")) == {"right": 5}

    simulate(scenario, seed=seed)


def test_whoever_is_told_the_plan_sees_each_phase_of_a_swap_as_it_comes() -> None:
    async def scenario(world: Service) -> None:
        seen: list[str | None] = []

        async def watch() -> None:
            while True:
                assert world.router.plan is not None
                phase = world.router.plan.pipelines[0].phase
                if not seen or seen[-1] != phase:
                    seen.append(phase)
                await asyncio.sleep(1e-4)

        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch())
            running = group.create_task(world.generate_many(12))
            await asyncio.sleep(0.3)
            await change(world, layers="0:5,5:6")
            await running
            watching.cancel()
        assert seen == [None, "prepare", "copy", "pause", "delta", "release", None]

    simulate(scenario)


def random_split(rng: random.Random) -> str:
    cuts = sorted(rng.sample(range(1, NUM_LAYERS), rng.randint(0, 3)))
    bounds = [0, *cuts, NUM_LAYERS]
    return ",".join(f"{a}:{b}" for a, b in pairwise(bounds))


@pytest.mark.parametrize("seed", range(8))
def test_many_swaps_in_a_row_change_no_token(seed: int) -> None:
    async def scenario(world: Service) -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(40))
            for _ in range(6):
                await asyncio.sleep(world.rng.uniform(0, 0.3))
                report = await change(world, layers=random_split(world.rng))
                assert report.is_done, report.reason
        assert Counter(running.result()) == {"right": 40}

    simulate(scenario, seed=seed)


@pytest.mark.parametrize("seed", range(40))
def test_workers_that_die_while_stages_change_cost_no_token(seed: int) -> None:
    async def scenario(world: Service) -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(40))
            for _ in range(3):
                await asyncio.sleep(world.rng.uniform(0, 0.3))
                changing = group.create_task(change(world, layers=random_split(world.rng)))
                await asyncio.sleep(world.rng.uniform(0, 0.1))
                world.rng.choice([w for w in world.workers if w.is_alive]).die()
                await changing
                await world.until(lambda world: world.is_ready)
                await asyncio.sleep(2)
        assert Counter(running.result()) == {"right": 40}
        assert Counter(await world.generate_many(5, "again")) == {"right": 5}

    simulate(scenario, settings(num_stages=3, num_spares=seed % 2), seed=seed)


# --- nodes that leave, requests that move, coordinators that die


@pytest.mark.parametrize("leaving", ["a", "b", "c"])
@pytest.mark.parametrize("seed", range(4))
def test_a_drained_node_leaves_and_no_request_notices(leaving: str, seed: int) -> None:
    async def main(rng: random.Random) -> None:
        wanted = settings(wait_nodes=("a", "b", "c"), num_stages=3)
        async with service(rng, wanted) as world:
            for name in ("a", "b", "c"):
                await world.start_node(name)
            await world.until(lambda world: world.is_ready)
            async with asyncio.TaskGroup() as group:
                running = group.create_task(world.generate_many(30))
                await asyncio.sleep(0.3)
                report = await world.ask(DrainNode(node=leaving, deadline_s=30))
                assert (report.is_done, report.reason) == (True, "")
                await world.until(lambda world: world.left == [leaving])
            assert Counter(running.result()) == {"right": 30}
            assert world.notes == []
            plan = world.router.plan
            assert plan is not None
            assert leaving not in {stage.node for stage in plan.pipelines[0].stages}
            assert Counter(await world.generate_many(5, "again")) == {"right": 5}

    run(main, seed=seed)


@pytest.mark.parametrize("seed", range(6))
def test_a_node_with_little_time_moves_what_it_can_and_the_rest_is_computed_again(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """A way so slow that a few blocks take a fifth of a second each."""

    async def move_slowly(*order: Any) -> BlocksSent:
        await asyncio.sleep(0.2)
        return await move_blocks(*order)

    monkeypatch.setattr(stage_change, "move_blocks", move_slowly)
    monkeypatch.setattr(stage_change, "GROUP_BLOCKS", 4)

    async def main(rng: random.Random) -> None:
        wanted = settings(wait_nodes=("a", "b", "c"), num_stages=3)
        async with service(rng, wanted) as world:
            for name in ("a", "b", "c"):
                await world.start_node(name)
            await world.until(lambda world: world.is_ready)
            async with asyncio.TaskGroup() as group:
                running = group.create_task(world.generate_many(30))
                await asyncio.sleep(0.3)
                report = await world.ask(DrainNode(node="b", deadline_s=1.5))
                assert (report.is_done, report.reason) == (True, "")
                assert world.router.plan is not None
                change = world.router.plan.pipelines[0].last_change
            assert change is not None
            assert change.num_preempted > 0
            moved = {phase.phase: phase.num_bytes for phase in change.phases}
            assert moved["copy"] + moved["delta"] > 0
            assert Counter(running.result()) == {"right": 30}

    run(main, seed=seed)


TWO_PIPELINES = settings(pipelines=((StageWish(), StageWish()), (StageWish(),)), num_stages=0)


@pytest.mark.parametrize("seed", range(6))
def test_requests_move_between_pipelines_as_they_run(seed: int) -> None:
    async def scenario(world: Service) -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(12))
            for _ in range(10):
                await asyncio.sleep(world.rng.uniform(0, 0.1))
                streams = [s for s in world.router.streams if s.pipeline]
                if not streams:
                    continue
                stream = world.rng.choice(streams)
                there = "1" if stream.pipeline == "0" else "0"
                move = MoveRequest(
                    request=stream.wire_name, from_pipeline=stream.pipeline, to_pipeline=there
                )
                report = await world.ask(move)
                moved.append(report.is_done)
        assert Counter(running.result()) == {"right": 12}
        assert world.notes == []
        assert any(moved)

    moved: list[bool] = []
    simulate(scenario, TWO_PIPELINES, seed=seed)


@pytest.mark.parametrize("seed", range(6))
def test_a_coordinator_that_dies_is_not_missed_and_its_next_life_takes_over(seed: int) -> None:
    async def scenario(world: Service) -> None:
        workers = list(world.workers)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(12))
            await asyncio.sleep(0.2)
            world.network.kill("coordinator")
            assert Counter(await world.generate_many(5, "meanwhile")) == {"right": 5}
            await world.start_coordinator()
            report = await change(world, layers="0:1,1:6")
            while "try again later" in report.reason:  # it is still looking at what there is
                await asyncio.sleep(0.1)
                report = await change(world, layers="0:1,1:6")
            assert report.is_done, report.reason
            world.rng.choice(workers).die()
            late = group.create_task(world.generate_many(5, "late"))
        assert Counter(running.result()) == {"right": 12}
        assert Counter(late.result()) == {"right": 5}
        await world.until(lambda world: world.is_ready)

    simulate(scenario, seed=seed)


@pytest.mark.parametrize("seed", range(6))
def test_a_worker_that_dies_while_there_is_no_coordinator_is_replaced_by_the_next(
    seed: int,
) -> None:
    async def scenario(world: Service) -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(12))
            await asyncio.sleep(0.2)
            world.network.kill("coordinator")
            await asyncio.sleep(world.rng.uniform(0, 2))
            world.rng.choice(world.workers).die()
            await asyncio.sleep(world.rng.uniform(0, 2))
            await world.start_coordinator()
        assert Counter(running.result()) == {"right": 12}
        await world.until(lambda world: world.is_ready)

    simulate(scenario, seed=seed)


@pytest.mark.parametrize("seed", range(4))
def test_a_coordinator_that_was_cut_off_finds_the_service_as_it_left_it(seed: int) -> None:
    async def scenario(world: Service) -> None:
        assert world.router.plan is not None
        home = world.router.plan.pipelines[0].ref
        processes = ["node-local", *(worker.address for worker in world.workers)]
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(12))
            await asyncio.sleep(0.2)
            for process in processes:
                world.network.partition("coordinator", process)
            assert Counter(await world.generate_many(5, "meanwhile")) == {"right": 5}
            await asyncio.sleep(world.rng.uniform(1, 5))
            for process in processes:
                world.network.heal("coordinator", process)
            await world.until(lambda world: world.is_ready)
        assert Counter(running.result()) == {"right": 12}
        assert world.router.plan.pipelines[0].ref == home
        report = await change(world, layers="0:1,1:6")
        assert report.is_done, report.reason
        assert Counter(await world.generate_many(5, "again")) == {"right": 5}

    simulate(scenario, seed=seed)


@pytest.mark.parametrize("seed", range(4))
def test_an_idle_node_takes_the_layers_of_one_that_is_lost(seed: int) -> None:
    async def scenario(world: Service) -> None:
        await world.start_node("idle")
        await world.until(lambda world: any(w.name.startswith("idle/") for w in world.workers))
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(12))
            await asyncio.sleep(0.2)
            world.kill_node("local")
        assert Counter(running.result()) == {"right": 12}
        plan = world.router.plan
        assert plan is not None
        assert {stage.node for stage in plan.pipelines[0].stages} == {"idle"}

    simulate(scenario, settings(num_spares=1), seed=seed)


def test_a_node_that_returns_before_it_is_missed_waits_for_that() -> None:
    async def scenario(world: Service) -> None:
        world.kill_node("local")
        await world.start_node("local")
        await world.until(lambda world: world.is_ready)
        assert Counter(await world.generate_many(5, "again")) == {"right": 5}

    simulate(scenario)


@pytest.mark.parametrize("num_blocks", [16, 17, 24, 60])
@pytest.mark.parametrize("seed", range(4))
def test_a_swap_to_another_number_of_kv_blocks_renumbers_them(num_blocks: int, seed: int) -> None:
    async def scenario(world: Service) -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(12))
            await asyncio.sleep(0.3)
            plan = PipelinePlan(
                id=PipelineId("0"),
                stages=tuple(
                    StagePlan(
                        stage=stage,
                        node=NodeId("local"),
                        worker=WorkerId(f"local/stage-0.{stage}"),
                        device="cpu",
                        start=start,
                        end=end,
                    )
                    for stage, (start, end) in enumerate([(0, 2), (2, 6)])
                ),
                num_blocks=num_blocks,
                block_tokens=4,
            )
            report = await change(world, plan=json.dumps(asdict(plan)).encode())
            assert report.is_done, report.reason
        assert Counter(running.result()) == {"right": 12}
        assert world.router.plan is not None
        assert world.router.plan.pipelines[0].stages[0].kv_blocks == num_blocks
        assert Counter(await world.generate_many(5, "again")) == {"right": 5}

    simulate(scenario, seed=seed)


@pytest.mark.parametrize("seed", range(4))
def test_pipelines_are_added_and_removed_while_requests_run(seed: int) -> None:
    def grown(plan: dict[str, Any]) -> bytes:
        (first,) = plan["pipelines"]
        stages = [dict(stage, worker=f"local/more-{n}") for n, stage in enumerate(first["stages"])]
        return json.dumps(
            dict(plan, pipelines=[first, dict(first, id="1", stages=stages)])
        ).encode()

    async def scenario(world: Service) -> None:
        plan = await world.present_plan()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(20))
            await asyncio.sleep(0.2)
            report = await change(world, plan=grown(plan))
            assert report.is_done, report.reason
            more = group.create_task(world.generate_many(20, "more"))
            await asyncio.sleep(0.1)
            assert {stream.pipeline for stream in world.router.streams} == {"0", "1"}
            both = await world.present_plan()
            await asyncio.sleep(world.rng.uniform(0, 0.3))
            alone = dict(both, pipelines=[both["pipelines"][1]])
            report = await change(world, plan=json.dumps(alone).encode())
            assert report.is_done, report.reason
        assert Counter(running.result() + more.result()) == {"right": 40}
        assert world.router.plan is not None
        assert [pipeline.pipeline for pipeline in world.router.plan.pipelines] == ["1"]
        assert Counter(await world.generate_many(5, "again")) == {"right": 5}

    simulate(scenario, seed=seed)


def test_a_pipeline_that_cannot_be_added_changes_nothing() -> None:
    async def scenario(world: Service) -> None:
        plan = await world.present_plan()
        (first,) = plan["pipelines"]
        for stages, reason in (
            (first["stages"], "expected one, got it more than once"),
            ([dict(first["stages"][0], end=6, node="moon", worker="m")], "is on node 'moon'"),
        ):
            wanted = dict(plan, pipelines=[first, dict(first, id="1", stages=stages)])
            report = await change(world, plan=json.dumps(wanted).encode())
            assert not report.is_done
            assert reason in report.reason
        assert await world.present_plan() == plan
        assert world.is_ready

    simulate(scenario)


@pytest.mark.parametrize("seed", range(4))
def test_a_node_that_stood_still_for_a_while_serves_again(seed: int) -> None:
    async def scenario(world: Service) -> None:
        others = ["coordinator", "gateway", *(worker.address for worker in world.workers)]
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(12))
            await asyncio.sleep(0.2)
            for other in others:
                world.network.partition("node-local", other)
            await asyncio.sleep(world.rng.uniform(1, 4))
            for other in others:
                world.network.heal("node-local", other)
        assert Counter(running.result()) == {"right": 12}
        await world.until(lambda world: world.is_ready)
        assert Counter(await world.generate_many(5, "again")) == {"right": 5}

    simulate(scenario, seed=seed)


def test_workers_that_were_told_to_end_are_no_failures_of_spares() -> None:
    async def scenario(world: Service) -> None:
        for _ in range(6):
            assert (await change(world, layers="0:1,1:2,2:4,4:6")).is_done
            assert (await change(world, layers="0:6")).is_done
            await asyncio.sleep(5)
        (spare,) = [w for w in world.workers if w.is_alive and not serves(world, w.name)]
        spare.die("killed by signal 9")
        await world.until(
            lambda world: sum(w.is_alive and not serves(world, w.name) for w in world.workers) == 1
        )

    simulate(scenario, settings(num_spares=1))


def serves(world: Service, worker: str) -> bool:
    assert world.router.plan is not None
    return any(s.worker == worker for p in world.router.plan.pipelines for s in p.stages)
