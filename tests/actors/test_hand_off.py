"""Requests begin in one pipeline and go on in another: every token right, whatever fails."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from actors import hand_off
from actors.kernel.virtual_time import run
from actors.messages import (
    AssignStage,
    DrainNode,
    HandOffCounts,
    MoveRequest,
    StepInput,
    WriteBlocks,
)
from actors.mover import Mover
from actors.pipeline import PipelineActor
from actors.placement import ServiceSettings, StageWish
from actors.stage import StageActor
from actors.swap import Resident
from actors.turns import Turns
from models.interface import ForwardResult
from tests.actors.emulated_pipeline import VOCAB, request
from tests.actors.emulated_service import Service, service, settings
from transport.codec import Message

Scenario = Callable[[Service], Coroutine[Any, Any, None]]
WHOLE, CUT, THIRDS = ((0, 6),), ((0, 5), (5, 6)), ((0, 1), (1, 4), (4, 6))


def wanted(
    prefill: tuple[tuple[int, int], ...] = CUT,
    decode: tuple[tuple[int, int], ...] = WHOLE,
    *,
    nodes: tuple[str, str] = ("a", "b"),
    phases: tuple[Any, ...] = ("prefill", "decode"),
    **changes: Any,
) -> ServiceSettings:
    pipelines = tuple(
        tuple(StageWish(node=node, layers=layers) for layers in ranges)
        for node, ranges in zip(nodes, (prefill, decode), strict=True)
    )
    usual = {"pipelines": pipelines, "num_stages": 0, "phases": phases, "wait_nodes": nodes}
    usual["num_blocks"] = 80
    return settings(**{**usual, **changes})


def simulate(scenario: Scenario, service_of: ServiceSettings, *, seed: int = 0) -> None:
    async def main(rng: random.Random) -> None:
        async with service(rng, service_of) as world:
            for node in dict.fromkeys(service_of.wait_nodes):
                await world.start_node(node)
            await world.until(lambda world: world.is_ready)
            await scenario(world)

    run(main, seed=seed)


def actor_of(world: Service, pipeline: str) -> PipelineActor:
    for name in sorted(world.systems):
        for child in world.systems[name]._tree._by_name.values():
            actor = child.cell._actor
            if isinstance(actor, PipelineActor) and actor._opened.pipeline == pipeline:
                return actor
    raise AssertionError(f"no pipeline {pipeline}")


def counts(world: Service, pipeline: str = "0") -> HandOffCounts:
    return actor_of(world, pipeline)._hand_offs.counts


def is_at_rest(world: Service) -> bool:
    """Nothing is held, kept or under way in any pipeline."""
    for pipeline in "01":
        actor = actor_of(world, pipeline)
        statistics = actor._ring.batcher.statistics()
        if statistics.num_free_blocks != statistics.num_blocks or len(actor._reserved):
            return False
        if actor._hand_offs._waiting or actor._hand_offs._under_way or actor._routers:
            return False
    return True


def prompt_of(world: Service, length: int) -> list[int]:
    return [world.rng.randrange(VOCAB) for _ in range(length)]


@pytest.mark.parametrize(
    ("prefill", "decode"), [(WHOLE, WHOLE), (CUT, WHOLE), (WHOLE, CUT), (CUT, THIRDS)]
)
def test_requests_go_on_elsewhere_with_every_token_right_however_the_pipelines_are_split(
    prefill: tuple[tuple[int, int], ...], decode: tuple[tuple[int, int], ...]
) -> None:
    async def scenario(world: Service) -> None:
        assert Counter(await world.generate_many(24)) == {"right": 24}
        assert counts(world).num_done > 4
        assert counts(world).num_failed == 0
        assert counts(world, "1") == HandOffCounts()
        assert world.notes == []
        await world.until(is_at_rest)

    simulate(scenario, wanted(prefill, decode))


def test_the_second_token_comes_from_the_taker_and_the_first_from_where_it_began() -> None:
    async def scenario(world: Service) -> None:
        stream = world.router.open(request("r", prompt_of(world, 30), 12))
        await world.until(lambda _: len(stream.delivered) >= 1)
        assert stream.pipeline == "0"
        await world.until(lambda _: len(stream.delivered) >= 2)
        assert stream.pipeline == "1"
        assert actor_of(world, "0")._ring.batcher.sequences == ()
        await world.read_all(stream)
        assert counts(world).num_bytes == 6 * -(-30 // 4) * 4 * 8  # layers, blocks, tokens, bytes

    simulate(scenario, wanted())


def test_blocks_travel_while_the_prompt_is_still_being_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copied: list[tuple[int, int]] = []  # blocks copied, and prompt tokens that were left to compute
    copy = Mover.copy

    async def noted(
        self: Mover, resident: Resident, blocks: tuple[int, ...], **when: int | None
    ) -> None:
        await copy(self, resident, blocks, **when)
        sequence = self._ring.batcher.sequence("r")  # type: ignore[attr-defined]
        if blocks and sequence is not None:
            copied.append((len(blocks), max(0, 56 - sequence.num_computed)))

    monkeypatch.setattr(Mover, "copy", noted)

    async def scenario(world: Service) -> None:
        assert await world.generate("r", prompt_of(world, 56), 6) == "right"
        assert sum(number for number, _ in copied) == 14
        during = sum(number for number, left in copied if left > 0)
        assert during >= 6  # of 14; what the last chunk fills can only come after it
        assert counts(world).num_done == 1

    simulate(scenario, wanted(max_step_tokens=8))


def test_layers_travel_while_later_stages_still_compute_the_last_chunk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    write, finish = StageActor._write, StageActor._finish_step

    async def written(self: StageActor, message: WriteBlocks, buffers: Any) -> Message:
        answer = await write(self, message, buffers)
        seen.append(f"layer {message.pieces[0].layer} arrived")
        return answer

    def finished(self: StageActor, step: StepInput, on: AssignStage, result: ForwardResult) -> None:
        seen.append(f"stage {on.stage} of {on.pipeline} ran")
        finish(self, step, on, result)

    monkeypatch.setattr(StageActor, "_write", written)
    monkeypatch.setattr(StageActor, "_finish_step", finished)

    async def scenario(world: Service) -> None:
        assert await world.generate("r", prompt_of(world, 20), 6) == "right"
        assert counts(world).num_done == 1
        assert seen.index("layer 0 arrived") < seen.index("stage 2 of 0 ran")
        assert seen.count("layer 0 arrived") == 1

    simulate(scenario, wanted(prefill=THIRDS, max_step_tokens=64))


@pytest.mark.parametrize(("num_prompt", "num_output"), [(3, 9), (20, 1)])
def test_what_is_not_worth_it_stays_where_it_began(num_prompt: int, num_output: int) -> None:
    async def scenario(world: Service) -> None:
        assert await world.generate("r", prompt_of(world, num_prompt), num_output) == "right"
        assert counts(world) == HandOffCounts()

    simulate(scenario, wanted())


def test_a_request_goes_on_where_it_began_while_the_taker_has_no_room() -> None:
    async def scenario(world: Service) -> None:
        taken = actor_of(world, "1")._ring.batcher.reserve(78)
        assert await world.generate("r", prompt_of(world, 20), 12) == "right"
        assert (counts(world).num_stayed, counts(world).num_done) == (1, 0)
        actor_of(world, "1")._ring.batcher.give_back(taken or [])
        assert await world.generate("s", prompt_of(world, 20), 12) == "right"
        assert counts(world).num_done == 1
        await world.until(is_at_rest)

    simulate(scenario, wanted())


def test_a_request_that_found_no_room_goes_once_there_is_some() -> None:
    async def scenario(world: Service) -> None:
        batcher = actor_of(world, "1")._ring.batcher
        taken = batcher.reserve(78)
        stream = world.router.open(request("r", prompt_of(world, 20), 150))
        await world.until(lambda _: len(stream.delivered) > 30)
        assert (stream.pipeline, counts(world).num_stayed) == ("0", 1)
        batcher.give_back(taken or [])
        await world.until(lambda _: counts(world).num_done == 1)
        assert len(stream.delivered) < 150
        await world.until(lambda _: stream.pipeline == "1")
        await world.read_all(stream)
        assert counts(world).num_stayed == 1
        await world.until(is_at_rest)

    simulate(scenario, wanted(max_model_len=200))


@pytest.mark.parametrize("which", ["0", "1"])
@pytest.mark.parametrize("seed", range(3))
def test_no_token_differs_when_a_pipelines_node_is_lost_amid_hand_offs(
    which: str, seed: int
) -> None:
    async def scenario(world: Service) -> None:
        node = "ab"[int(which)]
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(24))
            await world.until(lambda _: counts(world).num_done > 1)
            await asyncio.sleep(world.rng.uniform(0, 0.05))
            world.kill_node(node)
            await asyncio.sleep(0.5)
            await world.start_node(node)
        assert Counter(running.result()) == {"right": 24}
        await world.until(lambda world: world.is_ready)
        await world.until(lambda world: is_at_rest(world))

    simulate(scenario, wanted(), seed=seed)


@pytest.mark.parametrize("which", ["0.0", "0.1", "1.0"])
def test_no_token_differs_when_a_stage_of_either_pipeline_is_lost_amid_hand_offs(
    which: str,
) -> None:
    async def scenario(world: Service) -> None:
        node = "ab"[int(which[0])]
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(24))
            await world.until(lambda _: counts(world).num_done > 1)
            await asyncio.sleep(world.rng.uniform(0, 0.05))
            world.living(f"{node}/stage-{which}").die()
        assert Counter(running.result()) == {"right": 24}
        await world.until(is_at_rest)

    simulate(scenario, wanted())


@pytest.mark.parametrize("moment", ["reserve", "copy", "give"])
def test_the_taker_may_be_lost_before_during_and_after_it_is_asked_to_take_over(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place: Any = Mover if moment in ("reserve", "copy") else hand_off
    real = getattr(place, moment)
    worlds: list[Service] = []

    async def fatal(*arguments: Any, **named: Any) -> Any:
        if worlds:
            world = worlds.pop()
            asyncio.get_running_loop().call_later(0.001, world.kill_node, "b")
        return await real(*arguments, **named)

    monkeypatch.setattr(place, moment, fatal)

    async def scenario(world: Service) -> None:
        worlds.append(world)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(8))
            await world.until(lambda _: not worlds)
            await asyncio.sleep(0.5)
            await world.start_node("b")
        assert Counter(running.result()) == {"right": 8}
        await world.until(lambda world: world.is_ready)
        await world.until(is_at_rest)

    simulate(scenario, wanted())


@pytest.mark.parametrize("seed", range(3))
def test_a_reader_that_goes_amid_a_hand_off_leaves_nothing_behind_at_either_end(seed: int) -> None:
    async def scenario(world: Service) -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(6))
            for number in range(10):
                stream = world.router.open(request(f"gone{number}", prompt_of(world, 30), 20))
                await asyncio.sleep(world.rng.uniform(0, 0.4))
                world.router.close(stream)
        assert Counter(running.result()) == {"right": 6}
        await world.until(is_at_rest, timeout_s=hand_off.STALL_S)

    simulate(scenario, wanted(), seed=seed)


def test_blocks_kept_for_a_request_that_never_comes_are_free_when_its_lease_is_over() -> None:
    async def scenario(world: Service) -> None:
        stream = world.router.open(request("r", prompt_of(world, 40), 20))
        await world.until(lambda _: len(actor_of(world, "1")._reserved) == 1)
        began = asyncio.get_running_loop().time()
        world.kill_node("a")
        world.router.close(stream)
        await world.until(lambda _: len(actor_of(world, "1")._reserved) == 0)
        assert asyncio.get_running_loop().time() - began <= hand_off.LEASE_S

    simulate(scenario, wanted(max_step_tokens=4))


def test_a_long_prompts_blocks_are_kept_for_as_long_as_it_is_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lease is renewed as the prompt gets on, so that it may be shorter than the prompt."""
    monkeypatch.setattr(hand_off, "STALL_S", 0.5)
    monkeypatch.setattr(hand_off, "LEASE_S", 0.8)

    async def scenario(world: Service) -> None:
        began = asyncio.get_running_loop().time()
        assert await world.generate("r", prompt_of(world, 58), 4) == "right"
        assert asyncio.get_running_loop().time() - began > 2 * hand_off.LEASE_S
        assert counts(world).num_done == 1

    simulate(scenario, wanted(THIRDS, max_step_tokens=1))


