"""Requests change hands while workers die, stages change and readers go: no token differs."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from actors.kernel.virtual_time import run
from actors.messages import ChangePlan, DrainNode, MoveRequest, PlanReport
from actors.placement import ServiceSettings, StageWish
from actors.stream import Stream
from tests.actors.emulated_pipeline import VOCAB, request
from tests.actors.emulated_service import Service, service, settings

Scenario = Callable[[Service], Coroutine[Any, Any, None]]

TWO_PIPELINES = settings(pipelines=((StageWish(), StageWish()),) * 2, num_stages=0)


def simulate(scenario: Scenario, wanted: ServiceSettings = TWO_PIPELINES, *, seed: int = 0) -> None:
    async def main(rng: random.Random) -> None:
        async with service(rng, wanted) as world:
            for node in wanted.wait_nodes or ("local",):
                await world.start_node(node)
            await world.until(lambda world: world.is_ready)
            await scenario(world)

    run(main, seed=seed)


def under_way(world: Service, least: int = 1) -> list[Stream]:
    """Requests that a pipeline has and that have tokens."""
    return [s for s in world.router.streams if s.pipeline and len(s.delivered) >= least]


async def move(world: Service, stream: Stream) -> PlanReport:
    """Move a request to the other pipeline."""
    there = "1" if stream.pipeline == "0" else "0"
    wish = MoveRequest(request=stream.wire_name, from_pipeline=stream.pipeline, to_pipeline=there)
    return await world.ask(wish)


async def change(world: Service, pipeline: str, layers: str) -> PlanReport:
    wish = ChangePlan(pipeline=pipeline, layers=layers, num_stages=0, plan=b"", is_dry_run=False)
    return await world.ask(wish)


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_a_request_that_moved_outlives_the_loss_of_a_stage_where_it_is_now(
    stage: int, seed: int
) -> None:
    """What the stages there gave out before it came, none of them remembers."""

    async def scenario(world: Service) -> None:
        prompt = [world.rng.randrange(VOCAB) for _ in range(20)]
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate("r", prompt, 28))
            await world.until(lambda world: bool(under_way(world, least=3)))
            (stream,) = under_way(world)
            report = await move(world, stream)
            assert report.is_done, report.reason
            await world.until(lambda world: stream.pipeline != "")
            world.living(f"local/stage-{stream.pipeline}.{stage}").die()
        assert running.result() == "right"

    simulate(scenario, seed=seed)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_requests_of_a_drained_node_outlive_the_loss_of_a_stage_afterwards(
    stage: int, seed: int
) -> None:
    """Stages that were cut anew remember nothing of what was moved to them, and go on so."""

    async def scenario(world: Service) -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(20))
            await world.until(lambda world: len(under_way(world, least=3)) > 3)
            report = await world.ask(DrainNode(node="a", deadline_s=30))
            assert report.is_done, report.reason
            plan = world.router.plan
            assert plan is not None
            stages = plan.pipelines[0].stages
            world.living(stages[min(stage, len(stages) - 1)].worker).die()
        assert Counter(running.result()) == {"right": 20}

    wanted = settings(wait_nodes=("a", "b", "c", "d"), num_stages=4)
    simulate(scenario, wanted, seed=seed)


@pytest.mark.parametrize("seed", range(8))
def test_a_request_that_is_cancelled_while_it_moves_harms_no_other(seed: int) -> None:
    async def scenario(world: Service) -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(8))
            for number in range(12):
                stream = world.router.open(request(f"gone{number}", [1] * 20, 28))
                await asyncio.sleep(world.rng.uniform(0, 0.3))
                if not stream.pipeline:
                    continue
                moving = group.create_task(move(world, stream))
                await asyncio.sleep(world.rng.uniform(0, 0.05))
                world.router.close(stream)
                await moving
        assert Counter(running.result()) == {"right": 8}
        assert world.notes == []

    simulate(scenario, seed=seed)


@pytest.mark.parametrize("seed", range(6))
def test_a_request_that_ends_while_its_pipelines_actor_moves_harms_no_other(seed: int) -> None:
    """Readers go all the while; the actor that leaves its node still hands over the others."""

    async def scenario(world: Service) -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(8))
            streams = [world.router.open(request(f"gone{n}", [1, 2], 28)) for n in range(30)]
            draining = group.create_task(world.ask(DrainNode(node="a", deadline_s=30)))
            for stream in streams:
                await asyncio.sleep(world.rng.uniform(0, 0.02))
                world.router.close(stream)
            report = await draining
            assert report.is_done, report.reason
        assert Counter(running.result()) == {"right": 8}
        assert world.notes == []

    wanted = settings(wait_nodes=("a", "b"), num_stages=2)
    simulate(scenario, wanted, seed=seed)


LAYERS = ("0:1,1:6", "0:5,5:6", "0:3,3:6", "0:2,2:4,4:6", "0:6")


@pytest.mark.parametrize("seed", [0, 4, 6, 12, 16, 26, 28, 53])
def test_requests_that_move_while_stages_change_at_both_ends_have_every_token_right(
    seed: int,
) -> None:
    async def scenario(world: Service) -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(40))
            group.create_task(keep_changing(world))
            for _ in range(25):
                await asyncio.sleep(world.rng.uniform(0, 0.1))
                if streams := under_way(world):
                    await move(world, world.rng.choice(streams))
        assert Counter(running.result()) == {"right": 40}
        assert Counter(await world.generate_many(5, "again")) == {"right": 5}

    async def keep_changing(world: Service) -> None:
        for _ in range(8):
            await change(world, world.rng.choice("01"), world.rng.choice(LAYERS))
            await asyncio.sleep(world.rng.uniform(0, 0.2))

    simulate(scenario, seed=seed)


@pytest.mark.parametrize("seed", range(4))
def test_requests_leave_a_pipeline_that_is_short_of_blocks_for_one_that_has_them(
    seed: int,
) -> None:
    """All have come before the second pipeline is there, and nobody orders a move."""

    async def scenario(world: Service) -> None:
        plan = await world.present_plan()
        (first,) = plan["pipelines"]
        stages = [dict(stage, worker=f"local/more-{n}") for n, stage in enumerate(first["stages"])]
        both = dict(plan, pipelines=[first, dict(first, id="1", stages=stages)])
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(30))
            await asyncio.sleep(0.2)
            assert {stream.pipeline for stream in world.router.streams} == {"0"}
            wish = ChangePlan(
                pipeline="",
                layers="",
                num_stages=0,
                plan=json.dumps(both).encode(),
                is_dry_run=False,
            )
            report = await world.ask(wish)
            assert report.is_done, report.reason
            await world.until(
                lambda world: "1" in {stream.pipeline for stream in world.router.streams}
            )
        assert Counter(running.result()) == {"right": 30}
        assert world.notes == []

    simulate(scenario, settings(num_blocks=16), seed=seed)
