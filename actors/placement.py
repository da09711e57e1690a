"""Which worker goes on which device, and which layers each gets: pure, from settings and reports.

First `wanted_workers` says what to start, from the devices that nodes offer; then, once the workers
have measured those devices, `plan_pipelines` gives each its layers and the pipeline its KV blocks.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from actors.messages import JoinNode, WorkerUp
from scheduling.change_cost import AutoPolicy
from scheduling.cluster import WITHIN_NODE, WITHIN_SITE
from scheduling.errors import Infeasible, InvalidPlan
from scheduling.first_split import first_split
from scheduling.goal import Goal, Limits
from scheduling.kv_transport import KvLayout, KvTransport
from scheduling.live import usual_workload
from scheduling.placement import Phase
from scheduling.plan import (
    NodeId,
    PipelineId,
    PipelinePlan,
    StagePlan,
    WorkerId,
    check_phases,
)
from scheduling.roofline import ModelShape
from scheduling.split import ModelCost, StageDevice, num_kv_blocks

CPU_MEMORY_FRACTION = 0.5
GPU_MEMORY_FRACTION = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class StageWish:
    """One stage as the operator wrote it; what is empty is for us to choose."""

    node: str = ""
    device: str = ""
    layers: tuple[int, int] | None = None
    num_threads: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """What the coordinator is to bring up.

    `pipelines` holds the wishes for each pipeline, stages in order, and `phases` what each serves;
    one for which there is none serves both. `num_blocks` of 0 takes
    what weights leave of `memory_fraction` of each device's free memory; 0 there is the usual.
    `num_spares` workers are kept warm on each node beside those that serve. The weights' words are
    `WeightPolicy`'s; `store_bytes` below 0 leaves it to what each node has. Without the model's
    `shape` no other plan is recommended; `auto` says when one is taken without being asked. One
    that `is_fixed` looks for no other plan, measures neither links nor steps for one, and splits
    layers by `cost` alone; `shape` then only says how fast pipelines are, for routers.
    `kv_transport` says in how many bits KV is handed off, and of nothing else that is copied;
    `auto` needs a `kv_layout`. With `prefix_sharing` requests that begin alike share KV blocks.
    Phases are chosen anew by the latencies of `targets`, if there are.
    """

    model: str
    model_name: str
    model_hash: str
    cost: ModelCost
    dtype: str
    max_model_len: int
    wait_nodes: tuple[str, ...]
    num_nodes: int
    pipelines: tuple[tuple[StageWish, ...], ...]
    num_stages: int
    block_tokens: int
    num_blocks: int
    memory_fraction: float
    max_running: int
    max_waiting: int
    max_step_tokens: int
    step_deadline_s: float
    recovery_timeout_s: float = 60.0
    replay_log_bytes: int = 1 << 28
    num_spares: int = 0
    weight_source: Literal["auto", "disk", "peer"] = "disk"
    weight_verify: Literal["sample", "full"] = "sample"
    store_bytes: int = 0
    max_weight_bytes_per_s: float = 400e6
    shape: ModelShape | None = None
    kv_transport: KvTransport = "none"
    prefix_sharing: bool = True
    kv_layout: KvLayout | None = None
    targets: Goal | None = None
    auto: AutoPolicy = field(default_factory=AutoPolicy)
    phases: tuple[Phase, ...] = ()
    is_fixed: bool = False

    @property
    def may_be_replanned(self) -> bool:
        """Whether other plans are looked for."""
        return self.shape is not None and not self.is_fixed


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSlot:
    """A worker to start: its name, its place, and the layers it was promised, if any."""

    worker: str
    pipeline: str
    stage: int
    node: str
    device: str
    num_threads: int
    layers: tuple[int, int] | None


def missing_nodes(settings: ServiceSettings, joined: Sequence[str]) -> tuple[str, ...]:
    """What the launch still waits for, in words."""
    missing = [f"node {name}" for name in settings.wait_nodes if name not in joined]
    short = settings.num_nodes - len(joined)
    if not settings.wait_nodes and short > 0:
        missing.append(f"{short} more node{'s' if short > 1 else ''}")
    return tuple(missing)


def wanted_workers(
    settings: ServiceSettings, nodes: Mapping[str, JoinNode]
) -> tuple[WorkerSlot, ...]:
    """A worker for every stage: where the operator put it, else spread over the devices in order.

    The nodes' order is that in which they were named, else that in which they joined.

    Raises:
        InvalidPlan: a stage names a node or device that is not there.
    """
    named = [name for name in settings.wait_nodes if name in nodes]
    nodes = {name: nodes[name] for name in dict.fromkeys([*named, *nodes])}
    devices = [(name, device) for name, node in nodes.items() for device in node.devices]
    wishes = settings.pipelines or (_default_wishes(settings, len(devices)),)
    placed = [
        (p, s, _place(wish, nodes, devices[s * len(devices) // len(pipeline)]), wish)
        for p, pipeline in enumerate(wishes)
        for s, wish in enumerate(pipeline)
    ]
    per_node = Counter(node for _, _, (node, _), _ in placed)
    return tuple(
        WorkerSlot(
            worker=f"{node}/stage-{p}.{s}",
            pipeline=str(p),
            stage=s,
            node=node,
            device=device,
            num_threads=wish.num_threads or max(1, nodes[node].num_cores // per_node[node]),
            layers=wish.layers,
        )
        for p, s, (node, device), wish in placed
    )


def _default_wishes(settings: ServiceSettings, num_devices: int) -> tuple[StageWish, ...]:
    num_stages, num_layers = settings.num_stages or num_devices, len(settings.cost.layer_bytes)
    if num_stages > num_layers:
        raise InvalidPlan(f"{num_stages} stages for {num_layers} layers: a stage needs a layer")
    return (StageWish(),) * num_stages


def _place(
    wish: StageWish, nodes: Mapping[str, JoinNode], fair_share: tuple[str, str]
) -> tuple[str, str]:
    if not wish.node and not wish.device:
        return fair_share
    name = wish.node or next(iter(nodes))
    if name not in nodes:
        raise InvalidPlan(f"a stage is to run on node {name!r}; nodes here: {', '.join(nodes)}")
    device = wish.device or nodes[name].devices[0]
    if device not in nodes[name].devices:
        known = ", ".join(nodes[name].devices)
        raise InvalidPlan(f"node {name} has no device {device!r}; it has: {known}")
    return name, device


def plan_pipelines(
    settings: ServiceSettings,
    slots: Sequence[WorkerSlot],
    workers: Mapping[str, WorkerUp],
) -> tuple[PipelinePlan, ...]:
    """Give every worker its layers and every pipeline its KV blocks.

    Raises:
        InvalidPlan: the operator's layers leave a gap or overlap, or requests could not begin, or
            not go on, by the pipelines' phases.
        Infeasible: the model, or one sequence's KV, does not fit; says with which numbers.
    """
    for slot in slots:
        _check_store(settings, slot, workers[slot.worker])
    members: dict[str, list[WorkerSlot]] = {}
    for slot in slots:
        members.setdefault(slot.pipeline, []).append(slot)
    plans = tuple(
        _plan_pipeline(
            settings,
            mine,
            [_device(settings, slot, slots, workers) for slot in mine],
        )
        for mine in members.values()
    )
    check_phases({plan.id: plan.phase for plan in plans})
    return plans


def _device(
    settings: ServiceSettings,
    slot: WorkerSlot,
    slots: Sequence[WorkerSlot],
    workers: Mapping[str, WorkerUp],
) -> StageDevice:
    """What one of the workers that share a device may count on.

    Those with as many threads there measured the same thing: other work on the machine only ever
    makes a measurement worse, so the best of theirs is right.
    """
    sharing = [other for other in slots if (other.node, other.device) == (slot.node, slot.device)]
    alike = [workers[other.worker] for other in sharing if other.num_threads == slot.num_threads]
    memory_bytes = workers[slot.worker].memory_bytes
    return StageDevice(
        memory_bytes=memory_share(settings, memory_bytes, slot.device, len(sharing)),
        flops_per_s=max(worker.flops_per_s for worker in alike),
        bytes_per_s=max(worker.bytes_per_s for worker in alike),
        layer_overhead_s=min(worker.layer_overhead_s for worker in alike),
    )


def limits_of(settings: ServiceSettings) -> Limits:
    """How requests are batched; memory is counted in devices already."""
    return Limits(
        max_running=settings.max_running,
        max_step_tokens=settings.max_step_tokens,
        max_model_len=settings.max_model_len,
        block_tokens=settings.block_tokens,
        memory_fraction=1.0,
    )


def memory_share(
    settings: ServiceSettings, memory_bytes: int, device: str, num_sharing: int
) -> int:
    """What one of the workers of a device may take of its free memory."""
    usual = CPU_MEMORY_FRACTION if device == "cpu" else GPU_MEMORY_FRACTION
    return int(memory_bytes * (settings.memory_fraction or usual)) // num_sharing


def store_bound(settings: ServiceSettings, device: str, up: WorkerUp) -> int:
    """What a node may keep of weights in shared memory, in bytes.

    Where that is ours to choose it is half of the shared memory that is free, and of a CPU's
    memory at most half of what stages do not get.
    """
    if settings.store_bytes >= 0:
        return min(settings.store_bytes, up.shared_bytes)
    if device != "cpu":
        return up.shared_bytes // 2
    left = up.memory_bytes - memory_share(settings, up.memory_bytes, device, 1)
    return min(up.shared_bytes, left) // 2


def _check_store(settings: ServiceSettings, slot: WorkerSlot, up: WorkerUp) -> None:
    wish, where = settings.store_bytes, f"weights.store_bytes: node {slot.node}"
    if wish > up.shared_bytes:
        raise Infeasible(
            f"{where}: {wish / 1e6:.1f} MB of weights are to stay in shared memory, and "
            f"{up.shared_bytes / 1e6:.1f} MB of it are free; take less, or 0 for none"
        )
    share = memory_share(settings, up.memory_bytes, slot.device, 1)
    if slot.device == "cpu" and wish > up.memory_bytes - share:
        raise Infeasible(
            f"{where}: {wish / 1e6:.1f} MB of weights are to stay in shared memory, but of "
            f"{up.memory_bytes / 1e6:.1f} MB free stages may take {share / 1e6:.1f} MB; take less, "
            f"or lower kv.memory_fraction"
        )


def _plan_pipeline(
    settings: ServiceSettings, slots: Sequence[WorkerSlot], devices: Sequence[StageDevice]
) -> PipelinePlan:
    by_hand = tuple(slot.layers for slot in slots if slot.layers is not None)
    cost = settings.cost
    hops = [
        WITHIN_NODE if one.node == other.node else WITHIN_SITE for one, other in pairwise(slots)
    ]
    ranges = by_hand or first_split(
        devices,
        hops,
        cost,
        settings.shape if settings.may_be_replanned else None,
        usual_workload(cost, settings.max_model_len),
        limits_of(settings),
    )
    num_blocks = num_kv_blocks(
        ranges,
        devices,
        cost,
        block_tokens=settings.block_tokens,
        max_useful_tokens=settings.max_running * settings.max_model_len,
    )
    return PipelinePlan(
        id=PipelineId(slots[0].pipeline),
        stages=tuple(
            StagePlan(
                stage=slot.stage,
                node=NodeId(slot.node),
                worker=WorkerId(slot.worker),
                device=slot.device,
                start=start,
                end=end,
            )
            for slot, (start, end) in zip(slots, ranges, strict=True)
        ),
        num_blocks=min(num_blocks, settings.num_blocks or num_blocks),
        block_tokens=settings.block_tokens,
        phase=_phase(settings, slots[0].pipeline),
    )


def _phase(settings: ServiceSettings, pipeline: str) -> Phase:
    """Pipelines are named by their number."""
    number = int(pipeline)
    return settings.phases[number] if number < len(settings.phases) else "both"
