"""A simulated cluster: all its processes, and who starts them again.

The one idea: this is the launcher's part, played by a few coroutines. Coordinator and nodes that
end are started again after a while, workers are their node's. It never decides what goes wrong;
`faults` does that, by name.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from actors.kernel.ref import Ref
from actors.kernel.system import ActorSystem
from actors.link_probing import links_between
from actors.messages import PlanChanged, StartWorker
from actors.router import RouterActor
from runtime.errors import LaunchFailed
from runtime.simulation.cluster_file import Cluster, NodeFile
from runtime.simulation.device import DeviceFacts
from runtime.simulation.groups import Group, parts_of
from runtime.simulation.processes import (
    COORDINATOR,
    GATEWAY,
    MemoryStore,
    Process,
    start_coordinator,
    start_gateway,
    start_node,
)
from runtime.simulation.record import Record
from runtime.simulation.step_facts import StepReader
from runtime.simulation.topology import Topology
from runtime.simulation.worker import SimulatedWorker, WorkerPlace
from scheduling.pairing import SERVICE, RoutingPolicy
from scheduling.roofline import LinkRate, model_cost
from transport.memory_endpoint import SCHEME, MemoryNetwork

_log = logging.getLogger(__name__)

READY_TIMEOUT_S = 3600.0
LOOK_S = 0.1
FIRST_PID = 1000

Run = Callable[[Process], Awaitable[str]]


class World:
    """All processes of a cluster; `tasks` holds their lives."""

    def __init__(
        self,
        cluster: Cluster,
        record: Record,
        rng: random.Random,
        tasks: asyncio.TaskGroup,
        policy: RoutingPolicy = SERVICE,
    ) -> None:
        self.cluster, self.record, self.rng = cluster, record, rng
        self._policy = policy
        self.topology = Topology(cluster)
        self.network = MemoryNetwork(rng, delay_s=self.topology.delay_s)
        self._router: RouterActor | None = None
        self.plan: PlanChanged | None = None
        self.workers: list[SimulatedWorker] = []
        self.processes: dict[str, Process] = {}
        self._cost = model_cost(cluster.shape, num_kv_tokens=cluster.serving.max_model_len)
        self._tasks = tasks
        self._store = MemoryStore()
        self._reader = StepReader()
        self._left: set[str] = set()
        self._ending = asyncio.Event()

    async def open(self) -> None:
        """Start every process and wait until the service is up.

        Raises:
            LaunchFailed: it cannot come up; says why.
        """
        self._keep(COORDINATOR, self._run_coordinator)
        self._keep(GATEWAY, self._run_gateway)
        for node in self.cluster.nodes:
            self._keep(f"node-{node.id}", self._runs_node(node))
        await self._until_ready()

    def close(self) -> None:
        """Have every process end in order."""
        self._ending.set()
        for process in self.processes.values():
            process.stop()

    # --- what faults need

    def kill(self, process: str) -> None:
        """End the coordinator, or a node's machine with all its workers, without a word."""
        for worker in self.living():
            if process == f"node-{self.topology.place(worker.name)}":
                worker.die()
        self.processes[process].kill()

    def living(self) -> list[SimulatedWorker]:
        """The workers that are there now."""
        return [worker for worker in self.workers if worker.is_alive]

    def worker_of(self, pipeline: str, stage: int) -> SimulatedWorker | None:
        """Who hosts a stage, as the coordinator last said; None if that one is gone."""
        pipelines = self.plan.pipelines if self.plan is not None else ()
        names = [
            status.worker
            for found in pipelines
            if found.pipeline == pipeline
            for status in found.stages
            if status.stage == stage
        ]
        return next((worker for worker in self.living() if worker.name in names), None)

    @property
    def router(self) -> RouterActor:
        """The router, once `open` has returned."""
        assert self._router is not None
        return self._router

    @property
    def gateway(self) -> ActorSystem:
        """The gateway's actors, for who asks the coordinator from there."""
        return self.processes[GATEWAY].system

    def mark(self, kind: str, text: str) -> None:
        """Note that something happened now."""
        self.record.mark(asyncio.get_running_loop().time(), kind, text)

    def names(self) -> list[str]:
        """All processes that are there now, but for those about to start."""
        return [*self.processes, *(worker.process.name for worker in self.living())]

    def names_at(self, place: str) -> list[str]:
        """The processes at a node or a site, or the one of that name."""
        here = [name for name in self.names() if self._is_at(name, place)]
        return here or [name for name in self.names() if name == place]

    def _is_at(self, process: str, place: str) -> bool:
        node = self.topology.place(process)
        return place in (node, self.topology.site(node))

    # --- the processes

    def _keep(self, name: str, run: Run) -> None:
        self._tasks.create_task(self._keep_alive(name, run))

    async def _keep_alive(self, name: str, run: Run) -> None:
        """Start a process, and start it again whenever it has ended."""
        while not self._ending.is_set():
            process = self.processes[name] = Process(name, self.network, self.rng)
            ended = await run(process)
            del self.processes[name]
            if self._ending.is_set() or name in self._left:
                return
            _log.warning("process ended name=%s reason=%s", name, ended)
            if name == GATEWAY:
                raise LaunchFailed(f"the gateway ended: {ended}")
            await self._end_or(self.cluster.times.restart_s)

    async def _end_or(self, seconds: float) -> None:
        """Let time pass, unless the simulation ends meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await self._ending.wait()
        except TimeoutError:
            return

    def _links(self) -> dict[tuple[str, str], LinkRate]:
        """What a service would find by measuring between its nodes."""
        names = [node.id for node in self.cluster.nodes]
        serving = (stage.node for wishes in self.cluster.wishes() for stage in wishes)
        return {
            (one, other): self.topology.link(f"node-{one}", f"node-{other}")
            for one, other in links_between(names, serving)
        }

    async def _run_coordinator(self, process: Process) -> str:
        def populate() -> None:
            start_coordinator(process.system, self.cluster, self._store, self._links())

        return await process.live(populate)

    async def _run_gateway(self, process: Process) -> str:
        def populate() -> None:
            self._router = start_gateway(process.system, self.cluster, self._on_plan, self._policy)

        return await process.live(populate)

    def _runs_node(self, node: NodeFile) -> Run:
        async def run(process: Process) -> str:
            def populate() -> None:
                start_worker = self._starter(process.system.local_ref("node"))
                devices = self.cluster.offers(node)
                start_node(process.system, node.id, devices, start_worker, leave)

            def leave() -> None:
                self._left.add(process.name)
                process.stop()

            ended = await process.live(populate)
            for worker in self.living():
                if self.topology.place(worker.name) == node.id:
                    worker.die()  # as the kernel does with the children of a dead parent
            return ended

        return run

    def _starter(self, node: Ref) -> Callable[[StartWorker, object], Awaitable[SimulatedWorker]]:
        async def start(wanted: StartWorker, on_line: object) -> SimulatedWorker:
            place = WorkerPlace(
                node=node,
                network=self.network,
                rng=self.rng,
                start_s=self.cluster.times.process_start_s,
                facts=self._facts(wanted),
            )
            worker = SimulatedWorker(wanted, FIRST_PID + len(self.workers), place)
            self.workers.append(worker)
            self._tasks.create_task(worker.live())
            return worker

        return start

    def _facts(self, wanted: StartWorker) -> DeviceFacts:
        degree, place = parts_of(wanted.device)[1], wanted.worker
        return DeviceFacts(
            worker=wanted.worker,
            rates=self.cluster.device(wanted.device),
            shape=self.cluster.shape,
            cost=self._cost,
            load_bytes_per_s=degree * self.cluster.times.load_bytes_per_s,
            link_to=lambda to: self.topology.link(wanted.worker, to.removeprefix(SCHEME)),
            reader=self._reader,
            watcher=self.record,
            group=Group(degree=degree, link=self.topology.link(place, place)),
            line_to=lambda to: self.topology.line(wanted.worker, to.removeprefix(SCHEME)),
        )

    # --- news

    def _on_plan(self, plan: PlanChanged) -> None:
        self.record.on_plan(asyncio.get_running_loop().time(), plan)
        self.plan = plan

    async def _until_ready(self) -> None:
        """Wait until the router can send requests; raises `LaunchFailed` if that cannot be."""
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while not self._is_ready():  # noqa: ASYNC110  of a plan's arrival there is no event
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            missing = ", ".join(self.plan.missing) if self.plan is not None else "everything"
            raise LaunchFailed(
                f"the service was not up within {READY_TIMEOUT_S:g} s; missing: {missing}"
            ) from None

    def _is_ready(self) -> bool:
        if self.plan is not None and self.plan.failure:
            raise LaunchFailed(self.plan.failure)
        return self.plan is not None and self.router.not_ready_reason() is None


@asynccontextmanager
async def opened(
    cluster: Cluster, record: Record, rng: random.Random, policy: RoutingPolicy = SERVICE
) -> AsyncIterator[World]:
    """A cluster whose service is up, until the block ends; its router picks by `policy`.

    Raises:
        LaunchFailed: it did not come up, or ended.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            world = World(cluster, record, rng, tasks, policy)
            try:
                await world.open()
                yield world
            finally:
                world.close()
    except BaseExceptionGroup as group:
        failed, _ = group.split(LaunchFailed)
        if failed is None:
            raise
        raise _first(failed) from None


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group
