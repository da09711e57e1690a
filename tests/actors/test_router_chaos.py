"""Whatever comes from pipelines, in whatever order, each stream is whole and ends exactly once."""

import asyncio
import random
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.kernel.virtual_time import run
from actors.messages import StreamsMoved
from actors.stream import Stream
from scheduling.pipeline_loads import Counts
from tests.actors.emulated_pipeline import request
from tests.support.actor_worlds import (
    Gateway,
    World,
    gateway_to,
    part,
    pipeline,
    play,
    play_with,
    settle,
)

NUM_TOKENS = 6
NUM_REQUESTS = 4
TIMEOUT_S = 60.0

deliveries = st.tuples(
    st.integers(0, NUM_REQUESTS - 1),
    st.integers(0, NUM_TOKENS - 1),
    st.integers(0, NUM_TOKENS),
    st.sampled_from((*["tokens"] * 8, "refuse", "close", "lose", "announce", "pause")),
)
changes = st.tuples(
    st.integers(0, NUM_REQUESTS - 1),
    st.integers(0, NUM_TOKENS - 1),
    st.integers(0, NUM_TOKENS),
    st.sampled_from(("tokens", "tokens", "refuse", "drop", "move", "lose", "announce", "pause")),
)


def token(number: int, position: int) -> int:
    return 100 * number + position


def deliver(gateway: Gateway, stream: Stream, number: int, start: int, count: int) -> None:
    """What a pipeline that may repeat itself or leave something out would send."""
    if not stream.pipeline:
        return
    end = min(start + count, NUM_TOKENS)
    tokens = [token(number, position) for position in range(start, end)]
    finish = "length" if end == NUM_TOKENS else None
    gateway.give(stream.pipeline, part(stream.wire_name, start, *tokens, finish=finish))


async def happen(
    gateway: Gateway, streams: list[Stream], number: int, start: int, count: int, what: str
) -> None:
    stream = streams[number]
    match what:
        case "tokens":
            deliver(gateway, stream, number, start, count)
        case "refuse" if stream.pipeline:
            gateway.refuse(stream.pipeline, stream.wire_name, "stage_lost")
        case "close":
            gateway.router.fail_all("shutdown", "the service is stopping")
        case "drop":
            gateway.router.close(stream)
        case "move" if stream.ref is not None:
            to = gateway.pipelines["01"[start % 2]].ref
            moved = StreamsMoved(requests=(stream.wire_name,), to=to)
            gateway.pipelines[stream.pipeline].tell(gateway.ref, moved)
        case "lose" if stream.pipeline:
            played = gateway.pipelines[stream.pipeline]
            gateway.world.lose(played.ref.address.removeprefix("instant://"))
        case "announce":
            await announce_anew(gateway)
        case "pause":
            await settle()


async def announce_anew(gateway: Gateway) -> None:
    """Every pipeline has another actor."""
    epoch = gateway.router.plan.epoch + 1 if gateway.router.plan is not None else 0
    for name in gateway.pipelines:
        gateway.pipelines[name] = await gateway.world.play(f"pipeline-{name}.{epoch}")
    statuses = [pipeline(n, p.ref, epoch=epoch) for n, p in gateway.pipelines.items()]
    await gateway.announce(*statuses, epoch=epoch)


@settings(max_examples=100, deadline=None)
@given(st.lists(deliveries, max_size=40))
def test_each_stream_is_whole_up_to_its_one_end(
    happening: list[tuple[int, int, int, str]],
) -> None:
    async def scenario(world: World) -> None:
        gateway = await gateway_to(world, "0", "1")
        streams = [gateway.router.open(request(f"r{n}", [1], 9)) for n in range(NUM_REQUESTS)]
        for event in happening:
            await happen(gateway, streams, *event)
        for number, stream in enumerate(streams):
            tokens, end = await gateway.read(stream, TIMEOUT_S)
            expected = [token(number, position) for position in range(NUM_TOKENS)]
            assert tokens == expected[: len(tokens)]
            assert (len(tokens) == NUM_TOKENS) or end != "length"
            await settle()
            assert stream.updates.empty()

    play(scenario)


def counted_anew(streams: Iterable[Stream]) -> dict[str, Counts]:
    """What pipelines have, by a look at all streams."""
    here = [stream for stream in streams if stream.pipeline]
    names = {name for s in here for name in (s.pipeline, s.goes_on_at) if name}
    return {
        name: Counts(
            num_requests=sum(name in (s.pipeline, s.goes_on_at) for s in here),
            num_queued_tokens=sum(s.num_queued_tokens for s in here if s.pipeline == name),
            num_resident_tokens=sum(
                len(s.generate.token_ids) + len(s.delivered)
                for s in here
                if name in (s.pipeline, s.goes_on_at)
            ),
        )
        for name in names
    }


@settings(max_examples=20, deadline=None)
@given(st.lists(changes, max_size=25), st.booleans())
def test_running_counts_equal_those_of_a_look_at_all_streams(
    happening: list[tuple[int, int, int, str]], is_apart: bool
) -> None:
    async def scenario(world: World) -> None:
        gateway = await gateway_to(world, "0", "1")
        if is_apart:
            phases = ("prefill", "decode")
            pairs = zip(gateway.pipelines.items(), phases, strict=True)
            statuses = [
                pipeline(n, p.ref, serves=s, kv_tokens=99, max_running=9) for (n, p), s in pairs
            ]
            await gateway.announce(*statuses)
        router = gateway.router
        streams = [router.open(request(f"r{n}", [1] * n, 9)) for n in range(1, NUM_REQUESTS + 1)]
        for event in happening:
            await happen(gateway, streams, *event)
            await settle()
            assert router.loads.statistics() == counted_anew(router.streams)
        router.fail_all("shutdown", "the service is stopping")
        assert router.loads.statistics() == {}

    play(scenario)


# --- one seed, one trace


async def trace_of(rng: random.Random) -> list[str]:
    """When each of some requests ends, and how, while one of two pipelines is lost."""
    ends: list[str] = []
    loop = asyncio.get_running_loop()

    async def one(gateway: Gateway, number: int) -> None:
        stream = gateway.router.open(request(f"r{number}", [1], 9))
        ends.append(f"{await gateway.read(stream)} {loop.time():.9f}")

    async def scenario(world: World) -> None:
        world.network.delay = lambda: rng.uniform(0.001, 0.2)
        gateway = await gateway_to(world, "0", "1")
        async with asyncio.TaskGroup() as group:
            for number in range(NUM_REQUESTS):
                group.create_task(one(gateway, number))
            for position in range(3):
                await asyncio.sleep(rng.random())
                for number in range(NUM_REQUESTS):
                    gateway.give("01"[number % 2], part(f"r{number}", position, position))
            world.lose("pipeline-0")
            for number in range(NUM_REQUESTS):
                gateway.give("1", part(f"r{number}", 3, 3, finish="stop"))

    await play_with(rng, scenario)
    return ends


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_one_seed_gives_one_trace_of_a_lost_pipeline(seed: int) -> None:
    ends = run(trace_of, seed=seed)
    assert len(ends) == NUM_REQUESTS
    assert ends == run(trace_of, seed=seed)
