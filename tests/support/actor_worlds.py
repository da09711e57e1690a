"""Actors on virtual time among others that a test plays.

Every process is an actor system of its own on an instant wire, so each message goes through the
codec and its bounds, as between real processes.
"""

import asyncio
import functools
import inspect
import random
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from actors.attention import Attention
from actors.bring_up import pipeline_name, pipeline_ref
from actors.coordinator import CoordinatorActor
from actors.kernel.actor import Actor, LaterReply
from actors.kernel.ref import Ref
from actors.kernel.supervision import TEMPORARY
from actors.kernel.system import ActorSystem
from actors.kernel.virtual_time import run
from actors.messages import (
    ALL_MESSAGES,
    AssignStage,
    ChangeStages,
    HandedOver,
    HandOver,
    JoinNode,
    OpenPipeline,
    PipelineDegraded,
    PipelineLost,
    PipelineOpen,
    PipelineStatus,
    PlanChanged,
    RegisterRouter,
    RequestFailed,
    StageFailed,
    StageReady,
    StagesChanged,
    StartWorker,
    StopWorker,
    Subscribe,
    Tokens,
    TokensOf,
    Welcome,
    WorkerDown,
    WorkerUp,
)
from actors.placement import ServiceSettings
from actors.router import RouterActor, RouterLimits, StreamFailed
from actors.stream import Note, Stream
from scheduling.pairing import SERVICE, RoutingPolicy
from tests.actors.kernel.instant import InstantNetwork
from tests.actors.wanted import MB, wanted_service
from transport.codec import Codec, Message
from transport.endpoint import Lane, PeerLost
from transport.errors import PeerGone
from transport.frame import Buffer

_M = TypeVar("_M", bound=Message)
_T = TypeVar("_T")

CODEC = Codec(ALL_MESSAGES)
EPOCH = 3
PATIENCE_S = 7200.0
"""More than any deadline in the service."""


class Played(Actor):
    """An actor whose part a test plays: it keeps what it hears and answers as it was told to."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.heard_at: list[float] = []
        self.answers: dict[type[Message], Callable[[Any], Message | None]] = {}
        self.postponed: dict[type[Message], list[LaterReply]] = {}
        self.is_free = asyncio.Event()
        self.is_free.set()
        self._news = asyncio.Event()

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        """Hear a message; while `is_free` is not set, the next ones wait in the mailbox."""
        self.heard.append(message)
        self.heard_at.append(self.context.loop_time())
        self._news.set()
        await self.is_free.wait()
        if type(message) in self.postponed:
            self.postponed[type(message)].append(self.context.reply_later())
            return None
        answer = self.answers.get(type(message))
        return None if answer is None else answer(message)

    @property
    def ref(self) -> Ref:
        return self.context.self_ref

    def tell(self, to: Ref, message: Message, lane: Lane = Lane.CONTROL) -> None:
        self.context.tell(to, message, lane=lane)

    def all_of(self, kind: type[_M]) -> list[_M]:
        """Every message of a kind so far."""
        return [message for message in self.heard if isinstance(message, kind)]

    async def hears(self, kind: type[_M], count: int = 1) -> _M:
        """Wait for the `count`-th message of a kind."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.all_of(kind)) < count:
                await self._wait_news()
        return self.all_of(kind)[count - 1]

    async def learns(self, kind: type[_M], holds: Callable[[_M], object]) -> _M:
        """Wait until the newest message of a kind fulfils a condition."""
        async with asyncio.timeout(PATIENCE_S):
            while not (heard := self.all_of(kind)) or not holds(heard[-1]):
                await self._wait_news()
        return heard[-1]

    async def _wait_news(self) -> None:
        self._news.clear()
        await self._news.wait()


