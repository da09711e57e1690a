import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from msgspec import structs

from actors.kernel.actor import Actor
from actors.kernel.ref import Ref
from actors.kernel.virtual_time import run
from actors.messages import (
    BlocksReserved,
    Cancel,
    ChangeAborted,
    ChangeStages,
    ClosePipeline,
    GetPipelineLoad,
    GetPipelineStages,
    GetStageLoads,
    PipelineLoadReport,
    PipelineStages,
    ReserveBlocks,
    StageLoads,
    StagesChanged,
    StageSpec,
    StepOutput,
    Tokens,
    TokensOf,
)
from models.emulated import expected_tokens
from tests.actors.emulated_pipeline import NUM_LAYERS, VOCAB, World, assignment, opened, request
from tests.support.stopping import stop_actor
from transport.codec import Message
from transport.frame import Buffer

Scenario = Callable[[World, random.Random], Coroutine[Any, Any, None]]


def simulate(
    scenario: Scenario, *, num_stages: int = 2, seed: int = 0, max_waiting: int = 64
) -> None:
    async def main(rng: random.Random) -> None:
        async with opened(rng, num_stages, max_waiting=max_waiting) as world:
            await scenario(world, rng)

    run(main, seed=seed)


async def load(world: World) -> PipelineLoadReport:
    report = await world.head.ask(world.pipeline, GetPipelineLoad(), timeout_s=5)
    assert isinstance(report, PipelineLoadReport)
    return report


def send_many(world: World, rng: random.Random, count: int) -> list[str]:
    names = [f"r{i}" for i in range(count)]
    for name in names:
        prompt = [rng.randrange(500) for _ in range(rng.randint(1, 30))]
        temperature = rng.choice([0.0, 0.8])
        max_tokens, seed = rng.randint(1, 15), rng.randrange(1 << 32)
        world.generate(request(name, prompt, max_tokens, temperature=temperature, seed=seed))
    return names