def test_a_request_that_is_being_handed_off_is_not_moved_by_order() -> None:
    async def scenario(world: Service) -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate("r", prompt_of(world, 40), 6))
            await world.until(lambda _: len(actor_of(world, "1")._reserved) == 1)
            wish = MoveRequest(request="r", from_pipeline="0", to_pipeline="1")
            report = await world.ask(wish)
            assert not report.is_done
            assert "is being handed off" in report.reason
        assert running.result() == "right"
        assert counts(world).num_done == 1

    simulate(scenario, wanted(max_step_tokens=4))


def test_requests_begin_and_end_in_a_decode_pipeline_while_no_other_is_up() -> None:
    async def scenario(world: Service) -> None:
        world.kill_node("a")
        await asyncio.sleep(0.2)
        assert Counter(await world.generate_many(6)) == {"right": 6}
        assert actor_of(world, "1")._ring.num_steps > 0

    simulate(scenario, wanted())


@pytest.mark.parametrize(("num_blocks", "stays"), [(8, False), (0, True)])
def test_who_waits_long_for_a_turn_is_served_meanwhile_and_stays_if_it_outgrows_what_is_kept(
    num_blocks: int, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hand_off, "PATIENCE_S", 0.01)
    monkeypatch.setattr(hand_off, "QUEUE_BLOCKS", num_blocks)

    async def scenario(world: Service) -> None:
        offs, taker = actor_of(world, "0")._hand_offs, actor_of(world, "1")
        turns = offs._turns[taker.context.self_ref] = Turns(1)
        async with asyncio.TaskGroup() as group, turns.taken():
            running = group.create_task(world.generate("r", prompt_of(world, 28), 30))
            await world.until(lambda _: len(taker._reserved) == 1)
            await world.until(lambda world: len(world.router.streams[0].delivered) > 8)
        assert running.result() == "right"
        assert (counts(world).num_stayed, counts(world).num_done) == (stays, not stays)
        await world.until(is_at_rest)

    simulate(scenario, wanted())


