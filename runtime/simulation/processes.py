"""The processes of a simulated cluster: the only place where the real actors are constructed.

Each process is an actor system on the memory network. It never decides when one begins or ends;
`world` does.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any

from actors.coordinator import CoordinatorActor
from actors.holding import Held
from actors.kernel.errors import ActorError
from actors.kernel.ref import ANY, Ref
from actors.kernel.system import ActorSystem
from actors.messages import (
    ALL_MESSAGES,
    ChangePlan,
    DrainNode,
    FlipPhases,
    GetPipelineLoad,
    HandOffCounts,
    JoinNode,
    PipelineLoadReport,
    PlanChanged,
    PlanReport,
    WorkerUp,
)
from actors.node import NodeActor, StartsWorker
from actors.placement import ServiceSettings
from actors.router import RouterActor, RouterLimits
from actors.stage import StageActor
from models.interface import Shard
from runtime.simulation.cluster_file import Cluster
from runtime.simulation.device import EmulatedDevice
from runtime.simulation.observer import ObserverActor
from runtime.simulation.timed_shard import TimedShard
from scheduling.change_cost import AutoPolicy
from scheduling.kv_transport import KvLayout
from scheduling.pairing import SERVICE, RoutingPolicy
from scheduling.roofline import LinkRate, model_cost
from scheduling.split import StageDevice
from transport.codec import Codec, Message
from transport.endpoint import Lane
from transport.errors import EndpointClosed, TransportError
from transport.memory_endpoint import SCHEME, MemoryNetwork

COORDINATOR, GATEWAY = "coordinator", "gateway"
KILLED = "killed by signal 9"
NUM_CORES = 8
CHANGE_TIMEOUT_S = 660.0
"""More than a pipeline may take to change."""
LOAD_TIMEOUT_S = 5.0
_CODEC = Codec(ALL_MESSAGES)


class Process:
    """One life of a process: an actor system at an address, from its start to its end."""

    def __init__(self, name: str, network: MemoryNetwork, rng: random.Random) -> None:
        self.name = name
        self.system: ActorSystem
        self._network, self._rng = network, rng
        self._stopping = asyncio.Event()

    async def live(self, populate: Callable[[], object]) -> str:
        """Run until it is stopped, killed, or fails; how it ended, as an operating system says."""
        endpoint = await self._network.open(self.name)
        try:
            async with ActorSystem(endpoint, _CODEC, rng=self._rng) as self.system:
                populate()
                await self._stopping.wait()
        except EndpointClosed:
            return KILLED
        except ActorError as error:
            await endpoint.aclose()
            return f"exit status 1: {error}"
        await endpoint.aclose()
        return "exit status 0"

    def stop(self) -> None:
        """Have it end in order."""
        self._stopping.set()

    def kill(self) -> None:
        """End it without a word to anybody."""
        self._network.kill(self.name)


class MemoryStore:
    """The coordinator's state, which outlives its process as a journal would."""

    def __init__(self) -> None:
        self._state: bytes | None = None

    def load(self) -> bytes | None:
        """What was saved last, if anything."""
        return self._state

    def save(self, state: bytes) -> None:
        """Keep this instead of what was saved before."""
        self._state = state


def any_coordinator() -> Ref:
    """The coordinator in whichever of its lives."""
    return Ref(address=SCHEME + COORDINATOR, incarnation=ANY, name=COORDINATOR)


def start_coordinator(
    system: ActorSystem,
    cluster: Cluster,
    store: MemoryStore,
    links: Mapping[tuple[str, str], LinkRate],
) -> None:
    """Spawn the coordinator over what its former life left; `links` are those between nodes."""
    actor = CoordinatorActor(service_settings(cluster), store, compute=_at_once, links=links)
    system.spawn(actor, name=COORDINATOR)


async def _at_once(function: Callable[[], Any]) -> Any:
    """What the coordinator has computed elsewhere takes no time here."""
    return function()


def start_gateway(
    system: ActorSystem,
    cluster: Cluster,
    on_plan: Callable[[PlanChanged], None],
    policy: RoutingPolicy = SERVICE,
) -> RouterActor:
    """Spawn a router that picks pipelines by `policy`, and somebody who hears every plan."""
    limits = RouterLimits(
        max_held=cluster.serving.max_held,
        recovery_timeout_s=cluster.serving.recovery_timeout_s,
    )
    router = RouterActor(any_coordinator(), limits, policy=policy)
    system.spawn(router, name="router")
    system.spawn(ObserverActor(any_coordinator(), on_plan), name="observer")
    return router


def start_node(
    system: ActorSystem,
    node: str,
    devices: tuple[str, ...],
    start_worker: StartsWorker,
    on_leave: Callable[[], None],
) -> None:
    """Spawn a node that offers its devices; `on_leave` is called when it may end."""
    join = JoinNode(
        node=node,
        ref=system.local_ref("node"),
        devices=devices,
        num_cores=NUM_CORES,
        version="simulated",
    )
    actor = NodeActor(join, any_coordinator(), start_worker, forwards_logs=False, on_leave=on_leave)
    system.spawn(actor, name="node")


