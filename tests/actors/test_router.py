"""Which pipeline the router picks, and what a new plan changes."""

import asyncio
from collections.abc import Sequence

import pytest

from actors.messages import Cancel, FittedTimes, Generate, GetPipelineLoad, RegisterRouter
from actors.router import NoPipeline, QueueIsFull, RouterLimits, StreamFailed
from scheduling.pairing import RoutingPolicy
from scheduling.routing import PipelineLoad
from tests.actors.emulated_pipeline import request
from tests.support.actor_worlds import (
    EPOCH,
    Gateway,
    World,
    gateway_to,
    on_virtual_time,
    part,
    pipeline,
    settle,
)
from transport.errors import FrameTooLarge

# --- which pipeline


@on_virtual_time
async def test_a_request_goes_to_the_pipeline_with_the_least_to_do(world: World) -> None:
    gateway = await gateway_to(world, "0", "1", "2")
    streams = [gateway.router.open(request("long", range(500), 5))]
    streams += [gateway.router.open(request(f"short {n}", [1], 5)) for n in range(4)]
    assert [stream.pipeline for stream in streams] == ["0", "1", "2", "1", "2"]
    assert (await gateway.pipelines["0"].hears(Generate)).request == "long"


@on_virtual_time
async def test_a_prompt_that_was_computed_weighs_no_more(world: World) -> None:
    gateway = await gateway_to(world, "0", "1")
    long = gateway.router.open(request("long", range(500), 50))
    gateway.router.open(request("short", [1] * 100, 50))
    gateway.give("0", part("long", 0, 7))
    await gateway.router.next(long, 10)
    assert gateway.router.open(request("next", [1], 5)).pipeline == "0"


@on_virtual_time
async def test_a_request_is_sent_as_it_came(world: World) -> None:
    gateway = await gateway_to(world, "0")
    gateway.router.open(request("r", [1, 2], 5, seed=9))
    sent = await gateway.pipelines["0"].hears(Generate)
    assert sent == request("r", [1, 2], 5, seed=9, num_prompt_tokens=2)


@on_virtual_time
async def test_a_full_pipeline_gets_no_more_and_room_comes_back(world: World) -> None:
    gateway = await gateway_to(world, "0", "1")
    streams = [gateway.router.open(request(f"r{n}", [1], 5)) for n in range(6)]
    with pytest.raises(QueueIsFull, match="6 requests are running or queued"):
        gateway.router.open(request("one too many", [1], 5))
    name = streams[0].pipeline
    gateway.give(name, part("r0", 0, 4, finish="stop"))
    assert await gateway.read(streams[0]) == ([4], "stop")
    assert gateway.router.open(request("another", [1], 5)).pipeline == name


@on_virtual_time
async def test_a_request_too_large_to_send_takes_nobodys_place(world: World) -> None:
    gateway = await gateway_to(world, "0")
    world.network.endpoints["gateway"].refusals = [FrameTooLarge("too large")] * 5
    for number in range(5):
        with pytest.raises(FrameTooLarge):
            gateway.router.open(request(f"large {number}", [1], 5))
    assert gateway.router.open(request("small", [1], 5)).pipeline == "0"


# --- when there is none


@on_virtual_time
async def test_its_room_is_that_of_the_pipelines_that_are_up(world: World) -> None:
    assert (await gateway_to(world)).router.room() is None
    gateway = await gateway_to(world, "0", "1")
    plan = gateway.router.plan
    assert plan is not None
    room = [(p.max_running, p.max_waiting) for p in plan.pipelines]
    assert len(room) == 2
    assert gateway.router.room() == tuple(map(sum, zip(*room, strict=True)))


@on_virtual_time
async def test_before_a_plan_it_says_so_and_takes_nothing(world: World) -> None:
    gateway = await gateway_to(world)
    with pytest.raises(NoPipeline, match="has not announced a plan yet"):
        gateway.router.open(request("r", [1], 5))


@on_virtual_time
async def test_what_the_coordinator_misses_is_what_is_not_ready(world: World) -> None:
    gateway = await gateway_to(world)
    await gateway.announce(missing=("waiting for node a", "waiting for node b"))
    assert gateway.router.not_ready_reason() == "waiting for node a; waiting for node b"
    with pytest.raises(NoPipeline, match="waiting for node a; waiting for node b"):
        gateway.router.open(request("r", [1], 5))


@pytest.mark.parametrize("state", ["loading", "lost", "recovering"])
@on_virtual_time
async def test_a_pipeline_that_is_not_ready_gets_nothing(world: World, state: str) -> None:
    gateway = await gateway_to(world)
    played = await world.play("pipeline-0")
    await gateway.announce(pipeline("0", played.ref, state=state))
    with pytest.raises(NoPipeline, match="no pipeline is ready"):
        gateway.router.open(request("r", [1], 5))
    assert played.all_of(Generate) == []


