"""How a stream goes through the router: whole, or to an error, and to that once."""

import pytest
from msgspec import structs

from actors.messages import OUT_OF_REACH, Cancel, Generate, Recovered, StreamsMoved
from actors.router import RouterLimits, StreamFailed
from actors.stream import MAX_FRUITLESS_RECOVERIES
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
async def test_behind_a_hole_the_request_is_cancelled_and_goes_on_from_where_its_reader_is(
    world: World,
) -> None:
    gateway = await gateway_to(world, "0")
    stream = gateway.router.open(request("r", [1], 5))
    gateway.give("0", part("r", 0, 10))
    gateway.give("0", part("r", 2, 12))
    gateway.give("0", part("r", 1, 99, 98, finish="stop"))  # of an attempt that is over
    assert (await gateway.pipelines["0"].hears(Cancel)).request == "r"
    again = await gateway.pipelines["0"].hears(Generate, 2)
    assert (again.request, again.token_ids, again.num_prompt_tokens) == ("r~2", (1, 10), 1)
    gateway.give("0", part("r~2", 1, 11, finish="stop"))
    assert await gateway.read(stream) == ([10, 11], "stop")


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


# --- refusals


@pytest.mark.parametrize("kind", ["queue_full", "rejected"])
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
async def test_a_request_that_was_let_in_once_waits_where_the_next_pipeline_is_full(
    world: World,
) -> None:
    gateway = await gateway_to(world, "0", "1")
    stream = gateway.router.open(request("r", [1], 5))
    other = gateway.router.open(request("other", [1], 5))
    world.lose("pipeline-0")
    await gateway.pipelines["1"].hears(Generate, 2)
    gateway.refuse("1", "r~2", "queue_full")
    await settle()
    gateway.give("1", part("other", 0, 20, finish="stop"))  # then there is room
    assert await gateway.read(other) == ([20], "stop")
    assert (await gateway.pipelines["1"].hears(Generate, 3)).request == "r~3"
    gateway.give("1", part("r~3", 0, 10, finish="stop"))
    assert await gateway.read(stream) == ([10], "stop")


# --- losses


@on_virtual_time
async def test_each_request_of_a_lost_pipeline_goes_on_at_another_with_what_was_delivered(
    world: World,
) -> None:
    gateway = await gateway_to(world, "0", "1")
    streams = [gateway.router.open(request(f"r{n}", [n, n], 5)) for n in range(4)]
    gateway.give("0", part("r0", 0, 10, 11))
    await settle()
    world.lose("pipeline-0")
    await settle()
    sent = gateway.pipelines["1"].all_of(Generate)
    assert [m.request for m in sent] == ["r1", "r3", "r0~2"]  # and room for no more
    assert (sent[2].token_ids, sent[2].num_prompt_tokens) == ((0, 0, 10, 11), 2)
    for name in ("r1", "r3"):
        gateway.give("1", part(name, 0, 20, finish="stop"))
    await settle()
    gateway.give("1", part("r0~2", 2, 12, finish="stop"), part("r2~2", 0, 5, finish="stop"))
    ends = [await gateway.read(stream) for stream in streams]
    assert ends == [([10, 11, 12], "stop"), ([20], "stop"), ([5], "stop"), ([20], "stop")]
    assert [note.split(" gap")[0] for note in gateway.notes] == ["recovered pipeline_lost"] * 2
    assert gateway.router.num_recoveries == 2


@pytest.mark.parametrize("kind", ["stage_lost", "pipeline_lost"])
@on_virtual_time
async def test_a_request_that_its_pipeline_gives_back_goes_on_elsewhere(
    world: World, kind: str
) -> None:
    gateway = await gateway_to(world, "0", "1")
    stream = gateway.router.open(request("r", [1], 5))
    gateway.give("0", part("r", 0, 10))
    await settle()
    gateway.refuse("0", "r", kind)
    assert (await gateway.pipelines["1"].hears(Generate)).token_ids == (1, 10)
    gateway.give("1", part("r~2", 1, 11, finish="stop"))
    assert await gateway.read(stream) == ([10, 11], "stop")
    assert gateway.notes[0].startswith(f"recovered {kind} gap_ms=")


