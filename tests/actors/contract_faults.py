"""What is done to a service by the failure contract, and what brings the struck part back."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from actors.pipeline import PipelineActor
from tests.actors.emulated_service import EmulatedWorker, Service
from transport.codec import Message

if TYPE_CHECKING:
    from actors.messages import PlanReport

if TYPE_CHECKING:
    from actors.messages import PlanReport

RESTART_S = 1.0
"""About what a launcher takes to start a process again."""
OUTAGE_S = 3.0
"""Well beyond the silence after which processes take each other for lost."""
SLOW_S = 0.2
"""What a slow link adds to every packet: a hundred times the usual, and far from silence."""

Undo = Callable[[], Awaitable[object]]


@dataclass(slots=True, eq=False)
class Strike:
    """One fault: `begin` strikes and says how the struck part comes back.

    Attributes:
        loses_nothing: no request may even be told of it, and no process is started.
        cuts_clients: the clients lose their connection with the process that is struck.
    """

    begin: Callable[[Service], Undo]
    loses_nothing: bool = False
    cuts_clients: bool = False
    clients: "asyncio.Task[list[str]] | None" = None
    operator: "asyncio.Task[PlanReport | None] | None" = None
    undo: Undo | None = None

    def now(self, world: Service) -> None:
        """Strike."""
        self.undo = self.begin(world)
        if self.cuts_clients:
            for task in (self.clients, self.operator):
                if task is not None:
                    task.cancel()

    async def undone(self) -> None:
        """Bring the struck part back, as a launcher, the network or an operator would."""
        assert self.undo is not None
        await self.undo()

    def check_clients(self, count: int) -> None:
        """All have all their tokens, unless their connections were cut."""
        if self.clients is None:
            return
        if self.cuts_clients:
            assert self.clients.cancelled()
        else:
            assert Counter(self.clients.result()) == {"right": count}


async def nothing() -> None:
    """The service itself brings it back."""


# --- crashes


def kill_worker(world: Service) -> Undo:
    second_stage(world).die()
    return nothing


def kill_node(name: str) -> Callable[[Service], Undo]:
    """A node's process ends, and its workers with it; its launcher starts it again."""

    def begin(world: Service) -> Undo:
        world.kill_node(name)
        return after(RESTART_S, lambda: world.start_node(name))

    return begin


def kill_pipeline(world: Service) -> Undo:
    """The pipeline's actor fails at its next message; its process lives."""
    actor = pipeline_actor(world)

    async def fail(*_: object) -> NoReturn:
        raise RuntimeError("struck")

    actor.receive = fail  # type: ignore[method-assign, assignment]
    assert actor.context.self_ref is not None
    world.gateway.tell(actor.context.self_ref, Message())
    return nothing


def kill_coordinator(world: Service) -> Undo:
    world.network.kill("coordinator")
    return after(RESTART_S, world.start_coordinator)


def kill_gateway(world: Service) -> Undo:
    world.network.kill("gateway")
    return after(RESTART_S, world.start_gateway)


# --- silence


def isolate(process: Callable[[Service], str]) -> Callable[[Service], Undo]:
    """A process that hangs: nobody hears of it for a while."""

    def begin(world: Service) -> Undo:
        struck = process(world)
        return cut(world, struck, [other for other in everyone(world) if other != struck])

    return begin


def part(
    one: Callable[[Service], str], other: Callable[[Service], str]
) -> Callable[[Service], Undo]:
    """Two processes do not reach each other for a while; all others reach both."""
    return lambda world: cut(world, one(world), [other(world)])


def cut(world: Service, one: str, others: Sequence[str]) -> Undo:
    assert {one, *others} <= set(everyone(world)), "a blow that nobody feels shows nothing"
    for other in others:
        world.network.partition(one, other)

    async def heal() -> None:
        for other in others:
            world.network.heal(one, other)

    return after(OUTAGE_S, heal)


