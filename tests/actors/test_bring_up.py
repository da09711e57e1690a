"""Bringing one pipeline up: what is asked of whom, and what each failure leads to."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from actors.bring_up import (
    LOAD_TIMEOUT_S,
    BringUp,
    BroughtUp,
    NotBroughtUp,
    bring_up,
    pipeline_ref,
)
from actors.kernel.actor import Actor
from actors.messages import AssignStage, OpenPipeline
from scheduling.plan import NodeId, PipelineId, PipelinePlan, StagePlan, WorkerId
from tests.actors.wanted import wanted_service
from tests.support.actor_worlds import (
    Played,
    World,
    on_virtual_time,
    opened,
    settle,
    stage_failed,
    stage_ready,
)

NUM_STAGES = 3


class Parts:
    """Three played workers and the played head node of one pipeline."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.workers: list[Played] = []
        self.head: Played
        self.asker = Actor()

    async def open(self) -> None:
        for number in range(NUM_STAGES):
            worker = await self.world.play(f"worker-{number}")
            worker.answers[AssignStage] = stage_ready
            self.workers.append(worker)
        head = self.head = await self.world.play("head")
        head.answers[OpenPipeline] = lambda wanted: opened(head, wanted)
        (await self.world.open("coordinator")).spawn(self.asker, name="coordinator")

    def wanted(self, *devices: str, **changes: Any) -> BringUp:
        stages = tuple(
            StagePlan(
                stage=number,
                node=NodeId("ab"[number % 2]),
                worker=WorkerId(f"w{number}"),
                device=device,
                start=number,
                end=number + 1,
            )
            for number, device in enumerate(devices or ("cpu",) * NUM_STAGES)
        )
        plan = PipelinePlan(id=PipelineId("0"), stages=stages, num_blocks=7, block_tokens=4)
        return BringUp(
            epoch=5,
            plan=plan,
            settings=replace(wanted_service(NUM_STAGES), **changes),
            workers={f"w{n}": worker.ref for n, worker in enumerate(self.workers)},
            head=self.head.ref,
            home=None,
            takes_over=False,
            lost=(),
            old_epoch=4,
            observer=self.asker.context.self_ref,
        )

    async def bring_up(self, wanted: BringUp | None = None) -> BroughtUp | NotBroughtUp:
        return await bring_up(self.asker.context, wanted or self.wanted())

    async def while_loading(
        self, happens: Callable[[], None], kind: type[AssignStage] | type[OpenPipeline]
    ) -> BroughtUp | NotBroughtUp:
        """Let something happen once every worker, or the head, has been asked."""
        asked = self.workers if kind is AssignStage else [self.head]
        async with asyncio.TaskGroup() as tasks:
            outcome = tasks.create_task(self.bring_up())
            for played in asked:
                await played.hears(kind)
            await settle()
            happens()
        return outcome.result()


async def parts_of(world: World) -> Parts:
    parts = Parts(world)
    await parts.open()
    return parts


@on_virtual_time
async def test_stages_load_side_by_side_and_the_pipeline_opens_over_them(world: World) -> None:
    parts = await parts_of(world)
    first = parts.workers[0].postponed[AssignStage] = []
    async with asyncio.TaskGroup() as tasks:
        outcome = tasks.create_task(parts.bring_up())
        asked = [await worker.hears(AssignStage) for worker in parts.workers]
        await settle()
        assert parts.head.heard == []
        first[0].reply(stage_ready(asked[0]))
    brought = outcome.result()
    assert isinstance(brought, BroughtUp)
    assert brought.ref == pipeline_ref(parts.head.ref, "0", 5)
    assert [ready.stage for ready in brought.stages] == [0, 1, 2]
    opening = await parts.head.hears(OpenPipeline)
    assert [stage.ref for stage in opening.stages] == [worker.ref for worker in parts.workers]
    assert [(stage.start, stage.end) for stage in opening.stages] == [(0, 1), (1, 2), (2, 3)]
    assert (opening.epoch, opening.num_blocks, opening.block_tokens) == (5, 7, 4)


@on_virtual_time
async def test_every_stage_is_told_its_layers_and_who_comes_next(world: World) -> None:
    parts = await parts_of(world)
    await parts.bring_up()
    asked = [await worker.hears(AssignStage) for worker in parts.workers]
    assert [(a.stage, a.start, a.end) for a in asked] == [(0, 0, 1), (1, 1, 2), (2, 2, 3)]
    successors = [
        *(worker.ref for worker in parts.workers[1:]),
        pipeline_ref(parts.head.ref, "0", 5),
    ]
    assert [a.successor for a in asked] == successors
    assert {(a.epoch, a.observer) for a in asked} == {(5, parts.asker.context.self_ref)}