@on_virtual_time
async def test_a_request_goes_on_at_a_pipeline_that_did_not_hear_its_router_for_a_while(
    world: World,
) -> None:
    gateway = await gateway_to(world, "0")
    stream = gateway.router.open(request("r", [1], 5))
    gateway.give("0", part("r", 0, 10))
    await settle()
    gateway.refuse("0", "r", OUT_OF_REACH)
    again = await gateway.pipelines["0"].hears(Generate, 2)
    assert (again.request, again.token_ids) == ("r~2", (1, 10))
    gateway.give("0", part("r~2", 1, 11, finish="stop"))
    assert await gateway.read(stream) == ([10, 11], "stop")


@on_virtual_time
async def test_a_pipeline_that_gave_a_request_back_gets_nothing_before_it_is_announced_anew(
    world: World,
) -> None:
    gateway = await gateway_to(world, "0")
    gateway.router.open(request("r", [1], 5))
    gateway.refuse("0", "r", "stage_lost")
    await settle()
    gateway.router.open(request("new", [1], 5))
    await settle()
    assert [m.request for m in gateway.pipelines["0"].all_of(Generate)] == ["r"]
    successor = await world.play("successor")
    await gateway.announce(pipeline("0", successor.ref, epoch=EPOCH + 1), epoch=EPOCH + 1)
    assert [m.request for m in successor.all_of(Generate)] == ["r~2", "new"]


@on_virtual_time
async def test_a_request_sent_to_a_pipeline_just_lost_waits_for_the_next(world: World) -> None:
    gateway = await gateway_to(world, "0")
    world.lose("pipeline-0")
    stream = gateway.router.open(request("r", [1], 5))
    await settle()
    successor = gateway.pipelines["1"] = await world.play("successor")
    await gateway.announce(pipeline("0", successor.ref, epoch=EPOCH + 1), epoch=EPOCH + 1)
    gateway.give("1", part("r~2", 0, 7, finish="stop"))
    assert await gateway.read(stream) == ([7], "stop")


@on_virtual_time
async def test_a_request_for_which_no_pipeline_comes_ends_when_it_has_waited_long_enough(
    world: World,
) -> None:
    gateway = await gateway_to(world, "0", limits=RouterLimits(recovery_timeout_s=20))
    stream = gateway.router.open(request("r", [1], 5))
    gateway.give("0", part("r", 0, 10))
    await settle()
    world.lose("pipeline-0")
    assert await gateway.read(stream, timeout_s=3600) == ([10], "no_capacity")


@on_virtual_time
async def test_a_request_that_every_pipeline_loses_without_a_token_is_given_up(
    world: World,
) -> None:
    gateway = await gateway_to(world)
    stream = None
    for life in range(MAX_FRUITLESS_RECOVERIES + 1):
        gateway.pipelines["0"] = await world.play(f"life-{life}")
        status = pipeline("0", gateway.pipelines["0"].ref, epoch=EPOCH + life)
        await gateway.announce(status, epoch=EPOCH + life)
        stream = stream or gateway.router.open(request("r", [1], 5))
        await gateway.pipelines["0"].hears(Generate)
        gateway.refuse("0", stream.wire_name, "stage_lost")
        await settle()
    assert stream is not None
    with pytest.raises(StreamFailed, match="started again 3 times without a token") as caught:
        await gateway.router.next(stream, 10)
    assert caught.value.failed.kind == "stage_lost"
    assert gateway.router.streams == ()