def island(world: Service) -> Undo:
    """The coordinator reaches the gateway and nobody else."""
    others = [name for name in everyone(world) if name not in ("coordinator", "gateway")]
    return cut(world, "coordinator", others)


def hang_device(world: Service) -> Undo:
    """The process answers, but no step that it is given ever ends."""
    second_stage(world).device.hangs = True
    return nothing


# --- slowness


def slow(process: Callable[[Service], str]) -> Callable[[Service], Undo]:
    """Every packet from and to a process takes long."""

    def begin(world: Service) -> Undo:
        struck, usual = process(world), world.network.wire._delay
        assert struck in everyone(world)

        def delay(sender: str, receiver: str, num_bytes: int) -> float:
            return usual(sender, receiver, num_bytes) + SLOW_S * (struck in (sender, receiver))

        world.network.wire._delay = delay

        async def mend() -> None:
            world.network.wire._delay = usual

        return after(OUTAGE_S, mend)

    return begin


# --- who


def second_stage(world: Service) -> EmulatedWorker:
    return world.living("b/stage-0.1")


def stage(world: Service) -> str:
    return second_stage(world).address


def first_stage(world: Service) -> str:
    return world.living("a/stage-0.0").address


def named(name: str) -> Callable[[Service], str]:
    return lambda world: name


def everyone(world: Service) -> list[str]:
    """All processes that live."""
    return [*world.systems, *(w.address for w in world.workers if w.is_alive)]


def pipeline_actor(world: Service) -> PipelineActor:
    """The actor that has the requests now."""
    assert world.router.plan is not None
    home = world.router.plan.pipelines[0].ref
    return next(a for a in PIPELINES if a.context.self_ref == home)


PIPELINES: list[PipelineActor] = []
"""Every pipeline actor of the test under way."""


def after(seconds: float, undo: Undo) -> Undo:
    async def later() -> None:
        await asyncio.sleep(seconds)
        with suppress(TimeoutError):
            await undo()

    return later


HEAD, GATEWAY, COORDINATOR = named("node-a"), named("gateway"), named("coordinator")

STRIKES: dict[str, Callable[[], Strike]] = {
    "stage-crash": lambda: Strike(kill_worker),
    "stage-hang": lambda: Strike(isolate(stage)),
    "device-hang": lambda: Strike(hang_device),
    "stage-partition": lambda: Strike(part(stage, HEAD)),
    "stages-partition": lambda: Strike(part(first_stage, stage)),
    "stage-slow": lambda: Strike(slow(stage), loses_nothing=True),
    "pipeline-crash": lambda: Strike(kill_pipeline),
    "pipeline-partition": lambda: Strike(part(HEAD, GATEWAY)),
    "head-crash": lambda: Strike(kill_node("a")),
    "head-hang": lambda: Strike(isolate(HEAD)),
    "head-partition": lambda: Strike(part(HEAD, COORDINATOR)),
    "head-slow": lambda: Strike(slow(HEAD), loses_nothing=True),
    "node-crash": lambda: Strike(kill_node("b")),
    "node-hang": lambda: Strike(isolate(named("node-b"))),
    "node-partition": lambda: Strike(part(named("node-b"), COORDINATOR)),
    "node-slow": lambda: Strike(slow(named("node-b")), loses_nothing=True),
    "gateway-crash": lambda: Strike(kill_gateway, cuts_clients=True),
    "gateway-hang": lambda: Strike(isolate(GATEWAY)),
    "gateway-partition": lambda: Strike(part(GATEWAY, COORDINATOR)),
    "gateway-slow": lambda: Strike(slow(GATEWAY), loses_nothing=True),
    "coordinator-crash": lambda: Strike(kill_coordinator),
    "coordinator-hang": lambda: Strike(isolate(COORDINATOR)),
    "coordinator-partition": lambda: Strike(island),
    "coordinator-slow": lambda: Strike(slow(COORDINATOR), loses_nothing=True),
}