class World:
    """Processes by name, opened as a test needs them and all closed with it."""

    def __init__(self, rng: random.Random, open_ones: AsyncExitStack) -> None:
        self.rng = rng
        self.network = InstantNetwork()
        self._open_ones = open_ones

    async def open(self, name: str) -> ActorSystem:
        """Begin a process."""
        endpoint = self.network.open(name)
        system = ActorSystem(endpoint, CODEC, rng=self.rng)
        return await self._open_ones.enter_async_context(system)

    async def play(self, name: str) -> Played:
        """Begin a process with one actor whose part the test plays."""
        system, played = await self.open(name), Played()
        system.spawn(played, name="played")
        return played

    def lose(self, name: str) -> None:
        """End a process without a word; those it was connected to notice."""
        self.network.lose(name)

    def part(self, one: str, other: str) -> None:
        """Have two processes take each other for lost, though both live on."""
        for near, far in ((one, other), (other, one)):
            peer = self.network.endpoints[far].identity
            error = PeerGone(f"{far} fell silent")
            self.network.endpoints[near].events.put_nowait(PeerLost(peer, error))


async def settle(seconds: float = 0.5) -> None:
    """Let all that is under way on the instant wire arrive: virtual time passes when it has."""
    await asyncio.sleep(seconds)


def on_virtual_time(
    scenario: Callable[..., Coroutine[Any, Any, None]],
) -> Callable[..., None]:
    """Make a test of a scenario; after its world it takes what pytest gives the test."""

    def test(**given: Any) -> None:
        play(functools.partial(scenario, **given))

    signature = inspect.signature(scenario)
    parameters = list(signature.parameters.values())[1:]
    test.__name__ = scenario.__name__
    test.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return test


def play(scenario: Callable[[World], Coroutine[Any, Any, None]], seed: int = 0) -> None:
    """Run a scenario in a world of its own."""

    run(lambda rng: play_with(rng, scenario), seed=seed)


async def play_with(rng: random.Random, scenario: Callable[[World], Coroutine[Any, Any, _T]]) -> _T:
    """Run a scenario on a loop that runs already."""
    async with AsyncExitStack() as open_ones:
        return await scenario(World(rng, open_ones))


# --- a gateway


def plan(*pipelines: PipelineStatus, epoch: int = EPOCH, **other: Any) -> PlanChanged:
    fields: dict[str, Any] = {"model": "demo", "nodes": ("a",), "missing": (), "failure": None}
    return PlanChanged(epoch=epoch, pipelines=pipelines, **{**fields, **other})


def pipeline(name: str, ref: Ref | None, **other: Any) -> PipelineStatus:
    fields: dict[str, Any] = {"epoch": EPOCH, "state": "ready", "max_running": 2, "max_waiting": 1}
    return PipelineStatus(pipeline=name, ref=ref, stages=(), **{**fields, **other})


