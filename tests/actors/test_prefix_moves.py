"""Shared blocks while stages change, are lost, and requests change hands: no token differs."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any

import pytest

from actors import stage_change
from actors.kernel.virtual_time import run
from actors.messages import ChangePlan, DrainNode, MoveRequest, PlanReport
from actors.pipeline import PipelineActor
from actors.placement import ServiceSettings, StageWish
from actors.stage_change import replay_slots
from actors.stream import Stream
from scheduling.plan import NodeId, PipelineId, PipelinePlan, StagePlan, WorkerId
from scheduling.sequence import Sequence
from scheduling.step import Slot
from tests.actors.emulated_pipeline import NUM_LAYERS, VOCAB
from tests.actors.emulated_service import Service, service, settings

Scenario = Callable[[Service], Coroutine[Any, Any, None]]
TWO_STAGES = settings(num_stages=2)
TWO_PIPELINES = settings(pipelines=((StageWish(), StageWish()),) * 2, num_stages=0)
BEGINNING = [random.Random(7).randrange(VOCAB) for _ in range(20)]
BLOCK_TOKENS = 4
BLOCK_BYTES = NUM_LAYERS * BLOCK_TOKENS * 8
"""Of one block in all layers."""


def simulate(scenario: Scenario, wanted: ServiceSettings = TWO_STAGES, *, seed: int = 0) -> None:
    async def main(rng: random.Random) -> None:
        async with service(rng, wanted) as world:
            for node in dict.fromkeys(wanted.wait_nodes) or ("local",):
                await world.start_node(node)
            await world.until(lambda world: world.is_ready)
            await scenario(world)

    run(main, seed=seed)


def actor_of(world: Service, pipeline: str = "0") -> PipelineActor:
    for name in sorted(world.systems):
        for child in world.systems[name]._tree._by_name.values():
            actor = child.cell._actor
            if isinstance(actor, PipelineActor) and actor._opened.pipeline == pipeline:
                return actor
    raise AssertionError(f"no pipeline {pipeline}")


def hits(world: Service, pipeline: str = "0") -> int:
    return actor_of(world, pipeline)._ring.batcher.statistics().num_prefix_hits


def held(world: Service, pipeline: str = "0") -> list[list[int]]:
    return [s.block_table for s in actor_of(world, pipeline)._ring.batcher.running]


def is_shared(world: Service, pipeline: str = "0", *, by: int = 4) -> bool:
    """Whether so many hold the same first block, and all have begun to answer."""
    batcher = actor_of(world, pipeline)._ring.batcher
    heads = Counter(table[0] for table in held(world, pipeline) if table)
    return max(heads.values(), default=0) >= by and all(s.num_generated for s in batcher.running)


async def begin(world: Service) -> None:
    """Something is computed and kept that others may begin with."""
    assert await world.generate("first", BEGINNING, 1) == "right"


async def alike(world: Service, count: int, label: str = "r", length: int = 24) -> list[str]:
    """Requests that begin alike, all at once."""
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(world.generate(f"{label}{n}", [*BEGINNING, n, n], length))
            for n in range(count)
        ]
    return [task.result() for task in tasks]


def plan_with(num_blocks: int) -> bytes:
    """The plan that serves, with so many KV blocks."""
    stages = tuple(
        StagePlan(
            stage=stage,
            node=NodeId("local"),
            worker=WorkerId(f"local/stage-0.{stage}"),
            device="cpu",
            start=start,
            end=end,
        )
        for stage, (start, end) in enumerate([(0, 3), (3, 6)])
    )
    plan = PipelinePlan(
        id=PipelineId("0"), stages=stages, num_blocks=num_blocks, block_tokens=BLOCK_TOKENS
    )
    return json.dumps(asdict(plan)).encode()


async def change(world: Service, *, layers: str = "", plan: bytes = b"") -> PlanReport:
    wish = ChangePlan(pipeline="", layers=layers, num_stages=0, plan=plan, is_dry_run=False)
    return await world.ask(wish)


@pytest.mark.parametrize("seed", range(3))
def test_a_swap_copies_a_shared_block_once_and_what_nobody_holds_not_at_all(seed: int) -> None:
    async def scenario(world: Service) -> None:
        assert await world.generate("other", [5] * 30, 2) == "right"
        await begin(world)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(alike(world, 4))
            await world.until(is_shared)
            most = len({block for table in held(world) for block in table}) + 4 * 6
            report = await change(world, layers="0:1,1:6")
        assert report.is_done, report.reason
        moved = sum(phase.num_bytes for phase in report.phases)
        assert 0 < moved <= most * BLOCK_BYTES * 2 // NUM_LAYERS  # two layers move
        assert running.result() == ["right"] * 4

    simulate(scenario, seed=seed)


def test_after_a_change_of_stages_only_what_was_held_is_found_again() -> None:
    async def scenario(world: Service) -> None:
        assert await world.generate("other", [5] * 30, 2) == "right"
        await begin(world)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(alike(world, 4))
            await world.until(is_shared)
            assert (await change(world, layers="0:1,1:6")).is_done
            before = hits(world)
            assert await world.generate("held", [*BEGINNING, 9], 2) == "right"
            assert hits(world) == before + 20
        assert running.result() == ["right"] * 4
        before = hits(world)
        assert await world.generate("again", [5] * 30, 2) == "right"
        assert hits(world) == before
        assert await world.generate("once more", [5] * 30, 2) == "right"
        assert hits(world) == before + 28

    simulate(scenario)


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_shared_outlives_the_loss_of_a_stage_and_is_computed_again_once(
    stage: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed: list[tuple[int, int]] = []

    def counted(sequences: list[Sequence], max_tokens: int, size: int) -> list[list[Slot]]:
        batches = replay_slots(sequences, max_tokens, size)
        num_once = sum(slot.length for slots in batches for slot in slots)
        replayed.append((sum(sequence.num_computed for sequence in sequences), num_once))
        return batches

    monkeypatch.setattr(stage_change, "replay_slots", counted)

    async def scenario(world: Service) -> None:
        await begin(world)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(alike(world, 4))
            await world.until(is_shared)
            world.living(f"local/stage-0.{stage}").die()
        assert running.result() == ["right"] * 4
        ((num_tokens, num_once),) = replayed
        assert num_once == num_tokens - 3 * len(BEGINNING)
        assert Counter(await alike(world, 4, "s")) == {"right": 4}

    simulate(scenario, seed=seed)


@pytest.mark.parametrize("num_blocks", [22, 30, 60])
@pytest.mark.parametrize("seed", range(3))
def test_shared_blocks_are_renumbered_once_where_there_are_more_or_fewer(
    num_blocks: int, seed: int
) -> None:
    async def scenario(world: Service) -> None:
        await begin(world)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(alike(world, 5))
            await world.until(is_shared)
            report = await change(world, plan=plan_with(num_blocks))
            assert report.is_done, report.reason
            batcher = actor_of(world)._ring.batcher
            assert batcher.pool.num_blocks == num_blocks
            batcher.check_integrity()
        assert running.result() == ["right"] * 5

    simulate(scenario, seed=seed)


# --- what was not computed here


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_who_shares_what_another_pipeline_computed_outlives_the_loss_of_a_stage(
    stage: int, seed: int
) -> None:
    """No stage here remembers what it gave out for it, whoever holds it."""

    async def scenario(world: Service) -> None:
        async with asyncio.TaskGroup() as group:
            moved = group.create_task(world.generate("moved", BEGINNING, 40))
            await world.until(lambda world: bool(under_way(world)))
            (stream,) = under_way(world)
            assert (await move(world, stream)).is_done
            there = stream.pipeline
            before = hits(world, there)
            running = group.create_task(alike_at(world, there, 3))
            await world.until(lambda world: hits(world, there) >= before + 3 * 20)
            await world.until(lambda world: is_shared(world, there, by=4))
            world.living(f"local/stage-{there}.{stage}").die()
        assert (moved.result(), set(running.result())) == ("right", {"right"})

    simulate(scenario, TWO_PIPELINES, seed=seed)


def under_way(world: Service) -> list[Stream]:
    return [s for s in world.router.streams if s.pipeline and len(s.delivered) >= 3]


async def move(world: Service, stream: Stream) -> PlanReport:
    there = "1" if stream.pipeline == "0" else "0"
    wish = MoveRequest(request=stream.wire_name, from_pipeline=stream.pipeline, to_pipeline=there)
    report = await world.ask(wish)
    await world.until(lambda _: stream.pipeline == there)
    return report


async def alike_at(world: Service, pipeline: str, count: int) -> list[str]:
    """Requests that begin alike, of which some go where they are wanted."""
    async with asyncio.TaskGroup() as group:
        tasks = []
        number = 0
        while hits(world, pipeline) < count * 20:
            prompt = [*BEGINNING, number, number]
            tasks.append(group.create_task(world.generate(f"r{number}", prompt, 24)))
            await asyncio.sleep(0.05)
            number += 1
    return [task.result() for task in tasks]


@pytest.mark.parametrize("seed", range(2))
def test_a_pipelines_actor_takes_shared_blocks_over_as_they_are(seed: int) -> None:
    async def scenario(world: Service) -> None:
        await begin(world)
        before = actor_of(world)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(alike(world, 4))
            await world.until(is_shared)
            assert (await world.ask(DrainNode(node="a", deadline_s=30))).is_done
            assert actor_of(world) is not before
            actor_of(world)._ring.batcher.check_integrity()
            assert is_shared(world)
            assert world.notes == []
            assert await world.generate("late", [*BEGINNING, 8], 2) == "right"
            assert hits(world) == 20
        assert running.result() == ["right"] * 4

    wanted = settings(wait_nodes=("a", "b"), num_stages=2, num_spares=2)
    simulate(scenario, wanted, seed=seed)
