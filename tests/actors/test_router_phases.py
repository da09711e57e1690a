"""The router where pipelines serve phases apart: who is named, followed, cancelled, waited for."""

from typing import Any

from actors.deliveries import EARLY_S
from actors.kernel.ref import Ref
from actors.messages import Cancel, Generate, HandOffTo, RouteStatus, StreamsMoved
from scheduling.placement import Phase
from tests.actors.emulated_pipeline import request
from tests.support.actor_worlds import (
    Gateway,
    World,
    gateway_to,
    on_virtual_time,
    part,
    pipeline,
    settle,
)

PROMPT = list(range(1, 9))


async def apart(world: World, *phases: Phase, **other: Any) -> Gateway:
    """Pipelines by their number, each with its phase."""
    gateway = await gateway_to(world, *(str(number) for number in range(len(phases))))
    await announce(gateway, *phases, **other)
    return gateway


async def announce(gateway: Gateway, *phases: Phase, kv_tokens: int = 100, **other: Any) -> None:
    statuses = (
        pipeline(name, played.ref, serves=phase, kv_tokens=kv_tokens)
        for (name, played), phase in zip(gateway.pipelines.items(), phases, strict=True)
    )
    await gateway.announce(*statuses, **other)


async def sent(gateway: Gateway, name: str, count: int = 1) -> Generate:
    return await gateway.pipelines[name].hears(Generate, count)


def refs(generate: Generate) -> tuple[Ref, ...]:
    return tuple(taker.ref for taker in generate.hand_off)


@on_virtual_time
async def test_each_taker_is_named_with_the_encoding_of_the_way_there(world: World) -> None:
    ways = (
        RouteStatus(prefill="0", decode="2", encoding="int8"),
        RouteStatus(prefill="2", decode="1", encoding="int4"),
    )
    gateway = await apart(world, "prefill", "decode", "decode", routes=ways)
    gateway.router.open(request("r", PROMPT, 5))
    takers = (await sent(gateway, "0")).hand_off
    assert {taker.ref: taker.encoding for taker in takers} == {
        gateway.pipelines["1"].ref: "none",
        gateway.pipelines["2"].ref: "int8",
    }


@on_virtual_time
async def test_a_request_begins_at_prefill_and_names_those_that_may_go_on(world: World) -> None:
    ways = (RouteStatus(prefill="0", decode="2", weight=2.0, bytes_per_s=None),)
    gateway = await apart(world, "prefill", "decode", "decode", routes=ways)
    gateway.router.open(request("r", PROMPT, 5))
    takers = [gateway.pipelines[name].ref for name in "21"]
    assert refs(await sent(gateway, "0")) == tuple(takers)
    gateway.router.open(request("s", PROMPT, 1))
    assert (await sent(gateway, "0", 2)).hand_off == ()


@on_virtual_time
async def test_who_is_on_its_way_counts_where_it_goes(world: World) -> None:
    gateway = await apart(world, "prefill", "decode", "decode", kv_tokens=1000)
    first, second = gateway.pipelines["1"].ref, gateway.pipelines["2"].ref
    gateway.router.open(request("r", PROMPT, 5))
    gateway.router.open(request("s", PROMPT, 5))
    assert refs(await sent(gateway, "0", 1)) == (first, second)
    assert refs(await sent(gateway, "0", 2)) == (second, first)


@on_virtual_time
async def test_a_decode_pipeline_whose_kv_is_taken_is_not_named(world: World) -> None:
    gateway = await apart(world, "prefill", "decode", kv_tokens=20)
    for name in ("r", "s"):
        gateway.router.open(request(name, PROMPT, 5))
    assert refs(await sent(gateway, "0", 1)) == (gateway.pipelines["1"].ref,)
    assert refs(await sent(gateway, "0", 2)) == (gateway.pipelines["1"].ref,)
    gateway.router.open(request("t", PROMPT, 5))
    assert (await sent(gateway, "0", 3)).hand_off == ()


@on_virtual_time
async def test_a_flip_is_followed_by_the_next_request(world: World) -> None:
    gateway = await apart(world, "prefill", "decode")
    await announce(gateway, "decode", "prefill", epoch=99)
    gateway.router.open(request("r", PROMPT, 5))
    assert refs(await sent(gateway, "1")) == (gateway.pipelines["0"].ref,)


@on_virtual_time
async def test_after_a_flip_a_pipeline_is_told_where_those_it_has_may_go_on(world: World) -> None:
    gateway = await apart(world, "prefill", "decode", "decode")
    first, second, third = (gateway.pipelines[name] for name in "012")
    stream = gateway.router.open(request("r", PROMPT, 5))
    gateway.router.open(request("s", PROMPT, 1))
    await sent(gateway, "0", 2)
    gateway.give("0", part("r", 0, 10))
    second.tell(gateway.ref, StreamsMoved(("r",), second.ref))
    await settle()
    assert stream.pipeline == "1"
    routes = (RouteStatus(prefill="1", decode="2", weight=1.0, encoding="int8"),)
    await announce(gateway, "decode", "prefill", "decode", epoch=99, routes=routes)
    told = await second.hears(HandOffTo)
    assert told.request == "r"
    takers = {taker.ref: taker.encoding for taker in told.takers}
    assert takers == {third.ref: "int8", first.ref: "none"}
    assert gateway.router.loads["2"].num_requests == 1  # it is on its way there
    await announce(gateway, "decode", "prefill", "decode", epoch=100, routes=routes)
    await settle()
    assert sum(isinstance(message, HandOffTo) for message in second.heard) == 1
    assert not any(isinstance(message, HandOffTo) for message in first.heard)