class SimulatedStage(StageActor):
    """A stage whose KV leaves on the link to whoever gets it, not to the stage behind it."""

    def __init__(self, device: EmulatedDevice) -> None:
        super().__init__(device, unpack=device.unpack)
        self._emulated = device

    def shard_towards(self, held: Held, target: Ref) -> Shard:
        """A view of the shard that sends over that link."""
        shard = held.loaded.shard
        assert isinstance(shard, TimedShard)
        device = self._emulated
        return shard.over(device.link_to(target.address), device.line_to(target.address))


def start_stage(
    system: ActorSystem, node: Ref, up: Callable[[Ref], WorkerUp], device: EmulatedDevice
) -> None:
    """Spawn a stage and offer it to its node."""
    ref = system.spawn(SimulatedStage(device), name="stage")
    system.tell(node, up(ref), lane=Lane.CONTROL)


async def ask_swap(gateway: ActorSystem, pipeline: str, layers: str) -> str:
    """Have a pipeline's stages take other layers; what became of it, in a line."""
    change = ChangePlan(pipeline=pipeline, layers=layers, num_stages=0, plan=b"", is_dry_run=False)
    return await _ask(gateway, change, CHANGE_TIMEOUT_S, f"swap {pipeline} {layers}")


async def ask_drain(gateway: ActorSystem, node: str, within_s: float) -> str:
    """Have everything moved off a node; what became of it, in a line."""
    drain = DrainNode(node=node, deadline_s=within_s)
    return await _ask(gateway, drain, within_s + CHANGE_TIMEOUT_S, f"drain {node}")


async def ask_flip(gateway: ActorSystem, phases: tuple[tuple[str, str], ...]) -> str:
    """Have pipelines serve other parts of requests; what became of it, in a line."""
    what = " ".join(f"{pipeline}={phase}" for pipeline, phase in phases)
    return await _ask(gateway, FlipPhases(phases=phases), CHANGE_TIMEOUT_S, f"flip {what}")


async def ask_hand_offs(gateway: ActorSystem, plan: PlanChanged) -> HandOffCounts:
    """How many requests the pipelines that are up handed off, all together."""
    found = [HandOffCounts()]
    for ref in [status.ref for status in plan.pipelines if status.ref is not None]:
        try:
            load = await gateway.ask(ref, GetPipelineLoad(), timeout_s=LOAD_TIMEOUT_S)
        except (ActorError, TransportError):
            continue
        assert isinstance(load, PipelineLoadReport)
        found.append(load.hand_offs)
    return HandOffCounts(
        num_done=sum(counts.num_done for counts in found),
        num_stayed=sum(counts.num_stayed for counts in found),
        num_failed=sum(counts.num_failed for counts in found),
        num_bytes=sum(counts.num_bytes for counts in found),
        seconds=sum(counts.seconds for counts in found),
        num_saved_bytes=sum(counts.num_saved_bytes for counts in found),
        num_present_blocks=sum(counts.num_present_blocks for counts in found),
        num_present_bytes=sum(counts.num_present_bytes for counts in found),
    )


async def _ask(gateway: ActorSystem, message: Message, timeout_s: float, what: str) -> str:
    try:
        report = await gateway.ask(any_coordinator(), message, timeout_s=timeout_s)
    except (ActorError, TransportError) as error:
        return f"{what}: no answer: {error}"
    assert isinstance(report, PlanReport)
    return f"{what}: done, epoch {report.epoch}" if report.is_done else f"{what}: {report.reason}"


def worker_up(ref: Ref, worker: str, pid: int, device: str, rates: StageDevice) -> WorkerUp:
    """What a worker says of its device once it has measured it."""
    return WorkerUp(
        worker=worker,
        ref=ref,
        pid=pid,
        device=device,
        device_name=device.partition(":")[0],
        memory_bytes=rates.memory_bytes,
        flops_per_s=rates.flops_per_s,
        bytes_per_s=rates.bytes_per_s,
        layer_overhead_s=rates.layer_overhead_s,
    )


def service_settings(cluster: Cluster) -> ServiceSettings:
    """What the coordinator is told to bring up."""
    serving = cluster.serving
    return ServiceSettings(
        model="simulated",
        model_name=cluster.model.name or "simulated",
        model_hash="simulated",
        cost=model_cost(cluster.shape, num_kv_tokens=serving.max_model_len),
        dtype="bfloat16",
        max_model_len=serving.max_model_len,
        wait_nodes=tuple(node.id for node in cluster.nodes),
        num_nodes=len(cluster.nodes),
        pipelines=cluster.wishes(),
        phases=tuple(pipeline.phase for pipeline in cluster.pipelines),
        num_stages=0,
        block_tokens=serving.block_tokens,
        num_blocks=serving.num_blocks,
        memory_fraction=serving.memory_fraction,
        max_running=serving.max_running,
        max_waiting=serving.max_waiting,
        max_step_tokens=serving.max_step_tokens,
        step_deadline_s=serving.step_deadline_s,
        recovery_timeout_s=serving.recovery_timeout_s,
        replay_log_bytes=serving.replay_log_bytes,
        num_spares=serving.spares,
        kv_transport=serving.kv_transport,
        prefix_sharing=serving.prefix_sharing,
        kv_layout=KvLayout(
            block_tokens=serving.block_tokens,
            head_dim=cluster.shape.head_dim,
            itemsize=cluster.shape.dtype_bytes,
        ),
        shape=cluster.shape,
        is_fixed=True,
        targets=cluster.planner.goal,
        auto=AutoPolicy(is_on=True),
    )
