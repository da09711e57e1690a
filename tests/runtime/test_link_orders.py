"""Orders to disturb links: from the operator to every process that they name, on virtual time."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from actors.kernel.actor import Actor
from actors.kernel.ref import Ref
from actors.kernel.system import ActorSystem
from actors.kernel.virtual_time import run
from actors.messages import (
    ALL_MESSAGES,
    BeginDisturbance,
    Disturbances,
    DisturbLinks,
    DisturbRefused,
    GetDisturbances,
    GetProcesses,
    MendLinks,
    ProcessAddress,
    Processes,
    Progress,
)
from runtime import fault_actor
from runtime.fault_actor import LEASE_S, MAX_ORDERS, FaultActor
from runtime.gateway.errors import ApiError
from runtime.gateway.operator import LinkFault, Unavailable, Unsupported
from runtime.link_orders import BEGIN_AFTER_S, BYTES_PER_S, LATENCY_S, LinkOrders, find
from transport.codec import Codec, Message
from transport.disturbance import Disturbance
from transport.faulty_endpoint import FaultyEndpoint
from transport.frame import Buffer
from transport.memory_endpoint import MemoryNetwork

CODEC = Codec(ALL_MESSAGES)
NAMES = {
    "gateway": ("gateway", "gateway:gateway-0"),
    "node-a": ("node:a", "pipeline:0"),
    "worker": ("node:a", "stage:0/0", "stage:0"),
    "node-b": ("node:b",),
}
FOR_S = 3.0


class Knowing(Actor):
    """The coordinator, as far as it is asked here."""

    def __init__(self, answer: Message) -> None:
        self.answer = answer

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        return self.answer if isinstance(message, GetProcesses) else None


@dataclass
class World:
    """Some processes, their endpoints, and whoever orders."""

    stack: AsyncExitStack
    rng: random.Random
    network: MemoryNetwork
    endpoints: dict[str, FaultyEndpoint] = field(default_factory=dict)
    systems: dict[str, ActorSystem] = field(default_factory=dict)
    known: Knowing = field(default_factory=lambda: Knowing(Progress(num_bytes=0, total_bytes=0)))

    async def open(self, name: str, *, may_disturb: bool = True) -> None:
        inner = await self.network.open(name)
        endpoint = self.endpoints[name] = FaultyEndpoint(inner, self.network.settings)
        self.stack.push_async_callback(endpoint.aclose)
        system = ActorSystem(endpoint, CODEC, rng=self.rng)
        self.systems[name] = await self.stack.enter_async_context(system)
        if may_disturb:
            system.spawn(FaultActor(endpoint), name=fault_actor.NAME)

    def orders(self) -> LinkOrders:
        system = self.systems["gateway"]
        coordinator = system.ref("memory://coordinator", "coordinator")
        return LinkOrders(system, coordinator, self.rng)

    def disturbed(self) -> dict[str, tuple[Disturbance, ...]]:
        return {name: found for name, e in self.endpoints.items() if (found := e.disturbances)}

    async def ask(self, name: str, message: Message) -> Message:
        system = self.systems["gateway"]
        ears = system.ref(f"memory://{name}", fault_actor.NAME)
        return await system.ask(ears, message, timeout_s=5.0)

    async def begin(self, name: str, wanted: DisturbLinks) -> Message:
        await self.ask(name, wanted)
        return await self.ask(name, BeginDisturbance(name=wanted.name))


Scenario = Callable[[World], Coroutine[Any, Any, None]]


def played(scenario: Scenario) -> Callable[[], None]:
    async def main(rng: random.Random) -> None:
        async with AsyncExitStack() as stack:
            world = World(stack, rng, MemoryNetwork(rng))
            await world.open("coordinator")
            world.systems["coordinator"].spawn(world.known, name="coordinator")
            for name in NAMES:
                await world.open(name, may_disturb=name != "node-b")
            world.known.answer = Processes(
                processes=(
                    ProcessAddress(names=("coordinator",), address="memory://coordinator"),
                    *(
                        ProcessAddress(names=names, address=f"memory://{name}")
                        for name, names in NAMES.items()
                    ),
                )
            )
            await scenario(world)

    def test() -> None:
        run(main, seed=0)

    test.__name__ = scenario.__name__
    return test


def fault(a: str, b: str, kind: str = "partition", **other: float) -> LinkFault:
    return LinkFault(kind=kind, a=a, b=b, for_s=FOR_S, **other)


def order(name: str = "cut", **other: Any) -> DisturbLinks:
    fields: dict[str, Any] = {"peers": ("memory://node-a",), "after_s": 0.0, "for_s": 1.0}
    return DisturbLinks(name=name, **(fields | {"is_cut": True} | other))


@played
async def test_a_partition_cuts_both_ends_after_everyone_has_its_order_and_ends_by_itself(
    world: World,
) -> None:
    async with asyncio.TaskGroup() as tasks:
        done = tasks.create_task(world.orders().disturb(fault("gateway", "a")))
        await asyncio.sleep(BEGIN_AFTER_S / 2)
        assert world.disturbed() == {}
        await asyncio.sleep(1.0)
        found = world.disturbed()
        assert set(found) == {"gateway", "node-a", "worker"}
        (cut,) = found["gateway"]
        assert cut.is_cut
        assert cut.peers == {"memory://node-a", "memory://worker"}
        assert {d.peers for d in found["worker"]} == {frozenset({"memory://gateway"})}
        assert not done.done()
    assert world.disturbed() == {}


@played
async def test_a_cut_that_cuts_off_its_own_order_heals_all_the_same(world: World) -> None:
    await world.orders().disturb(fault("gateway", "coordinator"))
    assert world.disturbed() == {}
    assert "node:a" in await world.orders().targets()


@played
async def test_a_slow_link_is_as_slow_as_asked_for_or_as_the_service_decides(
    world: World,
) -> None:
    for asked, expected in (
        ({}, (LATENCY_S, BYTES_PER_S)),
        ({"latency_s": 0.0, "bytes_per_s": 5e5}, (0.0, 5e5)),
    ):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(
                world.orders().disturb(fault("stage:0", "gateway", "slow-link", **asked))
            )
            await asyncio.sleep(BEGIN_AFTER_S + 1.0)
            ((slow,), _) = world.disturbed().values()
            assert (slow.is_cut, slow.latency_s, slow.bytes_per_s) == (False, *expected)


@played
async def test_where_one_process_must_not_be_disturbed_nobody_is(world: World) -> None:
    with pytest.raises(Unsupported, match=r"memory://node-b stay whole: launch it with --chaos"):
        await world.orders().disturb(fault("node:a", "node:b"))
    await asyncio.sleep(BEGIN_AFTER_S + 1.0)
    assert world.disturbed() == {}


@played
async def test_where_one_process_does_not_answer_nobody_is_disturbed(world: World) -> None:
    world.network.partition("gateway", "worker")
    with pytest.raises(Unavailable, match="memory://worker does not answer"):
        await world.orders().disturb(fault("node:a", "gateway"))
    for _ in range(20):
        assert world.disturbed() == {}
        await asyncio.sleep(0.2)


@played
async def test_a_name_that_stands_for_nobody_is_refused_with_those_that_there_are(
    world: World,
) -> None:
    with pytest.raises(ApiError, match=r"b: there is no 'stage:7'; there are coordinator, gateway"):
        await world.orders().disturb(fault("a", "stage:7"))
    with pytest.raises(ApiError, match="share a process"):
        await world.orders().disturb(fault("node:a", "stage:0"))


@played
async def test_a_coordinator_that_does_not_know_where_others_are_makes_it_unavailable(
    world: World,
) -> None:
    world.known.answer = Progress(num_bytes=0, total_bytes=0)
    with pytest.raises(Unavailable, match="the coordinator answered with Progress"):
        await world.orders().targets()
    world.network.kill("coordinator")
    with pytest.raises(Unavailable, match="the coordinator does not answer"):
        await world.orders().targets()


def test_a_bare_name_is_a_nodes() -> None:
    processes = (ProcessAddress(names=("node:a",), address="x"),)
    assert find("a", "a", processes) == find("node:a", "a", processes) == {"x"}


# --- the ear of a process


@played
async def test_an_order_that_is_taken_back_in_time_never_begins(world: World) -> None:
    await world.begin("worker", order(after_s=1.0))
    await world.ask("worker", MendLinks(name="cut"))
    await asyncio.sleep(2.0)
    assert world.disturbed() == {}
    await world.begin("worker", order(for_s=60.0))
    assert set(world.disturbed()) == {"worker"}
    await world.ask("worker", MendLinks(name="cut"))
    assert world.disturbed() == {}


@played
async def test_an_order_that_nobody_begins_is_forgotten(world: World) -> None:
    await world.ask("worker", order(for_s=60.0))
    await asyncio.sleep(LEASE_S + 1.0)
    await world.ask("worker", BeginDisturbance(name="cut"))
    await asyncio.sleep(1.0)
    assert world.disturbed() == {}


@played
async def test_an_order_that_asks_for_nothing_is_refused(world: World) -> None:
    answer = await world.ask("worker", order(is_cut=False))
    assert answer == DisturbRefused(reason="disturbance 'cut' neither cuts nor slows")


@played
async def test_a_process_takes_only_so_many_orders_at_a_time(world: World) -> None:
    for number in range(MAX_ORDERS):
        orders = world.ask if number % 2 else world.begin
        await orders("worker", order(f"{number}", for_s=60.0))
    answer = await world.ask("worker", order("one more"))
    assert isinstance(answer, DisturbRefused)
    assert f"{MAX_ORDERS} disturbances" in answer.reason


@played
async def test_what_disturbs_a_process_is_told_as_orders_for_another(world: World) -> None:
    await world.begin("worker", order(is_cut=False, latency_s=0.5, for_s=10.0))
    await asyncio.sleep(4.0)
    told = await world.ask("worker", GetDisturbances())
    assert isinstance(told, Disturbances)
    (left,) = told.links
    assert left.for_s == pytest.approx(6.0, abs=0.1)
    assert (left.peers, left.latency_s, left.bytes_per_s) == (("memory://node-a",), 0.5, 0.0)
    assert fault_actor.to_disturbance(left).latency_s == 0.5


@played
async def test_what_is_no_order_changes_nothing(world: World) -> None:
    await world.ask("worker", Progress(num_bytes=0, total_bytes=0))
    assert world.disturbed() == {}
