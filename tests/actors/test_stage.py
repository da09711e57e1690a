import asyncio
import random
from typing import Any

import msgspec
import numpy as np
import pytest

from actors.kernel.ref import Ref
from actors.kernel.virtual_time import run
from actors.messages import (
    BlockPiece,
    BlocksSent,
    BlocksWritten,
    Cancel,
    Fence,
    ReplayFrom,
    SendBlocks,
    StageFailed,
    StageReady,
    StepInput,
    WriteBlocks,
)
from actors.stage import LEASE_S
from models.emulated import WORD_BYTES
from tests.actors.emulated_pipeline import assignment, opened, request
from transport.endpoint import PeerLost
from transport.errors import PeerGone


def test_a_stage_tells_its_observer_how_far_it_has_loaded() -> None:
    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            wanted = assignment(0, (0, 2), world.pipeline, world.pipeline, epoch=2)
            told = msgspec.structs.replace(wanted, observer=world.client_ref)
            await world.head.ask(world.stage_refs[0], told, timeout_s=60)
            await world.client.until(lambda client: len(client.progress) == 2)
            assert [(p.epoch, p.stage, p.num_bytes) for p in world.client.progress] == [
                (2, 0, 50),
                (2, 0, 100),
            ]

    run(scenario, seed=0)


def test_a_new_epoch_of_the_same_layers_loads_nothing_and_other_layers_do() -> None:
    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            stage, device = world.stage_refs[0], world.devices[0]
            same = assignment(0, (0, 3), world.pipeline, world.pipeline)
            newer = msgspec.structs.replace(same, epoch=2)
            ready = await world.head.ask(stage, newer, timeout_s=60)
            assert isinstance(ready, StageReady)
            assert (ready.epoch, device.num_loads) == (2, 1)
            other = msgspec.structs.replace(newer, end=4, epoch=3)
            ready = await world.head.ask(stage, other, timeout_s=60)
            assert isinstance(ready, StageReady)
            assert (ready.epoch, device.num_loads) == (3, 2)

    run(scenario, seed=0)


def test_a_stage_that_cannot_load_says_why_and_serves_on_with_what_it_held() -> None:
    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            stage = world.stage_refs[0]
            wanted = assignment(0, (0, 3), world.pipeline, world.pipeline)
            failed = await world.head.ask(
                stage, msgspec.structs.replace(wanted, model="missing", epoch=2), timeout_s=60
            )
            assert isinstance(failed, StageFailed)
            assert (failed.epoch, failed.reason) == (2, "no such folder: missing")
            world.generate(request("r", [1, 2, 3], 5))
            await world.client.until(lambda client: client.num_ended == 1)
            world.assert_right("r")
            assert world.stages[0].num_stale_steps == 0

    run(scenario, seed=0)


@pytest.mark.parametrize("epoch", [0, 2])
def test_a_step_of_another_epoch_is_dropped(epoch: int) -> None:
    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            world.head.tell(world.stage_refs[0], StepInput(epoch=epoch, step=1, batch=b""))
            world.generate(request("r", [1, 2], 3))
            await world.client.until(lambda client: client.num_ended == 1)
            world.assert_right("r")
            assert world.stages[0].num_stale_steps == 1

    run(scenario, seed=0)


def test_a_step_that_is_no_batch_ends_the_stage_and_its_pipeline_holds_its_requests() -> None:
    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            world.generate(request("r", [1, 2], 40))
            world.head.tell(world.stage_refs[1], StepInput(epoch=1, step=1, batch=b"garbage"))
            await world.client.until(lambda client: client.num_ended == 1 and bool(client.lost))
            assert world.client.failed["r"][0].reason == (
                "stage 1 of pipeline p0 was lost; nothing replaced it within 20 s"
            )

    run(scenario, seed=0)


def test_a_step_that_fails_at_the_device_is_counted_as_ended() -> None:
    def fail(function: object) -> asyncio.Future[Any]:
        failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        failed.set_exception(RuntimeError("out of memory"))
        return failed

    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            world.devices[1].run = fail  # type: ignore[method-assign]
            world.generate(request("r", [1, 2], 40))
            await world.client.until(lambda client: client.num_ended == 1 and bool(client.lost))
            counters = world.stages[1].counters
            assert (counters.num_steps, counters.num_queued) == (1, 0)

    run(scenario, seed=0)


def test_a_message_that_is_not_for_stages_harms_nobody() -> None:
    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            world.head.tell(world.stage_refs[0], Cancel(request="x"))
            world.head.tell(world.pipeline, assignment(0, (0, 1), world.pipeline, world.pipeline))
            world.generate(request("r", [1, 2], 3))
            await world.client.until(lambda client: client.num_ended == 1)
            world.assert_right("r")

    run(scenario, seed=0)