@on_virtual_time
async def test_a_request_that_was_on_its_way_as_phases_were_flipped_goes_on_as_well(
    world: World,
) -> None:
    gateway = await apart(world, "prefill", "decode")
    first, second = gateway.pipelines["0"], gateway.pipelines["1"]
    gateway.router.open(request("r", PROMPT, 5))
    await sent(gateway, "0")
    await announce(gateway, "decode", "prefill", epoch=99)
    await settle()
    assert not any(isinstance(message, HandOffTo) for message in first.heard)
    first.tell(gateway.ref, StreamsMoved(("r",), second.ref))
    told = await second.hears(HandOffTo)
    assert (told.request, [taker.ref for taker in told.takers]) == ("r", [first.ref])
    assert gateway.router.loads["0"].num_requests == 1


@on_virtual_time
async def test_who_takes_no_more_tokens_or_whom_nobody_takes_stays_after_a_flip(
    world: World,
) -> None:
    gateway = await apart(world, "both", "both")
    gateway.router.open(request("r", PROMPT, 1))
    await sent(gateway, "0")
    await announce(gateway, "prefill", "decode", epoch=98)
    gateway.router.open(request("s", PROMPT, 9))
    await announce(gateway, "decode", "prefill", kv_tokens=1, epoch=99)
    await settle()
    heard = [message for played in gateway.pipelines.values() for message in played.heard]
    assert not any(isinstance(message, HandOffTo) for message in heard)


@on_virtual_time
async def test_tokens_of_who_goes_on_wait_for_the_first_that_is_late(world: World) -> None:
    gateway = await apart(world, "prefill", "decode")
    stream = gateway.router.open(request("r", PROMPT, 4))
    await sent(gateway, "0")
    gateway.give("1", part("r", 2, 12))
    gateway.give("1", part("r", 1, 11))
    await settle(EARLY_S / 2)
    gateway.give("0", part("r", 0, 10))
    await settle()
    moved = StreamsMoved(requests=("r",), to=gateway.pipelines["1"].ref)
    gateway.pipelines["0"].tell(gateway.ref, moved)
    gateway.give("1", part("r", 3, 13, finish="length"))
    assert await gateway.read(stream) == ([10, 11, 12, 13], "length")
    assert gateway.notes == []
    assert gateway.pipelines["0"].all_of(Cancel) == gateway.pipelines["1"].all_of(Cancel) == []


@on_virtual_time
async def test_a_first_token_that_never_comes_is_computed_again(world: World) -> None:
    gateway = await apart(world, "prefill", "decode")
    stream = gateway.router.open(request("r", PROMPT, 2))
    await sent(gateway, "0")
    gateway.give("1", part("r", 1, 11))
    again = await sent(gateway, "0", 2)
    assert (again.request, again.token_ids) == ("r~2", tuple(PROMPT))
    for name in "01":
        assert (await gateway.pipelines[name].hears(Cancel)).request == "r"
    gateway.give("0", part("r~2", 0, 10, 11, finish="length"))
    assert await gateway.read(stream) == ([10, 11], "length")


@on_virtual_time
async def test_when_who_began_is_lost_whoever_may_have_it_by_now_is_told_to_forget_it(
    world: World,
) -> None:
    gateway = await apart(world, "prefill", "decode", "both")
    stream = gateway.router.open(request("r", PROMPT, 2))
    began = stream.pipeline
    assert began == "0"
    world.lose("pipeline-0")
    assert (await gateway.pipelines["1"].hears(Cancel)).request == "r"
    again = await sent(gateway, "2")
    assert (again.request, again.hand_off) == ("r~2", ())


@on_virtual_time
async def test_a_request_that_moved_to_who_is_gone_already_goes_on_elsewhere(world: World) -> None:
    gateway = await apart(world, "prefill", "decode")
    stream = gateway.router.open(request("r", PROMPT, 2))
    gone = gateway.pipelines["1"].ref
    world.lose("pipeline-1")
    await settle()
    gateway.pipelines["0"].tell(gateway.ref, StreamsMoved(requests=("r",), to=gone))
    again = await sent(gateway, "0", 2)
    assert (again.request, again.hand_off) == ("r~2", ())
    gateway.give("0", part("r~2", 0, 10, 11, finish="length"))
    assert await gateway.read(stream) == ([10, 11], "length")