@pytest.mark.parametrize("num_stages", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_every_stream_is_exact_though_blocks_run_out_and_steps_interleave(
    num_stages: int, seed: int
) -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        names = send_many(world, rng, 24)
        await world.client.until(lambda client: client.num_ended == 24)
        for name in names:
            world.assert_right(name)
            assert world.client.finished[name] == "length"
        report = await load(world)
        assert report.num_preemptions > 0, "the scenario is meant to run out of blocks"
        assert report.num_free_blocks == report.num_blocks

    simulate(scenario, num_stages=num_stages, seed=seed)


def test_a_step_costs_one_message_more_than_there_are_stages() -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        world.generate(request("r", [1, 2, 3], 10))
        await world.client.until(lambda client: client.num_ended == 1)
        assert (await load(world)).num_steps == 10
        assert [device.num_runs for device in world.devices] == [11, 11, 11]  # and one load each

    simulate(scenario, num_stages=3)


def test_a_stop_token_ends_a_stream_and_is_not_delivered() -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        world.generate(request("free", [5, 6], 8))
        await world.client.until(lambda client: client.num_ended == 1)
        free = world.client.tokens["free"]
        world.generate(request("stopped", [5, 6], 8, stop_token_ids=(free[4],)))
        await world.client.until(lambda client: client.num_ended == 2)
        assert world.client.tokens["stopped"] == free[: free.index(free[4])]
        assert world.client.finished["stopped"] == "stop"

    simulate(scenario)


def test_a_cancelled_request_frees_its_blocks_and_says_no_more() -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        world.generate(request("long", [1] * 20, 25))
        world.generate(request("kept", [2] * 5, 5))
        await world.client.until(lambda client: len(client.tokens.get("long", [])) > 2)
        world.head.tell(world.pipeline, Cancel(request="long"), sender=world.client_ref)
        await world.client.until(lambda client: "kept" in client.finished)
        world.assert_right("kept")
        await asyncio.sleep(1)
        report = await load(world)
        assert report.num_free_blocks == report.num_blocks
        assert report.num_running == report.num_waiting == 0
        assert len(world.client.tokens["long"]) < 25
        assert "long" not in world.client.finished

    simulate(scenario)


def test_to_cancel_what_is_unknown_changes_nothing() -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        world.head.tell(world.pipeline, Cancel(request="ghost"), sender=world.client_ref)
        world.generate(request("r", [1, 2], 4))
        await world.client.until(lambda client: client.num_ended == 1)
        world.assert_right("r")

    simulate(scenario)


@pytest.mark.parametrize(
    ("prompt", "other", "reason"),
    [
        ([1] * 48, {}, "48 tokens leave no room for another in the context (48)"),
        ([1] * 20, {"num_prompt_tokens": 10}, "10 of at most 10 are generated"),
    ],
)
def test_what_cannot_be_served_is_refused_with_a_reason(
    prompt: list[int], other: dict[str, object], reason: str
) -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        world.generate(request("r", prompt, 10, **other))
        await world.client.until(lambda client: client.num_ended == 1)
        (failed,) = world.client.failed["r"]
        assert failed.kind == "rejected"
        assert reason in failed.reason

    simulate(scenario)


@pytest.mark.parametrize("num_delivered", [1, 7])
def test_a_request_continued_from_elsewhere_goes_on_as_it_would_have_there(
    num_delivered: int,
) -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        first = request("r", [3, 4, 5], 12, temperature=0.8, seed=7)
        whole = expected_tokens(
            [3, 4, 5], 12, NUM_LAYERS, vocab_size=VOCAB, temperature=0.8, seed=7
        )
        tokens = (3, 4, 5, *whole[:num_delivered])
        again = structs.replace(first, request="r~2", token_ids=tokens, num_prompt_tokens=3)
        world.head.tell(world.pipeline, again, sender=world.head.spawn(reader, name="reader"))
        async with asyncio.timeout(60):
            await reader.has_ended.wait()
        assert reader.updates[0].position == num_delivered
        assert [t for u in reader.updates for t in u.token_ids] == whole[num_delivered:]

    reader = Reader()
    simulate(scenario)


class Reader(Actor):
    """Keeps the updates of its requests as they come."""

    def __init__(self) -> None:
        self.updates: list[TokensOf] = []
        self.has_ended = asyncio.Event()

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        assert isinstance(message, Tokens)
        self.updates += message.updates
        if self.updates[-1].finish_reason is not None:
            self.has_ended.set()
        return None


def test_a_full_queue_refuses_the_newest_and_serves_the_others() -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        names = send_many(world, rng, 30)
        await world.client.until(lambda client: client.num_ended == 30)
        assert world.client.failed
        for name in names:
            if name in world.client.failed:
                assert [failed.kind for failed in world.client.failed[name]] == ["queue_full"]
            else:
                world.assert_right(name)

    simulate(scenario, max_waiting=4)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_requests_of_a_lost_stage_that_nobody_replaces_go_back_to_their_reader(
    stage: int,
) -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        names = send_many(world, rng, 10)
        await world.client.until(lambda client: bool(client.tokens))
        world.network.lose(f"stage{stage}")
        await world.client.until(lambda client: client.num_ended == 10 and bool(client.lost))
        for name in names:
            if name in world.client.finished:
                world.assert_right(name)
            else:
                (failed,) = world.client.failed[name]
                assert failed.kind == "stage_lost"
                assert failed.reason == (
                    f"stage {stage} of pipeline p0 was lost; nothing replaced it within 20 s"
                )
        assert [lost.pipeline for lost in world.client.lost] == ["p0"]

    simulate(scenario, num_stages=3)


async def stages_of(world: World) -> tuple[StageSpec, ...]:
    told = await world.head.ask(world.pipeline, GetPipelineStages(), timeout_s=5)
    assert isinstance(told, PipelineStages)
    return told.stages


async def changing(world: World, epoch: int, **changes: Any) -> ChangeStages:
    """Go on over the very stages that serve."""
    kept = tuple(
        structs.replace(stage, kept_start=stage.start, kept_end=stage.end, keeps_log=True)
        for stage in await stages_of(world)
    )
    fields: dict[str, Any] = {
        "stages": kept,
        "num_blocks": 16,
        "lost": (),
        "deadline_s": 60.0,
    } | changes
    return ChangeStages(epoch=epoch, **fields)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"epoch": 1}, "it is at epoch 1, past 1"),
        ({"epoch": 2, "num_blocks": 11}, "44 tokens of KV are less than a request may need"),
    ],
)
def test_a_change_that_cannot_be_is_refused_and_the_requests_run_on(
    changes: dict[str, int], reason: str
) -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        world.generate(request("r", [1, 2], 20))
        change = await changing(world, **changes)
        answer = await world.head.ask(world.pipeline, change, timeout_s=60)
        assert answer == ChangeAborted(epoch=changes["epoch"], phase="prepare", reason=reason)
        await world.client.until(lambda client: client.num_ended == 1)
        world.assert_right("r")

    simulate(scenario)


def test_of_two_changes_at_once_the_second_is_refused() -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        for number, spec in enumerate(await stages_of(world)):
            follows = world.pipeline if number else world.stage_refs[1]
            layers = (spec.start, spec.end)
            for epoch in (2, 3):
                wanted = assignment(number, layers, follows, world.pipeline, epoch)
                await world.head.ask(spec.ref, wanted, timeout_s=60)
        send_many(world, rng, 12)
        await world.client.until(lambda client: bool(client.tokens))
        changes = [await changing(world, epoch) for epoch in (2, 3)]
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(world.head.ask(world.pipeline, change, timeout_s=60))
                for change in changes
            ]
        first, second = (task.result() for task in asked)
        assert isinstance(first, StagesChanged)
        assert (first.epoch, first.num_rebuilt, first.num_preempted) == (2, 0, 0)
        why = "another change is under way"
        assert second == ChangeAborted(epoch=3, phase="prepare", reason=why)
        await world.client.until(lambda client: client.num_ended == 12)
        for name in world.requests:
            world.assert_right(name)

    simulate(scenario)