def test_a_stage_holds_a_bounded_number_of_steps_and_loses_none_beyond() -> None:
    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            stale = StepInput(epoch=7, step=1, batch=b"")
            for _ in range(100):
                world.head.tell(world.stage_refs[0], stale)
            await asyncio.sleep(1)
            assert world.stages[0].num_stale_steps == 100

    run(scenario, seed=0)


# --- epochs


def test_a_fence_is_answered_behind_all_steps_and_lets_no_older_one_in() -> None:
    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            stage = world.stage_refs[0]
            world.generate(request("r", [1, 2], 20))
            await world.client.until(lambda client: bool(client.tokens))
            assert await world.head.ask(stage, Fence(epoch=2), timeout_s=60) == Fence(epoch=2)
            num_runs = world.devices[0].num_runs
            await world.client.until(lambda client: client.num_ended == 1)
            assert world.devices[0].num_runs == num_runs
            assert world.stages[0].num_stale_steps > 0
            assert "took longer than 4 s" in world.client.failed["r"][0].reason

    run(scenario, seed=0)


def test_what_was_prepared_and_never_used_is_let_go_of_when_its_lease_ends() -> None:
    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            stage, device = world.stage_refs[0], world.devices[0]
            wanted = assignment(0, (0, 4), world.pipeline, world.pipeline, epoch=2)
            await world.head.ask(stage, wanted, timeout_s=60)
            nothing = copying(0, 1, stage, epoch=2)
            sent = await world.head.ask(stage, nothing, timeout_s=60)
            assert sent == BlocksSent(num_bytes=0, failure=None)
            await asyncio.sleep(LEASE_S + 1)
            sent = await world.head.ask(stage, nothing, timeout_s=60)
            assert sent == BlocksSent(num_bytes=0, failure="epoch 2 is not held here")
            world.generate(request("r", [1, 2], 5))
            await world.client.until(lambda client: client.num_ended == 1)
            world.assert_right("r")
            assert device.num_loads == 2

    run(scenario, seed=0)


# --- blocks


def copying(start: int, end: int, target: Ref, *blocks: int, epoch: int = 1) -> SendBlocks:
    ids = np.asarray(blocks, "<i4").tobytes()
    return SendBlocks(
        epoch=epoch,
        start=start,
        end=end,
        blocks=ids,
        target=target,
        target_epoch=epoch,
        target_blocks=ids,
        deadline_s=60,
    )


def test_blocks_go_from_stage_to_stage_while_both_serve() -> None:
    """The second stage lends its layers to the first one's next epoch, which has them then."""

    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            first, second = world.stage_refs
            prompt = [7, 8, 9, 10, 11]
            world.generate(request("r", prompt, 3))
            await world.client.until(lambda client: client.num_ended == 1)
            wanted = assignment(0, (0, 6), world.pipeline, world.pipeline, epoch=2)
            await world.head.ask(first, wanted, timeout_s=60)
            blocks = range(16)
            order = copying(3, 6, first, *blocks)
            order = msgspec.structs.replace(order, target_epoch=2)
            sent = await world.head.ask(second, order, timeout_s=60)
            assert sent == BlocksSent(num_bytes=3 * 16 * 4 * WORD_BYTES, failure=None)
            held = {h.assignment.epoch: h.loaded.shard for h in world.stages[0]._holding}
            theirs = next(iter(world.stages[1]._holding)).loaded.shard
            ids = np.arange(16, dtype=np.int32)
            for layer in range(3, 6):
                assert held[2].read_blocks(layer, ids) == theirs.read_blocks(layer, ids)

    run(scenario, seed=0)


def test_blocks_of_an_epoch_that_is_not_held_are_neither_sent_nor_written() -> None:
    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            first, second = world.stage_refs
            order = copying(0, 1, second, 1, 2)
            other = msgspec.structs.replace(order, epoch=9)
            sent = await world.head.ask(first, other, timeout_s=60)
            assert sent == BlocksSent(num_bytes=0, failure="epoch 9 is not held here")
            other = msgspec.structs.replace(order, target_epoch=9)
            sent = await world.head.ask(first, other, timeout_s=60)
            assert isinstance(sent, BlocksSent)
            assert str(sent.failure).endswith("epoch 9 is not held here")
            part = BlockPiece(0, 1, b"", bytes(8))
            piece = WriteBlocks(epoch=1, pieces=(part,))
            answer = await world.head.ask(first, piece, timeout_s=60)
            why = "expected 1 buffers, got 0"
            assert answer == BlocksWritten(failure=why)
            piece = msgspec.structs.replace(piece, epoch=9)
            answer = await world.head.ask(first, piece, timeout_s=60)
            assert answer == BlocksWritten(failure="epoch 9 is not held here")

    run(scenario, seed=0)


