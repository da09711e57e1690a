"""A whole service on virtual time: real coordinator, nodes, router, pipelines and stages.

Every process is an actor system on a `MemoryNetwork`; a worker process is one that a test can
kill. Only the shards are emulated, so that every token can be checked.
"""

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec

from actors.attention import Attention
from actors.coordinator import CoordinatorActor
from actors.kernel.actor import Actor
from actors.kernel.errors import ActorError
from actors.kernel.ref import ANY, Ref
from actors.kernel.system import ActorSystem
from actors.messages import (
    ALL_MESSAGES,
    GetPlan,
    JoinNode,
    PlanChanged,
    PlanDocument,
    PlanReport,
    StartWorker,
    WorkerUp,
)
from actors.node import NodeActor
from actors.placement import ServiceSettings
from actors.router import RouterActor, StreamFailed
from actors.stage import StageActor
from actors.stream import Note, Stream
from models.emulated import expected_tokens
from tests.actors.emulated_pipeline import NUM_LAYERS, VOCAB, EmulatedDevice, request
from tests.actors.wanted import MB, wanted_service
from transport.codec import Codec, Message
from transport.endpoint import Lane
from transport.errors import EndpointClosed
from transport.memory_endpoint import MemoryEndpoint, MemoryNetwork

_T = TypeVar("_T")
CODEC = Codec(ALL_MESSAGES)


def settings(**changes: Any) -> ServiceSettings:
    """A service of two stages on one node, unless changed."""
    return wanted_service(NUM_LAYERS, **{"num_stages": 2, **changes})


async def compute(function: Callable[[], _T]) -> _T:
    """Run a blocking function as if in a thread: virtual time knows none."""
    await asyncio.sleep(0.05)
    return function()


class EmulatedWorker:
    """A worker process: a stage actor in a system of its own, until it is stopped or killed."""

    def __init__(self, service: "Service", name: str, pid: int) -> None:
        self.name, self.pid = name, pid
        self.address = f"{name}.{pid}"  # every life listens elsewhere, as processes do
        self.device = EmulatedDevice(service.rng)
        self.stage = service.make_stage(self.device)
        self.system: ActorSystem | None = None
        self._service = service
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._stopping = asyncio.Event()

    async def live(self, node: Ref, device: str) -> None:
        if not self.is_alive:  # killed before it was up
            return
        endpoint = await self._service.open_endpoint(self.address)
        try:
            async with ActorSystem(endpoint, CODEC, rng=self._service.rng) as system:
                self.system = system
                ref = system.spawn(self.stage, name="stage")
                up = WorkerUp(
                    worker=self.name,
                    ref=ref,
                    pid=self.pid,
                    device=device,
                    device_name="emulated",
                    memory_bytes=1000 * MB,
                    flops_per_s=1e12,
                    bytes_per_s=1e9,
                    layer_overhead_s=0.0,
                )
                system.tell(node, up, lane=Lane.CONTROL)
                await self._stopping.wait()
            await endpoint.aclose()
        except EndpointClosed:  # it was killed
            self._end("killed by signal 9")
        else:
            self._end("exit status 0")

    @property
    def is_alive(self) -> bool:
        return not self._ended.done()

    async def wait(self) -> str:
        return await asyncio.shield(self._ended)  # whoever waits may be cancelled

    async def stop(self, grace_s: float) -> None:
        await self._service.before_stop(self, grace_s)
        self._stopping.set()
        await asyncio.shield(self._ended)

    def die(self, reason: str = "killed by signal 9") -> None:
        """End without a word to anybody."""
        self._end(reason)
        self._service.network.kill(self.address)

    def _end(self, reason: str) -> None:
        if not self._ended.done():
            self._ended.set_result(reason)


class MemoryStore:
    """What outlives a coordinator here."""

    def __init__(self) -> None:
        self.saved: bytes | None = None

    def load(self) -> bytes | None:
        return self.saved

    def save(self, state: bytes) -> None:
        self.saved = state