def test_a_closed_pipeline_gives_its_requests_back_and_ends() -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        world.generate(request("r", [1, 2], 40))
        await world.client.until(lambda client: bool(client.tokens))
        world.head.tell(world.pipeline, ClosePipeline(reason="it was opened in vain"))
        await world.client.until(lambda client: client.num_ended == 1 and bool(client.lost))
        (failed,) = world.client.failed["r"]
        assert (failed.kind, failed.reason) == ("stage_lost", "it was opened in vain")
        assert not world.client.lost[0].is_stuck

    simulate(scenario)


def test_a_reader_that_is_gone_frees_what_its_requests_had() -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        router = world.head.spawn(Reader(), name="router")
        world.head.tell(world.pipeline, request("r", [1] * 20, 25), sender=router)
        await asyncio.sleep(0.1)
        assert (await load(world)).num_running == 1
        await stop_actor(world.head, "router")
        await asyncio.sleep(1)
        report = await load(world)
        assert (report.num_running, report.num_free_blocks) == (0, report.num_blocks)

    simulate(scenario)


def test_a_hung_stage_is_noticed_by_its_overdue_step() -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        world.devices[1].hangs = True
        world.generate(request("r", [1, 2], 4))
        await world.client.until(lambda client: client.num_ended == 1 and bool(client.lost))
        (failed,) = world.client.failed["r"]
        assert "took longer than 4 s" in failed.reason
        assert [lost.is_stuck for lost in world.client.lost] == [True]

    simulate(scenario)


def test_an_idle_pipeline_is_never_overdue() -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        await asyncio.sleep(100)
        world.generate(request("r", [1, 2], 4))
        await world.client.until(lambda client: client.num_ended == 1)
        world.assert_right("r")

    simulate(scenario)


@pytest.mark.parametrize("goes_on", [True, False])
def test_no_blocks_are_kept_for_hand_offs_while_a_forgotten_step_may_write_them(
    goes_on: bool,
) -> None:
    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            ring = world.pipeline_actor._ring

            async def is_kept(name: str) -> bool:
                wish = ReserveBlocks(request=name, num_blocks=1, lease_s=60, is_hand_off=True)
                answer = await world.head.ask(world.pipeline, wish, timeout_s=60)
                assert isinstance(answer, BlocksReserved)
                return bool(answer.blocks)

            assert await is_kept("before")
            world.generate(request("r", [1, 2], 20))
            await world.client.until(lambda client: bool(client.tokens))
            while not ring.oldest_step_s():  # noqa: ASYNC110  there is no event of it
                await asyncio.sleep(0.0001)
            ring.abandon()
            assert not await is_kept("meanwhile")
            if goes_on:
                ring.pump()
                await world.client.until(lambda client: client.num_ended == 1)
                world.assert_right("r")
            else:
                await asyncio.sleep(4)  # as long as a step may take here
            assert await is_kept("after")

    run(scenario, seed=0)


def test_outputs_of_another_epoch_or_of_no_step_in_flight_are_dropped() -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        token = (7).to_bytes(4, "little")
        for epoch, step in ((2, 0), (1, 12345)):
            world.head.tell(world.pipeline, StepOutput(epoch=epoch, step=step, token_ids=token))
        world.generate(request("r", [1, 2], 4))
        await world.client.until(lambda client: client.num_ended == 1)
        world.assert_right("r")

    simulate(scenario)


def trace(seed: int) -> list[tuple[float, str, tuple[int, ...]]]:
    """When each token came, in a run in which a stage is lost."""
    events: list[tuple[float, str, tuple[int, ...]]] = []

    async def scenario(world: World, rng: random.Random) -> None:
        names = send_many(world, rng, 12)
        loop = asyncio.get_running_loop()
        while world.client.num_ended < 12:
            world.client.news.clear()
            await world.client.news.wait()
            had = world.client.tokens
            events.extend((loop.time(), name, tuple(had.get(name, ()))) for name in names)
            if len(events) > 200:
                world.network.lose("stage1")

    simulate(scenario, seed=seed)
    return events


def test_one_seed_gives_one_trace_and_another_seed_another() -> None:
    first = trace(3)
    assert len(first) > 200
    assert trace(3) == first
    assert trace(4) != first


async def stage_loads(world: World) -> StageLoads:
    report = await world.head.ask(world.pipeline, GetStageLoads(), timeout_s=5)
    assert isinstance(report, StageLoads)
    return report


def test_stages_tell_of_their_steps_and_a_lost_one_is_left_out() -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        send_many(world, rng, 5)
        await world.client.until(lambda client: client.num_ended == 5)
        loads, num_steps = await stage_loads(world), (await load(world)).num_steps
        assert loads.num_stages == 3
        assert [stage.stage for stage in loads.stages] == [0, 1, 2]
        assert [stage.num_steps for stage in loads.stages] == [num_steps] * 3
        assert [stage.sent_bytes > 0 for stage in loads.stages] == [True, True, False]
        for stage in loads.stages:
            assert 0 < stage.busy_s <= stage.resident_s
            assert stage.idle_s > 0
            assert stage.num_queued == 0
        assert loads.round_s > sum(stage.resident_s for stage in loads.stages)
        world.network.lose("stage1")
        assert [stage.stage for stage in (await stage_loads(world)).stages] == [0, 2]

    simulate(scenario, num_stages=3)