class Gateway:
    """A router at work, and those it talks to."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.router: RouterActor
        self.ref: Ref
        self.coordinator: Played
        self.pipelines: dict[str, Played] = {}
        self.notes: list[str] = []

    async def open(
        self,
        *names: str,
        limits: RouterLimits | None = None,
        policy: RoutingPolicy = SERVICE,
    ) -> None:
        """Begin with these pipelines ready."""
        self.coordinator = await self.world.play("coordinator")
        self.router = RouterActor(self.coordinator.ref, limits, policy=policy)
        self.ref = (await self.world.open("gateway")).spawn(self.router, name="router")
        await self.coordinator.hears(RegisterRouter)
        for name in names:
            self.pipelines[name] = await self.world.play(f"pipeline-{name}")
        if names:
            await self.announce(*(pipeline(n, p.ref) for n, p in self.pipelines.items()))

    async def announce(self, *pipelines: PipelineStatus, **other: Any) -> None:
        self.coordinator.tell(self.ref, plan(*pipelines, **other))
        await settle()

    def give(self, name: str, *updates: TokensOf, epoch: int = EPOCH) -> None:
        """Let a pipeline deliver tokens."""
        self.pipelines[name].tell(self.ref, Tokens(epoch=epoch, updates=updates), Lane.DATA)

    def refuse(self, name: str, request_name: str, kind: str) -> None:
        """Let a pipeline fail a request."""
        failed = RequestFailed(request=request_name, kind=kind, reason="so it is")
        self.pipelines[name].tell(self.ref, failed)

    async def read(self, stream: Stream, timeout_s: float = 60) -> tuple[list[int], str]:
        """A stream to its end: its tokens, and its finish reason or the kind of its failure."""
        tokens: list[int] = []
        while True:
            try:
                update = await self.router.next(stream, timeout_s)
            except StreamFailed as error:
                return tokens, error.failed.kind
            if isinstance(update, Note):
                self.notes.append(update.text)
                continue
            assert update.position == len(tokens)
            assert update.token_ids or update.finish_reason
            tokens.extend(update.token_ids)
            if update.finish_reason is not None:
                return tokens, update.finish_reason


def part(name: str, position: int, *tokens: int, finish: str | None = None) -> TokensOf:
    return TokensOf(request=name, position=position, token_ids=tokens, finish_reason=finish)


async def gateway_to(world: World, *names: str, limits: RouterLimits | None = None) -> Gateway:
    gateway = Gateway(world)
    await gateway.open(*names, limits=limits)
    return gateway


# --- a cluster


class Cluster:
    """A coordinator at work, with nodes, workers and a launcher that a test plays."""

    def __init__(self, world: World, wanted: ServiceSettings) -> None:
        self.world = world
        self.wanted = wanted
        self.attention = Attention()
        self.coordinator: Ref
        self.launcher: Played
        self.nodes: dict[str, Played] = {}
        self.workers: dict[str, Played] = {}
        self.homes: dict[str, Played] = {}
        self._obeyed: dict[str, int] = {}
        self._num_lives = 0

    async def open(self) -> None:
        system = await self.world.open("coordinator")
        actor = CoordinatorActor(self.wanted, attention=self.attention)
        self.coordinator = system.spawn(actor, name="coordinator")
        self.launcher = await self.world.play("launcher")
        self.launcher.tell(self.coordinator, Subscribe(ref=self.launcher.ref))
        await self.launcher.hears(PlanChanged)

    @property
    def status(self) -> PlanChanged:
        """What the launcher was told last."""
        return self.launcher.all_of(PlanChanged)[-1]

    async def learns(self, holds: Callable[[PlanChanged], object]) -> PlanChanged:
        """Wait until the launcher's last news fulfils a condition."""
        return await self.launcher.learns(PlanChanged, holds)

    async def ready(self, epoch: int) -> PlanChanged:
        return await self.learns(lambda plan: plan.epoch == epoch and not plan.missing)

    async def join(self, name: str, devices: tuple[str, ...] = ("cpu",)) -> Message:
        """Offer a node; what the coordinator answers."""
        node = await self.world.play(f"node-{name}.{self._next_life()}")
        node.answers[OpenPipeline] = lambda wanted: self.open_pipeline(node, wanted)
        join = JoinNode(node=name, ref=node.ref, devices=devices, num_cores=8, version="1")
        answer = await node.context.ask(self.coordinator, join, timeout_s=10)
        if isinstance(answer, Welcome):
            self.nodes[name], self._obeyed[name] = node, 0
        return answer

    def open_pipeline(self, node: Played, wanted: OpenPipeline) -> PipelineOpen:
        """Begin a pipeline's actor on a node; what that answers."""
        home = self.homes[wanted.pipeline] = Played()
        home.answers[ChangeStages] = stages_changed
        home.answers[HandOver] = lambda _: HandedOver(num_requests=0, failure=None)
        name = pipeline_name(wanted.pipeline, wanted.epoch)
        ref = node.context.spawn(home, name=name, supervision=TEMPORARY)
        return PipelineOpen(epoch=wanted.epoch, pipeline=wanted.pipeline, ref=ref)

    async def start(self, worker: str, memory_bytes: int = 1000 * MB) -> Played:
        """Begin a life of a worker, of which its node tells."""
        played = self.workers[worker] = await self.world.play(f"{worker}.{self._next_life()}")
        played.answers[AssignStage] = stage_ready
        self.node_of(worker).tell(
            self.coordinator,
            WorkerUp(
                worker=worker,
                ref=played.ref,
                pid=self._num_lives,
                device="cpu",
                device_name="played",
                memory_bytes=memory_bytes,
                flops_per_s=1e12,
                bytes_per_s=1e9,
                layer_overhead_s=0.0,
            ),
        )
        return played

    async def serve(self, *nodes: str) -> PlanChanged:
        """Bring it all up."""
        for name in nodes:
            await self.join(name)
        await settle()
        await self.obey()
        return await self.learns(lambda plan: plan.pipelines and not plan.missing)

    async def obey(self) -> None:
        """Let the nodes do what they were told since the last time: start and stop workers."""
        for name, node in self.nodes.items():
            orders = [m for m in node.heard if isinstance(m, StartWorker | StopWorker)]
            fresh, self._obeyed[name] = orders[self._obeyed[name] :], len(orders)
            for order in fresh:
                if isinstance(order, StartWorker):
                    await self.start(order.worker)
                elif order.worker in self.workers:
                    self.end(order.worker)

    def silence(self, worker: str) -> None:
        """Cut a worker's process off; its node knows nothing of that."""
        self.world.lose(self.workers[worker].ref.address.removeprefix("instant://"))

    def part(self, played: "Played") -> None:
        """Have the coordinator and a process that lives on lose each other."""
        self.world.part("coordinator", played.ref.address.removeprefix("instant://"))

    def end(self, worker: str, reason: str = "killed by signal 9") -> None:
        """End a worker's process, as its node tells."""
        if worker in self.workers:
            self.silence(worker)
            del self.workers[worker]
        down = WorkerDown(worker=worker, pid=1, reason=reason)
        self.node_of(worker).tell(self.coordinator, down)

    def lose_node(self, name: str) -> None:
        """End a node's machine, and with it the workers there."""
        for worker in [w for w in self.workers if w.startswith(f"{name}/")]:
            self.silence(worker)
            del self.workers[worker]
        self.world.lose(self.nodes.pop(name).ref.address.removeprefix("instant://"))

    def lose_pipeline(self, name: str, epoch: int, *, is_stuck: bool = True) -> None:
        """Let a pipeline's actor say that it cannot go on."""
        reason = "a step took longer than 5 s"
        lost = PipelineLost(epoch=epoch, pipeline=name, reason=reason, is_stuck=is_stuck)
        next(iter(self.nodes.values())).tell(self.coordinator, lost)

    def degrade_pipeline(self, name: str, epoch: int, *workers: str) -> None:
        """Let a pipeline's actor say that it cannot reach some of its workers."""
        degraded = PipelineDegraded(
            epoch=epoch,
            pipeline=name,
            lost=tuple(self.workers[worker].ref for worker in workers),
            reason="out of reach",
        )
        self.homes[name].tell(self.coordinator, degraded)

    def node_of(self, worker: str) -> Played:
        return self.nodes[worker.split("/")[0]]

    def _next_life(self) -> int:
        self._num_lives += 1
        return self._num_lives


