"""A service to which a schedule happens: its processes can be killed, paused, parted and restarted.

What a launcher would do is done here: whatever ends is started again after a while.
"""

import asyncio
import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise

from actors.kernel.errors import ActorError
from actors.kernel.system import ActorSystem
from actors.messages import PipelineStatus
from actors.node import NodeActor, NodeRefused
from actors.pipeline import PipelineActor
from actors.placement import ServiceSettings, StageWish
from actors.router import RouterActor
from actors.stage import StageActor
from tests.actors.emulated_pipeline import EmulatedDevice
from tests.actors.emulated_service import EmulatedWorker, Service
from tests.actors.wanted import wanted_service
from tests.simulation.monitor import Epochs, WatchedRouter, WatchedStage
from tests.simulation.schedules import (
    BLOCK_TOKENS,
    MAX_MODEL_LEN,
    NUM_LAYERS,
    RECOVERY_TIMEOUT_S,
    Shape,
)
from transport.errors import TransportError
from transport.memory_endpoint import MemoryEndpoint, MemoryNetwork

START_AGAIN_S = 0.5
"""After this a launcher starts a process again that ended by itself."""
NODE_MAY_FAIL_OF = (NodeRefused, ConnectionError, ActorError, TransportError)
"""A node ends when nobody takes it; its launcher tries again."""


def node_names(shape: Shape) -> tuple[str, ...]:
    return tuple("abcdefgh"[: len(shape.nodes)])


def settings_of(shape: Shape) -> ServiceSettings:
    """What the coordinator is to bring up for a shape."""
    is_one = len(shape.pipelines) == 1
    names = node_names(shape)
    return wanted_service(
        NUM_LAYERS,
        cost=replace(wanted_service(NUM_LAYERS).cost, num_kv_tokens=MAX_MODEL_LEN),
        wait_nodes=names,
        num_nodes=len(names),
        num_stages=shape.pipelines[0] if is_one else 0,
        pipelines=() if is_one else _wishes(shape),
        phases=shape.phases,
        num_spares=shape.num_spares,
        num_blocks=shape.num_blocks,
        block_tokens=BLOCK_TOKENS,
        max_model_len=MAX_MODEL_LEN,
        max_running=shape.max_running,
        max_step_tokens=shape.max_step_tokens,
        replay_log_bytes=shape.log_bytes,
        recovery_timeout_s=RECOVERY_TIMEOUT_S,
    )


def _wishes(shape: Shape) -> tuple[tuple[StageWish, ...], ...]:
    """Pipelines whose first stages are on different nodes, if there are several."""
    names = node_names(shape)
    return tuple(
        tuple(StageWish(node=names[(first + stage) % len(names)]) for stage in range(count))
        for first, count in enumerate(shape.pipelines)
    )