def test_what_a_step_left_in_a_block_that_still_grows_is_not_taken_for_all_of_the_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All turns go to others behind the copy of the last step, until the request has some tokens.

    Whoever lets go of its turn there is served meanwhile, into a block that was copied.
    """
    monkeypatch.setattr(hand_off, "PATIENCE_S", 0.01)
    monkeypatch.setattr(hand_off, "QUEUE_BLOCKS", 8)
    is_copied_behind_step = asyncio.Event()
    copy = Mover.copy

    async def noted(self: Mover, resident: Resident, blocks: Any, **when: int | None) -> None:
        if when.get("after_step") is not None and blocks:
            is_copied_behind_step.set()
        await copy(self, resident, blocks, **when)

    monkeypatch.setattr(Mover, "copy", noted)

    async def scenario(world: Service) -> None:
        offs, taker = actor_of(world, "0")._hand_offs, actor_of(world, "1")
        turns = offs._turns[taker.context.self_ref] = Turns(2)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate("r", prompt_of(world, 21), 28))
            async with asyncio.timeout(5):
                await is_copied_behind_step.wait()
            async with turns.taken(), turns.taken(is_urgent=True):
                await world.until(lambda world: len(world.router.streams[0].delivered) > 8)
        assert running.result() == "right"
        assert counts(world).num_done == 1
        await world.until(is_at_rest)

    simulate(scenario, wanted(prefill=THIRDS, max_step_tokens=64))


@pytest.mark.parametrize("seed", range(2))
def test_requests_whose_pipeline_leaves_its_node_are_handed_off_from_where_it_is_then(
    seed: int,
) -> None:
    async def scenario(world: Service) -> None:
        before = actor_of(world, "0")
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(24))
            await world.until(lambda _: bool(before._hand_offs._under_way))
            report = await world.ask(DrainNode(node="a", deadline_s=30))
            assert report.is_done, report.reason
        assert Counter(running.result()) == {"right": 24}
        assert actor_of(world, "0") is not before
        assert counts(world).num_done > 2
        assert world.notes == []
        await world.until(is_at_rest)

    simulate(scenario, wanted(wait_nodes=("a", "b", "c"), num_spares=2), seed=seed)


@pytest.mark.parametrize("encoding", ["none", "int8", "int4"])
def test_hand_offs_alone_travel_in_the_encoding_that_was_asked_for(
    encoding: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, str]] = []
    copy = Mover.copy

    async def noted(mover: Mover, resident: Resident, blocks: Any) -> None:
        sent.append((mover.request, mover.encoding))
        await copy(mover, resident, blocks)

    monkeypatch.setattr(Mover, "copy", noted)

    async def scenario(world: Service) -> None:
        stream = world.router.open(request("r", prompt_of(world, 30), 40))
        await world.until(lambda _: stream.pipeline == "1")
        assert {encoding} == {used for _, used in sent}
        del sent[:]
        move = MoveRequest(request="r", from_pipeline="1", to_pipeline="0")
        assert (await world.ask(move)).is_done
        assert [used for _, used in sent] == ["none"] * len(sent)
        assert sent
        await world.read_all(stream)
        assert Counter(await world.generate_many(6)) == {"right": 6}

    simulate(scenario, wanted(kv_transport=encoding))
