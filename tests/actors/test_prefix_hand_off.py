"""What a pipeline has of a request's beginning is not sent to it again."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from actors.kernel.virtual_time import run
from actors.messages import (
    BlocksReserved,
    MoveRequest,
    ReleaseBlocks,
    ReserveBlocks,
    SequenceState,
    TakenOver,
    TakeOver,
)
from actors.migration import block_ids
from actors.mover import Mover
from actors.swap import Resident
from scheduling.prefixes import extend_digests
from tests.actors.emulated_pipeline import NUM_LAYERS, VOCAB, World, opened, request
from tests.actors.emulated_service import Service
from tests.actors.test_hand_off import actor_of, counts, is_at_rest, prompt_of, simulate, wanted

BLOCK_TOKENS = 4
BLOCK_BYTES = NUM_LAYERS * BLOCK_TOKENS * 8
BEGINNING = [random.Random(7).randrange(VOCAB) for _ in range(20)]


def kept(world: Service, pipeline: str) -> int:
    return actor_of(world, pipeline)._ring.batcher.statistics().num_kept_blocks


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[int]]]:
    """Each copy: whose, and which of its blocks by place."""
    found: list[tuple[str, list[int]]] = []
    copy = Mover.copy

    async def noted(mover: Mover, resident: Resident, blocks: Any, **when: int | None) -> None:
        found.append((mover.request, [resident.blocks.index(block) for block in blocks]))
        await copy(mover, resident, blocks, **when)

    monkeypatch.setattr(Mover, "copy", noted)
    return found


# --- hand-offs


def test_blocks_that_are_at_the_decode_side_are_not_sent_again(
    copied: list[tuple[str, list[int]]],
) -> None:
    async def scenario(world: Service) -> None:
        prompt = prompt_of(world, 30)
        assert await world.generate("a", prompt, 12) == "right"
        assert (counts(world).num_present_blocks, counts(world).num_bytes) == (0, 8 * BLOCK_BYTES)
        assert await world.generate("b", [*prompt[:26], 1, 2, 3, 4], 12) == "right"
        told = counts(world)
        assert (told.num_done, told.num_present_blocks) == (2, 6)
        assert (told.num_present_bytes, told.num_bytes) == (6 * BLOCK_BYTES, 10 * BLOCK_BYTES)
        places = [place for name, places in copied for place in places if name == "b"]
        assert sorted(places) == [6, 7]
        await world.until(is_at_rest)

    simulate(scenario, wanted())


@pytest.mark.parametrize("seed", range(3))
def test_many_requests_that_begin_alike_are_right_on_both_sides(seed: int) -> None:
    async def scenario(world: Service) -> None:
        beginning = prompt_of(world, 24)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(world.generate(f"r{n}", [*beginning[: n % 25], n], 4 + n % 9))
                for n in range(24)
            ]
        assert {task.result() for task in tasks} == {"right"}
        assert counts(world).num_present_blocks > 2
        for pipeline in "01":
            actor_of(world, pipeline)._ring.batcher.check_integrity()
        await world.until(is_at_rest)

    simulate(scenario, wanted(max_step_tokens=8), seed=seed)


@pytest.mark.parametrize("encoding", ["int8", "int4"])
def test_what_came_encoded_is_never_shared_with_another(encoding: Any) -> None:
    async def scenario(world: Service) -> None:
        prompt = prompt_of(world, 30)
        for name in "ab":
            assert await world.generate(name, prompt, 12) == "right"
        assert (counts(world).num_done, counts(world).num_present_blocks) == (2, 0)
        assert kept(world, "1") == 0
        assert kept(world, "0") > 0
        await world.until(is_at_rest)

    simulate(scenario, wanted(kv_transport=encoding))


def test_what_came_encoded_stays_unshared_when_it_moves_on() -> None:
    async def scenario(world: Service) -> None:
        stream = world.router.open(request("r", prompt_of(world, 30), 40))
        await world.until(lambda _: stream.pipeline == "1")
        num_kept = kept(world, "0")
        move = MoveRequest(request="r", from_pipeline="1", to_pipeline="0")
        assert (await world.ask(move)).is_done
        await world.read_all(stream)
        assert kept(world, "0") == num_kept, "only what was computed there before"
        await world.until(is_at_rest)

    simulate(scenario, wanted(kv_transport="int8"))


def test_a_request_that_moves_takes_no_block_along_that_is_there() -> None:
    async def scenario(world: Service) -> None:
        prompt = prompt_of(world, 30)
        assert await world.generate("a", prompt, 12) == "right"
        stream = world.router.open(request("b", prompt, 30))
        await world.until(lambda _: stream.pipeline == "1" and len(stream.delivered) > 3)
        before = actor_of(world, "0")._ring.batcher.statistics().num_kept_blocks
        move = MoveRequest(request="b", from_pipeline="1", to_pipeline="0")
        assert (await world.ask(move)).is_done
        (sequence,) = actor_of(world, "0")._ring.batcher.sequences
        assert actor_of(world, "0")._ring.batcher.statistics().num_kept_blocks <= before - 7
        assert sequence.num_registered >= 7
        await world.read_all(stream)
        await world.until(is_at_rest)

    simulate(scenario, wanted())


def test_where_it_is_turned_off_every_block_is_sent() -> None:
    async def scenario(world: Service) -> None:
        prompt = prompt_of(world, 30)
        for name in "ab":
            assert await world.generate(name, prompt, 12) == "right"
        assert (counts(world).num_present_blocks, counts(world).num_bytes) == (0, 16 * BLOCK_BYTES)
        assert (kept(world, "0"), kept(world, "1")) == (0, 0)

    simulate(scenario, wanted(prefix_sharing=False))


# --- what a taker promises


def taking(scenario: Callable[[World], Coroutine[Any, Any, None]], **how: bool) -> None:
    """A pipeline that has served the beginning."""

    async def main(rng: random.Random) -> None:
        async with opened(rng, **how) as world:
            world.generate(request("before", BEGINNING, 2))
            await world.client.until(lambda client: "before" in client.finished)
            await scenario(world)

    run(main, seed=0)


def digests_of(tokens: list[int]) -> tuple[bytes, ...]:
    digests: list[bytes] = []
    extend_digests(digests, tokens, BLOCK_TOKENS, len(tokens) // BLOCK_TOKENS)
    return tuple(digests)


async def reserve(world: World, tokens: list[int], num_blocks: int = 8) -> BlocksReserved:
    wish = ReserveBlocks(request="b", num_blocks=num_blocks, lease_s=10, digests=digests_of(tokens))
    answer = await world.head.ask(world.pipeline, wish, timeout_s=5)
    assert isinstance(answer, BlocksReserved)
    return answer


async def take_over(world: World, told: BlocksReserved, **state: Any) -> TakenOver:
    wanted = request("b", [*BEGINNING, 3], 6)
    world.requests["b"] = wanted
    given = SequenceState(generate=wanted, router=world.client_ref, blocks=told.blocks, **state)
    answer = await world.head.ask(world.pipeline, TakeOver(sequences=(given,)), timeout_s=5)
    assert isinstance(answer, TakenOver)
    return answer


def test_a_taker_says_how_many_of_the_first_blocks_it_has() -> None:
    async def scenario(world: World) -> None:
        batcher = world.pipeline_actor._ring.batcher
        told = await reserve(world, [*BEGINNING[:12], 0, 0, 0, 0])
        table = block_ids(told.blocks).tolist()
        assert (len(table), told.num_present) == (8, 3)
        assert table[:3] == batcher.pool.find(digests_of(BEGINNING))[:3]
        batcher.check_integrity([table])
        world.head.tell(world.pipeline, ReleaseBlocks(request="b"), sender=world.client_ref)
        await asyncio.sleep(1)
        batcher.check_integrity()
        assert len(batcher.pool.find(digests_of(BEGINNING))) == 5

    taking(scenario)


def test_a_lease_that_ends_lets_go_of_what_it_held() -> None:
    async def scenario(world: World) -> None:
        assert (await reserve(world, BEGINNING)).num_present == 5
        await asyncio.sleep(11)
        batcher = world.pipeline_actor._ring.batcher
        batcher.check_integrity()
        assert batcher.statistics().num_free_blocks == 16

    taking(scenario)


def test_no_more_blocks_are_there_than_were_asked_for() -> None:
    async def scenario(world: World) -> None:
        told = await reserve(world, BEGINNING, num_blocks=2)
        assert (len(block_ids(told.blocks)), told.num_present) == (2, 2)

    taking(scenario)


def test_where_all_but_the_beginning_is_taken_there_is_room_for_what_shares_it() -> None:
    async def scenario(world: World) -> None:
        batcher = world.pipeline_actor._ring.batcher
        held = batcher.pool.share(digests_of(BEGINNING))
        rest = batcher.pool.allocate(9)
        assert not (await reserve(world, [5] * 20, num_blocks=7)).blocks
        told = await reserve(world, BEGINNING, num_blocks=7)
        assert (len(block_ids(told.blocks)), told.num_present) == (7, 5)
        batcher.check_integrity([held, rest, block_ids(told.blocks).tolist()])

    taking(scenario)


def test_a_request_of_which_less_was_computed_goes_on_behind_what_is_there() -> None:
    async def scenario(world: World) -> None:
        told = await reserve(world, BEGINNING)
        assert (await take_over(world, told, num_computed=6)).failure is None
        sequence = world.pipeline_actor._ring.batcher.sequence("b")
        assert sequence is not None
        assert sequence.num_computed == 20
        await world.client.until(lambda client: "b" in client.finished)
        world.assert_right("b")

    taking(scenario)


def test_what_follows_from_encoded_blocks_is_not_found_until_it_was_computed_again() -> None:
    async def scenario(world: World) -> None:
        batcher = world.pipeline_actor._ring.batcher
        told = await reserve(world, BEGINNING)
        state: dict[str, Any] = {"num_computed": 20, "num_exact_blocks": 5}
        assert (await take_over(world, told, **state)).failure is None
        await world.client.until(lambda client: "b" in client.finished)
        tokens = [*BEGINNING, 3, *world.client.tokens["b"]]
        assert len(batcher.pool.find(digests_of(tokens))) == 5
        world.generate(request("c", [*BEGINNING, 3], 6))
        await world.client.until(lambda client: "c" in client.finished)
        assert len(batcher.pool.find(digests_of(tokens))) == 6

    taking(scenario)


def test_while_a_stage_is_lost_nothing_is_said_to_be_there() -> None:
    async def scenario(world: World) -> None:
        world.network.lose("stage1")
        await world.client.until(lambda _: bool(world.pipeline_actor._ring.lost))
        assert (await reserve(world, BEGINNING)).num_present == 0

    taking(scenario)


def test_a_taker_that_does_not_share_has_nothing() -> None:
    async def scenario(world: World) -> None:
        assert (await reserve(world, BEGINNING)).num_present == 0

    taking(scenario, prefix_sharing=False)