@on_virtual_time
async def test_where_there_was_a_pipeline_a_request_waits_for_the_next(world: World) -> None:
    gateway = await gateway_to(world, "0")
    await gateway.announce(pipeline("0", gateway.pipelines["0"].ref, state="recovering"))
    streams = [gateway.router.open(request(f"r{n}", [1], 5)) for n in range(3)]
    assert gateway.pipelines["0"].all_of(Generate) == []
    await gateway.announce(pipeline("0", gateway.pipelines["0"].ref))
    sent = gateway.pipelines["0"].all_of(Generate)
    assert [generate.request for generate in sent] == ["r0", "r1", "r2"]
    for number, stream in enumerate(streams):
        gateway.give("0", part(f"r{number}", 0, number, finish="stop"))
        assert await gateway.read(stream) == ([number], "stop")
    assert gateway.notes == []


@on_virtual_time
async def test_only_so_many_requests_wait_for_a_pipeline_and_no_longer_than_so(
    world: World,
) -> None:
    limits = RouterLimits(max_held=2, recovery_timeout_s=20)
    gateway = await gateway_to(world, "0", limits=limits)
    ref = gateway.pipelines["0"].ref
    await gateway.announce(pipeline("0", ref, state="lost"), missing=("waiting for node a",))
    streams = [gateway.router.open(request(f"r{n}", [1], 5)) for n in range(2)]
    with pytest.raises(NoPipeline, match="waiting for node a; 2 requests wait already"):
        gateway.router.open(request("one too many", [1], 5))
    with pytest.raises(StreamFailed, match="for 20 s: waiting for node a") as caught:
        await gateway.router.next(streams[0], 60)
    assert caught.value.failed.kind == "no_capacity"
    assert await gateway.read(streams[1]) == ([], "no_capacity")
    await gateway.announce(pipeline("0", ref))
    assert gateway.pipelines["0"].all_of(Generate) == []


@on_virtual_time
async def test_a_request_that_is_closed_while_it_waits_is_never_sent(world: World) -> None:
    gateway = await gateway_to(world, "0")
    ref = gateway.pipelines["0"].ref
    await gateway.announce(pipeline("0", ref, state="lost"))
    gateway.router.close(gateway.router.open(request("r", [1], 5)))
    await gateway.announce(pipeline("0", ref))
    assert gateway.pipelines["0"].heard == []


@on_virtual_time
async def test_a_lost_pipeline_gets_nothing_even_before_the_coordinator_knows(world: World) -> None:
    gateway = await gateway_to(world, "0", "1")
    world.lose("pipeline-0")
    await settle()
    assert {gateway.router.open(request(f"r{n}", [1], 5)).pipeline for n in range(3)} == {"1"}


# --- plans


@on_virtual_time
async def test_requests_run_on_when_a_new_plan_is_announced(world: World) -> None:
    gateway = await gateway_to(world, "0")
    old = gateway.router.open(request("old", [1], 5))
    gateway.give("0", part("old", 0, 10))
    successor = gateway.pipelines["1"] = await world.play("pipeline-1")
    await gateway.announce(pipeline("0", successor.ref, epoch=EPOCH + 1), epoch=EPOCH + 1)
    gateway.router.open(request("new", [1], 5))
    assert (await successor.hears(Generate)).request == "new"
    gateway.give("0", part("old", 1, 11, finish="stop"))
    assert await gateway.read(old) == ([10, 11], "stop")


@on_virtual_time
async def test_a_request_on_a_replaced_pipeline_goes_on_at_the_new_one_when_that_is_lost(
    world: World,
) -> None:
    gateway = await gateway_to(world, "0")
    old = gateway.router.open(request("old", [1], 5))
    gateway.give("0", part("old", 0, 10))
    await settle()
    successor = gateway.pipelines["1"] = await world.play("successor")
    await gateway.announce(pipeline("0", successor.ref, epoch=EPOCH + 1), epoch=EPOCH + 1)
    new = gateway.router.open(request("new", [1], 5))
    world.lose("pipeline-0")
    await successor.hears(Generate, 2)
    assert [(m.request, m.token_ids) for m in successor.all_of(Generate)] == [
        ("new", (1,)),
        ("old~2", (1, 10)),
    ]
    gateway.give("1", part("old~2", 1, 11, finish="stop"))
    assert await gateway.read(old) == ([10, 11], "stop")
    assert new.updates.empty()


@on_virtual_time
async def test_a_plan_of_an_older_epoch_changes_nothing(world: World) -> None:
    gateway = await gateway_to(world, "0")
    before = gateway.router.plan
    await gateway.announce(epoch=EPOCH - 1, missing=("waiting for node a",))
    assert gateway.router.plan is before
    assert gateway.router.not_ready_reason() is None


@on_virtual_time
async def test_a_plan_announced_many_times_watches_a_pipeline_once(world: World) -> None:
    gateway = await gateway_to(world, "0", "1")
    statuses = [pipeline(name, played.ref) for name, played in gateway.pipelines.items()]
    for _ in range(5):
        await gateway.announce(*statuses)
    gateway.router.open(request("r", [1], 5))
    world.lose("pipeline-0")
    await settle()
    assert [m.request for m in gateway.pipelines["1"].all_of(Generate)] == ["r~2"]