@on_virtual_time
async def test_a_token_in_between_makes_the_next_recovery_the_first(world: World) -> None:
    gateway = await gateway_to(world)
    stream = None
    for life in range(3 * MAX_FRUITLESS_RECOVERIES):
        gateway.pipelines["0"] = await world.play(f"life-{life}")
        status = pipeline("0", gateway.pipelines["0"].ref, epoch=EPOCH + life)
        await gateway.announce(status, epoch=EPOCH + life)
        stream = stream or gateway.router.open(request("r", [1], 50))
        gateway.give("0", part(stream.wire_name, life, life))
        await settle()
        gateway.refuse("0", stream.wire_name, "stage_lost")
        await settle()
    assert stream is not None
    assert stream.delivered == list(range(3 * MAX_FRUITLESS_RECOVERIES))
    assert gateway.router.streams == (stream,)


@on_virtual_time
async def test_a_pipeline_that_was_gone_when_it_was_announced_gets_nothing(world: World) -> None:
    gateway = await gateway_to(world, "0")
    never = structs.replace(gateway.pipelines["0"].ref, name="never was")
    await gateway.announce(pipeline("0", never, epoch=EPOCH))
    assert gateway.router.not_ready_reason() == "no pipeline is ready"


# --- what happens under a request


@on_virtual_time
async def test_a_pipeline_that_mends_itself_is_noted_when_tokens_come_again(world: World) -> None:
    gateway = await gateway_to(world, "0")
    streams = [gateway.router.open(request(f"r{n}", [1], 5)) for n in range(2)]
    news = Recovered(requests=("r0", "unknown"), what="stage=1")
    gateway.pipelines["0"].tell(gateway.ref, news)
    await settle()
    for number, stream in enumerate(streams):
        gateway.give("0", part(f"r{number}", 0, 10, finish="stop"))
        assert await gateway.read(stream) == ([10], "stop")
    assert [note.split(" gap")[0] for note in gateway.notes] == ["recovered stage=1"]
    assert len(gateway.pipelines["0"].all_of(Generate)) == 2


@on_virtual_time
async def test_a_request_under_which_stages_die_again_and_again_is_given_up_and_cancelled(
    world: World,
) -> None:
    gateway = await gateway_to(world, "0")
    stream = gateway.router.open(request("r", [1], 5))
    for _ in range(MAX_FRUITLESS_RECOVERIES + 1):
        news = Recovered(requests=("r",), what="stage=1")
        gateway.pipelines["0"].tell(gateway.ref, news)
    assert await gateway.read(stream) == ([], "stage_lost")
    assert (await gateway.pipelines["0"].hears(Cancel)).request == "r"


@on_virtual_time
async def test_requests_that_changed_hands_are_read_cancelled_and_missed_where_they_are_now(
    world: World,
) -> None:
    gateway = await gateway_to(world, "0", "1")
    streams = [gateway.router.open(request(f"r{n}", [1], 5)) for n in (0, 2, 4)][::2]
    there = gateway.pipelines["1"].ref
    moved = StreamsMoved(requests=("r0", "r4", "unknown"), to=there)
    gateway.pipelines["0"].tell(gateway.ref, moved)
    await settle()
    assert [stream.pipeline for stream in streams] == ["1", "1"]
    gateway.give("1", part("r0", 0, 10))
    await settle()
    world.lose("pipeline-0")
    await settle()
    gateway.give("1", part("r0", 1, 11, finish="stop"))
    assert await gateway.read(streams[0]) == ([10, 11], "stop")
    assert gateway.notes == []
    assert (await gateway.pipelines["1"].hears(Cancel)).request == "unknown"
    gateway.router.close(streams[1])
    assert (await gateway.pipelines["1"].hears(Cancel, 2)).request == "r4"


@on_virtual_time
async def test_a_taker_that_no_plan_has_named_yet_is_watched(world: World) -> None:
    gateway = await gateway_to(world, "0")
    stream = gateway.router.open(request("r", [1], 5))
    taker = await world.play("taker")
    moved = StreamsMoved(requests=("r",), to=taker.ref)
    gateway.pipelines["0"].tell(gateway.ref, moved)
    await settle()
    world.lose("taker")
    assert (await gateway.pipelines["0"].hears(Generate, 2)).request == "r~2"
    gateway.give("0", part("r~2", 0, 10, finish="stop"))
    assert await gateway.read(stream) == ([10], "stop")