@pytest.mark.parametrize(
    ("step", "failure"),
    [
        (1 << 20, "step 1048576 of epoch 1 was not run within 0.5 s"),
        (3, None),
    ],
)
def test_blocks_that_a_step_fills_are_sent_once_it_was_run(step: int, failure: str | None) -> None:
    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            first, second = world.stage_refs
            wanted = assignment(0, (0, 6), world.pipeline, world.pipeline, epoch=2)
            await world.head.ask(second, wanted, timeout_s=60)
            order = copying(0, 3, second, *range(16))
            order = msgspec.structs.replace(order, target_epoch=2, after_step=step, deadline_s=0.5)
            async with asyncio.TaskGroup() as group:
                sent = group.create_task(world.head.ask(first, order, timeout_s=60))
                await asyncio.sleep(0.1)
                assert not sent.done()
                world.generate(request("r", [7, 8, 9], 9))
                await world.client.until(lambda client: client.num_ended == 1)
            num_bytes = 0 if failure else 3 * 16 * 4 * WORD_BYTES
            assert sent.result() == BlocksSent(num_bytes=num_bytes, failure=failure)
            late = msgspec.structs.replace(order, after_step=2)
            sent_late = await world.head.ask(first, late, timeout_s=60)
            assert sent_late == BlocksSent(num_bytes=3 * 16 * 4 * WORD_BYTES, failure=None)

    run(scenario, seed=0)


def test_waiting_for_a_step_and_sending_what_it_filled_have_one_deadline() -> None:
    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            loop = asyncio.get_running_loop()
            wanted = assignment(0, (0, 6), world.pipeline, world.pipeline, epoch=2)
            await world.head.ask(world.stage_refs[1], wanted, timeout_s=60)
            order = copying(0, 3, world.stage_refs[1], *range(16))
            order = msgspec.structs.replace(order, target_epoch=2, after_step=0, deadline_s=2)
            world.devices[1].hangs = True
            async with asyncio.TaskGroup() as group:
                began = loop.time()
                sent = group.create_task(world.head.ask(world.stage_refs[0], order, timeout_s=60))
                await asyncio.sleep(1.5)
                world.generate(request("r", [7, 8, 9], 9))
            assert isinstance(answer := sent.result(), BlocksSent)
            assert answer.failure == "not done within 2 s"
            assert loop.time() - began < 2.1  # on virtual time

    run(scenario, seed=0)


def test_blocks_of_a_step_that_was_not_run_are_not_sent() -> None:
    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            world.generate(request("r", [7, 8, 9], 9))
            await world.client.until(lambda client: client.num_ended == 1)
            stage = world.stages[0]
            stage._marks.mark(1, 50)
            order = msgspec.structs.replace(copying(0, 3, world.stage_refs[1], 1), after_step=49)
            sent = await world.head.ask(world.stage_refs[0], order, timeout_s=60)
            assert sent == BlocksSent(num_bytes=0, failure="step 49 of epoch 1 was not run here")

    run(scenario, seed=0)


# --- neighbours


def test_a_stage_that_loses_the_next_one_tells_the_pipeline() -> None:
    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            for near, far in (("stage0", "stage1"), ("stage1", "stage0")):
                peer = world.network.endpoints[far].identity
                lost = PeerLost(peer, PeerGone(f"{far} fell silent"))
                world.network.endpoints[near].events.put_nowait(lost)
            world.generate(request("r", [1, 2], 5))
            await world.client.until(lambda client: client.num_ended == 1)
            assert world.client.failed["r"][0].reason == (
                "stage 1 of pipeline p0 was lost; nothing replaced it within 20 s"
            )

    run(scenario, seed=0)


def test_to_replay_what_is_not_logged_is_a_stale_step_and_no_crash() -> None:
    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            replay = ReplayFrom(epoch=1, step=1, batch=b"", last=1)
            world.head.tell(world.stage_refs[1], replay)
            world.head.tell(world.stage_refs[0], msgspec.structs.replace(replay, epoch=9))
            world.generate(request("r", [1, 2], 5))
            await world.client.until(lambda client: client.num_ended == 1)
            world.assert_right("r")
            assert [stage.num_stale_steps for stage in world.stages] == [1, 1]

    run(scenario, seed=0)