@on_virtual_time
async def test_a_message_it_does_not_know_changes_nothing(world: World) -> None:
    gateway = await gateway_to(world, "0")
    gateway.coordinator.tell(gateway.ref, Cancel(request="r"))
    stream = gateway.router.open(request("r", [1], 5))
    gateway.give("0", part("r", 0, 1, finish="stop"))
    assert await asyncio.wait_for(gateway.read(stream), 10) == ([1], "stop")


# --- what falls out of reach


@on_virtual_time
async def test_a_pipeline_that_was_out_of_reach_for_a_moment_serves_again(world: World) -> None:
    gateway = await gateway_to(world, "0")
    stream = gateway.router.open(request("r", [1], 5))
    world.part("gateway", "pipeline-0")
    assert gateway.router.not_ready_reason() is None
    await settle()
    assert gateway.router.not_ready_reason() == "no pipeline is ready"
    await settle(5)
    gateway.give("0", part("r", 0, 9), part("r~2", 0, 1, finish="stop"))
    assert await gateway.read(stream) == ([1], "stop")
    again = gateway.router.open(request("again", [1], 5))
    gateway.give("0", part("again", 0, 1, finish="stop"))
    assert await gateway.read(again) == ([1], "stop")


@on_virtual_time
async def test_a_lost_pipeline_is_looked_for_only_while_it_is_in_the_plan(world: World) -> None:
    gateway = await gateway_to(world, "0")
    world.lose("pipeline-0")
    await settle(60)
    assert gateway.router.not_ready_reason() == "no pipeline is ready"
    later = gateway.pipelines["0"] = await world.play("pipeline-0")
    await later.hears(GetPipelineLoad)
    await gateway.announce(epoch=EPOCH + 1)
    await settle(10)
    num_asked = len(later.all_of(GetPipelineLoad))
    await settle(60)
    assert len(later.all_of(GetPipelineLoad)) == num_asked
    assert gateway.router.not_ready_reason() == "no pipeline is ready"


@on_virtual_time
async def test_a_lost_pipeline_that_no_plan_names_is_not_looked_for_though_it_had_requests(
    world: World,
) -> None:
    gateway = await gateway_to(world, "0")
    gateway.router.open(request("r", [1], 5))
    await gateway.announce(epoch=EPOCH + 1)
    world.lose("pipeline-0")
    await settle()
    later = await world.play("pipeline-0")
    await settle(60)
    assert later.all_of(GetPipelineLoad) == []


@on_virtual_time
async def test_after_the_way_to_the_coordinator_was_lost_plans_come_again(world: World) -> None:
    gateway = await gateway_to(world, "0")
    gateway.coordinator.postponed[RegisterRouter] = []
    world.part("gateway", "coordinator")
    await gateway.coordinator.hears(RegisterRouter, 3)  # asked until it answers
    del gateway.coordinator.postponed[RegisterRouter]
    await settle(10)
    num_asked = len(gateway.coordinator.all_of(RegisterRouter))
    await gateway.announce(epoch=EPOCH + 1, missing=("waiting for node a",))
    assert gateway.router.not_ready_reason() == "waiting for node a"
    await settle(60)
    assert len(gateway.coordinator.all_of(RegisterRouter)) == num_asked


# --- pipelines that are not alike


def times(seconds: float) -> FittedTimes:
    """Of a pipeline that takes so long for a step, and a hundredth for a prompt token."""
    return FittedTimes(prefill=(0.0, seconds / 100, 0.0), decode=(seconds, 0.0, 0.0))


async def announce_speeds(gateway: Gateway, **seconds: float | None) -> None:
    await gateway.announce(
        *(
            pipeline(
                name,
                gateway.pipelines[name].ref,
                kv_tokens=10_000,
                max_running=8,
                times=None if step_s is None else times(step_s),
            )
            for name, step_s in seconds.items()
        )
    )


@on_virtual_time
async def test_the_faster_pipeline_gets_more_until_it_is_as_full_as_it_is_fast(
    world: World,
) -> None:
    gateway = await gateway_to(world, "a", "b")
    await announce_speeds(gateway, a=1.0, b=0.1)
    names = [gateway.router.open(request(f"r{n}", [1] * 8, 5)).pipeline for n in range(10)]
    assert names[0] == "b"  # though it has the greater id
    assert names.count("b") > names.count("a")


@on_virtual_time
async def test_a_pipeline_whose_times_are_not_known_counts_as_the_others_do(world: World) -> None:
    gateway = await gateway_to(world, "a", "b", "c")
    await announce_speeds(gateway, a=1.0, b=None, c=None)
    names = [gateway.router.open(request(f"r{n}", [1] * 8, 5)).pipeline for n in range(6)]
    assert names == ["a", "b", "c"] * 2


@on_virtual_time
async def test_another_choice_of_a_pipeline_may_be_handed_in(world: World) -> None:
    gateway = Gateway(world)

    def last(loads: Sequence[PipelineLoad], **_: object) -> str | None:
        return max((load.pipeline for load in loads), default=None)

    await gateway.open("a", "b", policy=RoutingPolicy(begin=last))
    assert gateway.router.open(request("r", [1], 5)).pipeline == "b"