class World(Service):
    """A service, its launchers, and what is done to both."""

    def __init__(self, rng: random.Random, tasks: asyncio.TaskGroup, shape: Shape) -> None:
        super().__init__(rng, tasks, settings_of(shape))
        self.network = MemoryNetwork(
            rng,
            delay_s=(0.0001, shape.max_delay_s),
            loss=shape.loss,
            duplication=shape.duplication,
        )
        self.shape = shape
        self.epochs = Epochs()
        self.crashes: list[str] = []
        self.nodes: dict[str, NodeActor] = {}
        self.is_over = False
        self.down: set[str] = set()
        self._lives: dict[str, asyncio.Event] = {}
        self._away_s: dict[str, float] = {}
        self._cuts: Counter[frozenset[str]] = Counter()
        self._paused: dict[str, asyncio.Event] = {}
        self._pairs: dict[str, set[frozenset[str]]] = {}

    async def open(self) -> None:
        """Start everything."""
        await super().open()
        for name, num_devices in zip(node_names(self.shape), self.shape.nodes, strict=True):
            devices = tuple(f"cuda:{number}" for number in range(num_devices))
            self._tasks.create_task(self._keep_node(name, devices))

    def close(self) -> None:
        """Stop everything, in order."""
        self.is_over = True
        self.end_all()

    # --- what differs from a plain service

    def make_router(self) -> RouterActor:
        return WatchedRouter(self.coordinator, self.epochs)

    def make_stage(self, device: EmulatedDevice) -> StageActor:
        return WatchedStage(device, self.epochs)

    async def open_endpoint(self, name: str) -> MemoryEndpoint:
        endpoint = await super().open_endpoint(name)
        for paused in self._paused:
            self._cut_for(paused, name)
        return endpoint

    async def before_start(self) -> None:
        await asyncio.sleep(self.rng.uniform(0, self.shape.start_s))

    async def before_stop(self, worker: EmulatedWorker, grace_s: float) -> None:
        """One that is paused hears nothing of it, and is ended by force."""
        goes_on = self._paused.get(worker.address)
        if goes_on is None:
            return
        try:
            async with asyncio.timeout(grace_s):
                await goes_on.wait()
        except TimeoutError:
            worker.die()

    async def _host(
        self, name: str, ready: asyncio.Future[ActorSystem], end: asyncio.Event
    ) -> None:
        over = self._lives[name] = asyncio.Event()
        try:
            await super()._host(name, ready, end)
        except ActorError as error:
            cause = error.__cause__
            if not name.startswith("node-") or not isinstance(cause, NODE_MAY_FAIL_OF):
                self.crashes.append(f"{name}: {error}")
        finally:
            over.set()

    async def _keep_node(self, name: str, devices: tuple[str, ...]) -> None:
        """One life of a node after another, as its launcher would have it."""
        while not self.is_over:
            node = await self.start_node(name, devices)
            assert isinstance(node, NodeActor)
            self.nodes[name] = node
            await self._lives[f"node-{name}"].wait()
            del self.nodes[name]
            if self.is_over:
                return
            self._end_workers_of(name)
            await asyncio.sleep(self._away_s.pop(name, START_AGAIN_S))

    def _end_workers_of(self, node: str) -> None:
        """They end with whoever started them."""
        for worker in self.workers:
            if worker.name.startswith(f"{node}/") and worker.is_alive:
                worker.die()

    # --- who is there

    @property
    def living_workers(self) -> list[EmulatedWorker]:
        """Workers whose process lives."""
        return [worker for worker in self.workers if worker.is_alive]

    def process_names(self) -> list[str]:
        """Every process that is up, in a fixed order."""
        return [*sorted(self.systems), *sorted(worker.address for worker in self.living_workers)]

    def pipeline_actors(self) -> list[PipelineActor]:
        """Every pipeline's actor that lives, wherever."""
        systems = [self.systems[name] for name in sorted(self.systems)]
        places = [child for system in systems for child in system._tree._by_name.values()]
        found = [child.cell._actor for child in places]
        return [actor for actor in found if isinstance(actor, PipelineActor)]

    def home_nodes(self) -> list[str]:
        """Nodes that have a pipeline's actor, as far as the router knows."""
        refs = [status.ref for status in self._statuses()]
        names = [ref.address.rpartition("node-")[2] for ref in refs if ref is not None]
        return [name for name in dict.fromkeys(names) if name in self.nodes]

    def neighbours(self) -> list[tuple[str, str]]:
        """Pairs of processes that have stages which follow one another."""
        alive = {worker.name: worker.address for worker in self.living_workers}
        return [
            (alive[one.worker], alive[other.worker])
            for status in self._statuses()
            for one, other in pairwise(status.stages)
            if one.worker in alive and other.worker in alive
        ]

    def workers_in_use(self) -> list[EmulatedWorker]:
        """Workers of the stages that serve, as far as the router knows."""
        names = {stage.worker for status in self._statuses() for stage in status.stages}
        return [worker for worker in self.living_workers if worker.name in names]

    def _statuses(self) -> tuple[PipelineStatus, ...]:
        plan = self.router.plan if hasattr(self, "router") else None
        return () if plan is None else plan.pipelines

    # --- what can be done to it

    async def lose_node(self, name: str, away_s: float) -> None:
        """End a node with all its workers, without a word; it comes back."""
        self.let_return(name, away_s)
        self.network.kill(f"node-{name}")
        self._end_workers_of(name)

    def let_return(self, name: str, away_s: float) -> None:
        """When a node's present life is over, its next one begins after this."""
        self._away_s[name] = away_s

    async def lose_coordinator(self, away_s: float) -> None:
        """Kill the coordinator, and start it again after a while."""
        self.down.add("coordinator")
        self.network.kill("coordinator")
        await self._lives["coordinator"].wait()
        await asyncio.sleep(away_s)
        await self.start_coordinator()
        self.down.remove("coordinator")

    async def lose_gateway(self, away_s: float) -> None:
        """Kill the gateway, and with it the connections of its clients; start another."""
        self.down.add("gateway")
        self.network.kill("gateway")
        for stream in self.router.streams:
            stream.fail("gateway_killed", "the connection was closed")
        del self.router
        await self._lives["gateway"].wait()
        await asyncio.sleep(away_s)
        await self.start_gateway()
        self.down.remove("gateway")

    async def pause(self, name: str, for_s: float) -> None:
        """Let nothing reach a process, nor come from it, as if it were stopped."""
        if name in self._paused:
            return
        goes_on = self._paused[name] = asyncio.Event()
        for other in self.process_names():
            self._cut_for(name, other)
        await asyncio.sleep(for_s)
        del self._paused[name]
        for pair in sorted(self._pairs.pop(name, ()), key=sorted):
            self._mend(*sorted(pair))
        goes_on.set()

    async def part(self, one: str, other: str, for_s: float) -> None:
        """Let nothing through between two processes for a while."""
        self._cut(one, other)
        await asyncio.sleep(for_s)
        self._mend(one, other)

    def _cut_for(self, paused: str, other: str) -> None:
        pairs = self._pairs.setdefault(paused, set())
        pair = frozenset((paused, other))
        if len(pair) == 2 and pair not in pairs:
            pairs.add(pair)
            self._cut(paused, other)

    def _cut(self, one: str, other: str) -> None:
        self._cuts[frozenset((one, other))] += 1
        self.network.partition(one, other)

    def _mend(self, one: str, other: str) -> None:
        pair = frozenset((one, other))
        self._cuts[pair] -= 1
        if not self._cuts[pair]:
            self.network.heal(one, other)