class Service:
    """All processes of a service, and what a gateway would do with it."""

    def __init__(
        self, rng: random.Random, tasks: asyncio.TaskGroup, wanted: ServiceSettings, **wire: float
    ) -> None:
        self.rng = rng
        self.network = MemoryNetwork(rng, delay_s=(0.0001, 0.002), **wire)  # type: ignore[arg-type]
        self.workers: list[EmulatedWorker] = []
        self.plans: list[PlanChanged] = []
        self.notes: list[str] = []
        self.left: list[str] = []
        self.store = MemoryStore()
        self._tasks = tasks
        self._wanted = wanted
        self._ends: dict[str, asyncio.Event] = {}
        self.systems: dict[str, ActorSystem] = {}
        self.attentions: dict[str, Attention] = defaultdict(Attention)
        self.router: RouterActor
        self.coordinator: Ref

    async def open(self) -> None:
        """Start coordinator and gateway."""
        await self.start_coordinator()
        await self.start_gateway()

    async def start_gateway(self) -> None:
        """A life of the gateway; it remembers no request of an earlier one."""
        self.gateway = await self.start_process("gateway")
        self.router = self.make_router()
        self.gateway.spawn(self.router, name="router")

    # --- what a test may do otherwise

    def make_router(self) -> RouterActor:
        """The actor of a gateway."""
        return RouterActor(self.coordinator)

    def make_coordinator(self) -> CoordinatorActor:
        """A life of the coordinator, which was never away unless a test says so."""
        attention = self.attentions["coordinator"]
        return CoordinatorActor(self._wanted, self.store, attention=attention, compute=compute)

    def make_stage(self, device: EmulatedDevice) -> StageActor:
        """The actor of a worker."""
        return StageActor(device)

    async def open_endpoint(self, name: str) -> MemoryEndpoint:
        """The door of a process that begins."""
        return await self.network.open(name)

    async def before_start(self) -> None:
        """Let a worker take the time that its start takes."""

    async def before_stop(self, worker: EmulatedWorker, grace_s: float) -> None:
        """Let a worker that is told to end take its time."""

    # --- processes

    async def ask(self, message: Message, timeout_s: float = 600) -> PlanReport:
        """Ask the coordinator for a change, as a gateway does for an operator."""
        answer = await self.gateway.ask(self.coordinator, message, timeout_s=timeout_s)
        assert isinstance(answer, PlanReport)
        return answer

    async def present_plan(self) -> dict[str, Any]:
        """The plan that serves, as an operator would get it."""
        plan: dict[str, Any] = json.loads((await self._plan_document()).plan)
        return plan

    async def recommendation(self) -> dict[str, Any]:
        """What the planner says of it."""
        found: dict[str, Any] = json.loads((await self._plan_document()).planner)
        return found

    async def _plan_document(self) -> PlanDocument:
        answer = await self.gateway.ask(self.coordinator, GetPlan(), timeout_s=60)
        assert isinstance(answer, PlanDocument)
        return answer

    async def start_coordinator(self) -> None:
        """A life of the coordinator, with what an earlier one stored."""
        system = await self.start_process("coordinator")
        ref = system.spawn(self.make_coordinator(), name="coordinator")
        self.coordinator = msgspec.structs.replace(ref, incarnation=ANY, generation=ANY)

    async def start_process(self, name: str) -> ActorSystem:
        """A process with its actor system, until `end_process`."""
        ready: asyncio.Future[ActorSystem] = asyncio.get_running_loop().create_future()
        end = self._ends[name] = asyncio.Event()
        self._tasks.create_task(self._host(name, ready, end))
        return await ready

    async def _host(
        self, name: str, ready: "asyncio.Future[ActorSystem]", end: asyncio.Event
    ) -> None:
        endpoint = await self.open_endpoint(name)
        try:
            async with ActorSystem(endpoint, CODEC, rng=self.rng) as system:
                self.systems[name] = system
                ready.set_result(system)
                await end.wait()
        except EndpointClosed:  # it was killed
            return
        except ActorError:
            await endpoint.aclose()
            raise
        finally:
            if self.systems.get(name) is system:  # its next life may have begun
                del self.systems[name]
        await endpoint.aclose()

    def end_all(self) -> None:
        """Stop every process in order."""
        for end in self._ends.values():
            end.set()

    async def start_node(self, name: str, devices: tuple[str, ...] = ("cpu",)) -> Actor:
        """A node's process, whose workers are emulated."""
        system = await self.start_process(f"node-{name}")
        node = system.local_ref("node")

        async def start_worker(
            wanted: StartWorker, on_line: Callable[[str], None]
        ) -> EmulatedWorker:
            await self.before_start()
            worker = EmulatedWorker(self, wanted.worker, 1000 + len(self.workers))
            self.workers.append(worker)
            self._tasks.create_task(worker.live(node, wanted.device))
            return worker

        join = JoinNode(node=name, ref=node, devices=devices, num_cores=8, version="1")
        actor = NodeActor(
            join,
            self.coordinator,
            start_worker,
            forwards_logs=False,
            on_leave=lambda: self._on_leave(name),
            attention=self.attentions[f"node-{name}"],
        )
        system.spawn(actor, name="node")
        return actor

    def _on_leave(self, node: str) -> None:
        self.left.append(node)
        self._ends[f"node-{node}"].set()

    def kill_node(self, name: str) -> None:
        """End a node's machine: its actor and all its workers, without a word."""
        self.network.kill(f"node-{name}")
        for worker in self.workers:
            if worker.name.startswith(f"{name}/"):
                worker.die()

    # --- what a gateway does

    async def until(self, condition: Callable[["Service"], bool], timeout_s: float = 600) -> None:
        """Wait on virtual time until a condition holds."""
        async with asyncio.timeout(timeout_s):
            while not condition(self):  # noqa: ASYNC110  of what others do there is no event
                await asyncio.sleep(0.01)

    @property
    def is_ready(self) -> bool:
        return hasattr(self, "router") and self.router.not_ready_reason() is None

    @property
    def failure(self) -> str | None:
        plan = self.router.plan
        return None if plan is None else plan.failure

    def living(self, worker: str) -> EmulatedWorker:
        """The newest life of a worker."""
        return next(w for w in reversed(self.workers) if w.name == worker)

    async def generate(self, name: str, prompt: list[int], max_tokens: int) -> str:
        """A request from beginning to end: `right`, or the kind of its failure.

        Raises:
            AssertionError: a token is wrong, or came twice, or not at all.
        """
        stream = self.router.open(request(name, prompt, max_tokens))
        tokens: list[int] = []
        expected = expected_tokens(prompt, max_tokens, NUM_LAYERS, vocab_size=VOCAB)
        while True:
            try:
                update = await self.router.next(stream, timeout_s=600)
            except StreamFailed as error:
                assert tokens == expected[: len(tokens)]
                return error.failed.kind
            if isinstance(update, Note):
                self.notes.append(update.text)
                continue
            assert update.position == len(tokens)
            tokens.extend(update.token_ids)
            if update.finish_reason is not None:
                assert tokens == expected
                return "right"

    async def read_all(self, stream: Stream) -> None:
        """Read a stream to its end."""
        while True:
            update = await self.router.next(stream, timeout_s=60)
            if not isinstance(update, Note) and update.finish_reason is not None:
                return

    async def generate_many(self, count: int, label: str = "r") -> list[str]:
        """So many requests at once, and how each ended."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    self.generate(
                        f"{label}{number}",
                        [self.rng.randrange(VOCAB) for _ in range(self.rng.randint(1, 20))],
                        self.rng.randint(1, 30),
                    )
                )
                for number in range(count)
            ]
        return [task.result() for task in tasks]


@asynccontextmanager
async def service(
    rng: random.Random, wanted: ServiceSettings | None = None, **wire: float
) -> AsyncIterator[Service]:
    """Coordinator and gateway; nodes are the test's to start."""
    async with asyncio.TaskGroup() as tasks:
        world = Service(rng, tasks, wanted or settings(), **wire)
        await world.open()
        try:
            yield world
        finally:
            world.end_all()
