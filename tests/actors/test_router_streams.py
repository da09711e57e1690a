"""How a stream goes through the router: whole, or to an error, and to that once."""

import pytest
from msgspec import structs

from actors.messages import Cancel, Generate
from actors.router import NoPipeline, StreamFailed
from tests.actors.emulated_pipeline import request
from tests.support.actor_worlds import (
    EPOCH,
    World,
    gateway_to,
    on_virtual_time,
    part,
    pipeline,
    settle,
)

# --- tokens


@on_virtual_time
async def test_tokens_come_in_order_with_their_finish_reason(world: World) -> None:
    gateway = await gateway_to(world, "0")
    stream = gateway.router.open(request("r", [1], 5))
    gateway.give("0", part("r", 0, 10))
    gateway.give("0", part("r", 1, 11, 12), part("somebody else", 0, 1))
    gateway.give("0", part("r", 3, finish="length"))
    assert await gateway.read(stream) == ([10, 11, 12], "length")


@on_virtual_time
async def test_tokens_that_came_before_are_dropped(world: World) -> None:
    gateway = await gateway_to(world, "0")
    stream = gateway.router.open(request("r", [1], 5))
    gateway.give("0", part("r", 0, 10, 11))
    gateway.give("0", part("r", 0, 10, 11))
    gateway.give("0", part("r", 1, 11))
    gateway.give("0", part("r", 1, 11, 12))
    gateway.give("0", part("r", 0, 10, 11, 12, finish="stop"))
    assert await gateway.read(stream) == ([10, 11, 12], "stop")


@on_virtual_time
async def test_repetitions_do_not_pile_up(world: World) -> None:
    gateway = await gateway_to(world, "0")
    stream = gateway.router.open(request("r", [1], 5))
    for _ in range(50):
        gateway.give("0", part("r", 0, 10))
    await settle()
    assert stream.updates.qsize() == 1


@on_virtual_time
async def test_a_hole_fails_the_request_and_cancels_it(world: World) -> None:
    gateway = await gateway_to(world, "0")
    stream = gateway.router.open(request("r", [1], 5))
    gateway.give("0", part("r", 0, 10))
    gateway.give("0", part("r", 2, 12))
    gateway.give("0", part("r", 1, 11, 12, finish="stop"))
    assert await gateway.read(stream) == ([10], "tokens_lost")
    assert (await gateway.pipelines["0"].hears(Cancel)).request == "r"


@on_virtual_time
async def test_what_comes_after_the_end_is_dropped(world: World) -> None:
    gateway = await gateway_to(world, "0")
    stream = gateway.router.open(request("r", [1], 5))
    gateway.give("0", part("r", 0, 10, finish="stop"))
    assert await gateway.read(stream) == ([10], "stop")
    gateway.give("0", part("r", 1, 11))
    gateway.refuse("0", "r", "stage_lost")
    await settle()
    assert stream.updates.empty()
    assert gateway.pipelines["0"].all_of(Cancel) == []


# --- cancelling


@on_virtual_time
async def test_a_cancel_overtakes_the_requests_that_wait(world: World) -> None:
    gateway = await gateway_to(world, "0")
    busy = gateway.pipelines["0"]
    busy.is_free.clear()
    stream = gateway.router.open(request("r", [1], 5))
    await busy.hears(Generate)
    gateway.router.open(request("waits", [1], 5))
    await settle()
    gateway.router.close(stream)
    gateway.router.close(stream)
    await settle()
    busy.is_free.set()
    await busy.hears(Generate, 2)
    assert [type(m) for m in busy.heard] == [Generate, Cancel, Generate]


@on_virtual_time
async def test_a_cancelled_request_makes_room_and_its_late_tokens_are_dropped(world: World) -> None:
    gateway = await gateway_to(world, "0")
    streams = [gateway.router.open(request(f"r{n}", [1], 5)) for n in range(3)]
    gateway.router.close(streams[0])
    gateway.give("0", part("r0", 0, 10, finish="stop"))
    await settle()
    assert streams[0].updates.empty()
    gateway.router.open(request("another", [1], 5))


@on_virtual_time
async def test_a_request_that_gets_no_token_in_time_fails_and_is_cancelled(world: World) -> None:
    gateway = await gateway_to(world, "0")
    stream = gateway.router.open(request("r", [1], 5))
    with pytest.raises(StreamFailed, match="no token came for 30 s") as caught:
        await gateway.router.next(stream, 30)
    assert caught.value.failed.kind == "timeout"
    assert (await gateway.pipelines["0"].hears(Cancel)).request == "r"


@on_virtual_time
async def test_when_the_service_stops_each_stream_fails_once_and_is_cancelled(world: World) -> None:
    gateway = await gateway_to(world, "0", "1")
    streams = [gateway.router.open(request(f"r{n}", [1], 5)) for n in range(4)]
    gateway.router.fail_all("shutdown", "the service is stopping")
    gateway.router.fail_all("shutdown", "the service is stopping")
    ends = [await gateway.read(stream) for stream in streams]
    assert ends == [([], "shutdown")] * 4
    assert all(stream.updates.empty() for stream in streams)
    for played in gateway.pipelines.values():
        await played.hears(Cancel, 2)


# --- refusals and losses


@pytest.mark.parametrize("kind", ["stale_epoch", "queue_full", "rejected", "stage_lost"])
@on_virtual_time
async def test_what_a_pipeline_refuses_ends_with_its_word(world: World, kind: str) -> None:
    gateway = await gateway_to(world, "0")
    stream = gateway.router.open(request("r", [1], 5))
    gateway.refuse("0", "r", kind)
    with pytest.raises(StreamFailed, match="so it is") as caught:
        await gateway.router.next(stream, 10)
    assert caught.value.failed.kind == kind
    assert gateway.router.open(request("r again", [1], 5)).pipeline == "0"


@on_virtual_time
async def test_a_lost_pipeline_fails_each_of_its_requests_once_and_no_other(world: World) -> None:
    gateway = await gateway_to(world, "0", "1")
    streams = [gateway.router.open(request(f"r{n}", [1], 5)) for n in range(4)]
    gateway.give("0", part("r0", 0, 10))
    await settle()
    gateway.refuse("0", "r0", "stage_lost")
    await settle()
    world.lose("pipeline-0")
    await settle()
    for number in (1, 3):
        gateway.give("1", part(f"r{number}", 0, 20, finish="stop"))
    ends = [await gateway.read(stream) for stream in streams]
    assert ends == [([10], "stage_lost"), ([20], "stop"), ([], "pipeline_lost"), ([20], "stop")]
    assert all(stream.updates.empty() for stream in streams)


@on_virtual_time
async def test_a_request_sent_to_a_pipeline_just_lost_ends_with_an_error(world: World) -> None:
    gateway = await gateway_to(world, "0")
    world.lose("pipeline-0")
    stream = gateway.router.open(request("r", [1], 5))
    assert await gateway.read(stream, timeout_s=3600) == ([], "pipeline_lost")


@on_virtual_time
async def test_a_pipeline_that_was_gone_when_it_was_announced_gets_nothing(world: World) -> None:
    gateway = await gateway_to(world, "0")
    ref = gateway.pipelines["0"].ref
    await gateway.announce(pipeline("0", structs.replace(ref, name="never was"), epoch=EPOCH))
    with pytest.raises(NoPipeline):
        gateway.router.open(request("r", [1], 5))
