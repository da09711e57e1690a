"""Requests that begin alike share KV blocks, and every token is as if they did not."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from actors.kernel.virtual_time import run
from actors.messages import Cancel, Generate, GetPipelineLoad, PipelineLoadReport
from actors.request_moves import sequence_of
from models.sampling_extras import SamplingExtras
from tests.actors.emulated_pipeline import VOCAB, World, opened, request

Scenario = Callable[[World], Coroutine[Any, Any, None]]
BEGINNING = [random.Random(7).randrange(VOCAB) for _ in range(20)]


def simulate(scenario: Scenario, *, num_stages: int = 2, seed: int = 0, **how: bool) -> None:
    async def main(rng: random.Random) -> None:
        async with opened(rng, num_stages, **how) as world:
            await scenario(world)

    run(main, seed=seed)


async def serve(world: World, *requests: Generate) -> None:
    """Have requests served to their end."""
    for wanted in requests:
        world.generate(wanted)
    names = [wanted.request for wanted in requests]
    await world.client.until(lambda client: client.finished.keys() >= set(names))
    for name in names:
        world.assert_right(name)


async def load(world: World) -> PipelineLoadReport:
    answer = await world.head.ask(world.pipeline, GetPipelineLoad(), timeout_s=5)
    assert isinstance(answer, PipelineLoadReport)
    return answer


async def found(world: World) -> tuple[int, int]:
    told = await load(world)
    return told.num_prefix_queries, told.num_prefix_hits


def test_a_request_computes_only_what_follows_the_beginning_that_is_there() -> None:
    async def scenario(world: World) -> None:
        await serve(world, request("a", [*BEGINNING, 1], 3))
        assert await found(world) == (21, 0)
        await serve(world, request("b", [*BEGINNING, 2, 3], 3))
        assert await found(world) == (43, 20)
        told = await load(world)
        assert told.num_free_blocks == told.num_blocks

    simulate(scenario)


def test_of_a_prompt_that_was_served_before_one_token_is_computed_again() -> None:
    async def scenario(world: World) -> None:
        await serve(world, request("a", BEGINNING, 3))
        await serve(world, request("b", BEGINNING, 9, temperature=0.9, seed=4))
        assert await found(world) == (40, 16)

    simulate(scenario)


def test_what_was_generated_is_found_by_a_request_that_continues_it() -> None:
    async def scenario(world: World) -> None:
        await serve(world, request("a", BEGINNING, 14))
        talk = [*BEGINNING, *world.client.tokens["a"]]
        await serve(world, request("b", [*talk, 5], 3))
        assert await found(world) == (20 + 35, 32)

    simulate(scenario)


def test_requests_at_the_same_time_hold_the_same_blocks() -> None:
    async def scenario(world: World) -> None:
        await serve(world, request("first", BEGINNING, 1))
        for name in "abc":
            world.generate(request(name, [*BEGINNING, ord(name)], 8))
        await world.client.until(lambda client: client.tokens.keys() >= {"a", "b", "c"})
        tables = [s.block_table for s in world.pipeline_actor._ring.batcher.running]
        assert len({tuple(table[:5]) for table in tables}) == 1
        assert len(tables) == 3
        world.pipeline_actor._ring.batcher.check_integrity()
        await world.client.until(lambda client: client.finished.keys() >= {"a", "b", "c"})
        for name in "abc":
            world.assert_right(name)

    simulate(scenario)


def test_where_it_is_turned_off_every_prompt_is_computed_as_a_whole() -> None:
    async def scenario(world: World) -> None:
        await serve(world, request("a", BEGINNING, 3))
        await serve(world, request("b", BEGINNING, 3))
        assert await found(world) == (0, 0)
        assert world.pipeline_actor._ring.batcher.statistics().num_kept_blocks == 0

    simulate(scenario, prefix_sharing=False)


@pytest.mark.parametrize("num_stages", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_every_stream_is_exact_though_blocks_run_out_and_readers_go(
    num_stages: int, seed: int
) -> None:
    async def scenario(world: World) -> None:
        rng = random.Random(seed)
        names = [f"r{number}" for number in range(40)]
        gone = set(rng.sample(names, 8))
        for name in names:
            begins = BEGINNING[: rng.randrange(21)]
            prompt = [*begins, *(rng.randrange(3) for _ in range(rng.randint(1, 8)))]
            world.generate(request(name, prompt, rng.randint(1, 12), seed=rng.randrange(9)))
            if name in gone:
                await asyncio.sleep(rng.uniform(0, 0.3))
                world.head.tell(world.pipeline, Cancel(request=name), sender=world.client_ref)
            world.pipeline_actor._ring.batcher.check_integrity()
        staying = set(names) - gone
        await world.client.until(lambda client: client.finished.keys() >= staying)
        for name in staying:
            world.assert_right(name)
        _, num_hits = await found(world)
        assert num_hits > 100
        batcher = world.pipeline_actor._ring.batcher
        batcher.check_integrity()
        assert batcher.statistics().num_free_blocks == batcher.statistics().num_blocks

    simulate(scenario, num_stages=num_stages, seed=seed)


def test_who_wants_logprobs_of_its_prompt_computes_all_of_it() -> None:
    extras = SamplingExtras(num_prompt_logprobs=1).pack()
    assert sequence_of(request("a", BEGINNING, 3, extras=extras)).computes_all
    assert not sequence_of(request("a", BEGINNING, 3)).computes_all
    logprobs = SamplingExtras(num_logprobs=1).pack()
    assert not sequence_of(request("a", BEGINNING, 3, extras=logprobs)).computes_all