def opened(node: Played, wanted: OpenPipeline) -> PipelineOpen:
    """What a node answers once it has opened a pipeline."""
    ref = pipeline_ref(node.ref, wanted.pipeline, wanted.epoch)
    return PipelineOpen(epoch=wanted.epoch, pipeline=wanted.pipeline, ref=ref)


def stages_changed(wanted: ChangeStages) -> StagesChanged:
    """What a pipeline's actor answers once it goes on over other stages."""
    return StagesChanged(epoch=wanted.epoch, phases=(), num_rebuilt=0, num_whole=0, num_preempted=0)


def stage_ready(wanted: AssignStage) -> StageReady:
    """What a worker answers once it has loaded its layers."""
    return StageReady(
        epoch=wanted.epoch,
        pipeline=wanted.pipeline,
        stage=wanted.stage,
        kept_start=0,
        kept_end=0,
        num_logged_blocks=wanted.num_blocks,
        keeps_log=False,
        weight_bytes=(wanted.end - wanted.start) * MB,
        kv_bytes=1,
        resident_bytes=2,
    )


def stage_failed(wanted: AssignStage, reason: str = "no such folder") -> StageFailed:
    """What a worker answers when it cannot load its layers."""
    return StageFailed(epoch=wanted.epoch, stage=wanted.stage, reason=reason)


async def cluster_of(world: World, num_layers: int = 4, **changes: Any) -> Cluster:
    """A coordinator that waits for the nodes of a small service."""
    cluster = Cluster(world, wanted_service(num_layers, **changes))
    await cluster.open()
    return cluster