@pytest.mark.parametrize(
    ("devices", "dtype", "expected"),
    [
        (("cuda:0", "cuda:1", "cuda:2"), "auto", "bfloat16"),
        (("cuda:0", "cpu", "cuda:2"), "auto", "float32"),
        (("cuda:0", "cpu", "cuda:2"), "float16", "float16"),
    ],
)
@on_virtual_time
async def test_hidden_states_travel_in_a_type_that_all_stages_compute_in(
    world: World, devices: tuple[str, ...], dtype: str, expected: str
) -> None:
    parts = await parts_of(world)
    await parts.bring_up(parts.wanted(*devices, dtype=dtype))
    asked = [await worker.hears(AssignStage) for worker in parts.workers]
    assert {a.wire_dtype for a in asked} == {expected}


# --- failures


@pytest.mark.parametrize("number", range(NUM_STAGES))
@on_virtual_time
async def test_a_stage_that_cannot_load_ends_the_wait_for_the_others(
    world: World, number: int
) -> None:
    parts = await parts_of(world)
    for worker in parts.workers:
        worker.postponed[AssignStage] = []
    unable = parts.workers[number]

    def refuse() -> None:
        (asked,) = unable.all_of(AssignStage)
        unable.postponed[AssignStage][0].reply(stage_failed(asked, "no memory"))

    async with asyncio.timeout(LOAD_TIMEOUT_S / 2):  # the others never answer
        outcome = await parts.while_loading(refuse, AssignStage)
    reason = f"stage {number} on node {'ab'[number % 2]} could not start: no memory"
    assert outcome == NotBroughtUp(reason, refused=True)
    assert parts.head.heard == []


@on_virtual_time
async def test_of_stages_that_fail_alike_the_first_one_speaks(world: World) -> None:
    parts = await parts_of(world)
    for worker in parts.workers:
        worker.answers[AssignStage] = stage_failed
    outcome = await parts.bring_up()
    assert outcome == NotBroughtUp(
        "stage 0 on node a could not start: no such folder", refused=True
    )


@on_virtual_time
async def test_a_refusal_says_more_than_a_loss_beside_it(world: World) -> None:
    parts = await parts_of(world)
    for worker in parts.workers:
        worker.postponed[AssignStage] = []

    def lose_one_and_refuse() -> None:
        world.lose("worker-0")
        (asked,) = parts.workers[2].all_of(AssignStage)
        parts.workers[2].postponed[AssignStage][0].reply(stage_failed(asked))

    outcome = await parts.while_loading(lose_one_and_refuse, AssignStage)
    assert outcome == NotBroughtUp(
        "stage 2 on node a could not start: no such folder", refused=True
    )


@on_virtual_time
async def test_a_worker_lost_while_it_loads_is_a_loss_and_no_refusal(world: World) -> None:
    parts = await parts_of(world)
    parts.workers[1].postponed[AssignStage] = []
    outcome = await parts.while_loading(lambda: world.lose("worker-1"), AssignStage)
    assert isinstance(outcome, NotBroughtUp)
    assert not outcome.refused
    assert outcome.reason.startswith("stage 1 on node b was lost while loading: ")


@on_virtual_time
async def test_a_worker_lost_before_it_was_asked_is_a_loss(world: World) -> None:
    parts = await parts_of(world)
    world.lose("worker-2")
    outcome = await parts.bring_up()
    assert isinstance(outcome, NotBroughtUp)
    assert outcome.reason.startswith("stage 2 on node a was lost while loading: ")


@pytest.mark.parametrize(
    ("silent", "reason"),
    [
        ("worker", "stage 1 on node b was lost while loading: no reply"),
        ("head", "the head node was lost while opening: no reply"),
    ],
)
@on_virtual_time
async def test_who_never_answers_is_given_up_at_the_deadline(
    world: World, silent: str, reason: str
) -> None:
    parts = await parts_of(world)
    parts.workers[1].postponed |= {AssignStage: []} if silent == "worker" else {}
    parts.head.postponed |= {OpenPipeline: []} if silent == "head" else {}
    outcome = await parts.bring_up()
    assert isinstance(outcome, NotBroughtUp)
    assert outcome.reason.startswith(reason)
    assert not outcome.refused


@on_virtual_time
async def test_a_head_node_lost_while_it_opens_is_a_loss(world: World) -> None:
    parts = await parts_of(world)
    parts.head.postponed[OpenPipeline] = []
    outcome = await parts.while_loading(lambda: world.lose("head"), OpenPipeline)
    assert isinstance(outcome, NotBroughtUp)
    assert outcome.reason.startswith("the head node was lost while opening: ")
