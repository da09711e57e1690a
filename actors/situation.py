"""What a recommendation is made from: the cluster as the planner sees it. Pure.

The one idea: what was measured of a device outlives the worker that measured it, for as long as its
node is here. Other work on a machine only ever makes a measurement worse, so the best ones count.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from actors.cluster_state import PipelineRecord
from actors.membership import Members
from actors.messages import READY, WorkerUp
from actors.placement import ServiceSettings, WorkerSlot, limits_of, memory_share
from scheduling.learnt_rates import LearntRate, usual_part
from scheduling.live import Layout, MeasuredDevice, Placed, Situation, usual_workload
from scheduling.nearness import rounded
from scheduling.plan import PipelinePlan
from scheduling.roofline import LinkRate
from scheduling.split import StageDevice
from scheduling.workload import Workload

Place = tuple[str, str]
"""A node and one of its devices."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The best that workers found of each device, and of each link between two nodes.

    `devices` count whole, memory included; `threads` are those they were measured with. `kinds`
    are the devices' by name, and `learnt` is what steps told since of some of these.
    """

    devices: Mapping[Place, MeasuredDevice] = field(default_factory=dict)
    threads: Mapping[Place, int] = field(default_factory=dict)
    links: Mapping[tuple[str, str], LinkRate] = field(default_factory=dict)
    kinds: Mapping[Place, str] = field(default_factory=dict)
    learnt: Mapping[str, LearntRate] = field(default_factory=dict)

    def after(self, members: Members) -> "Measured":
        """What is known once these are here: the new added, what nodes took along removed."""
        devices = {p: d for p, d in self.devices.items() if p[0] in members.nodes}
        threads = {p: n for p, n in self.threads.items() if p in devices}
        kinds = {p: kind for p, kind in self.kinds.items() if p in devices}
        for name, up in members.workers.items():
            slot = members.slots[name]
            place = (slot.node, slot.device)
            devices[place] = _best(devices.get(place), up, slot)
            threads[place] = max(threads.get(place, 0), slot.num_threads)
            kinds[place] = kind_of(up, threads[place])
        links = {ends: rate for ends, rate in self.links.items() if {*ends} <= {*members.nodes}}
        return Measured(devices, threads, links, kinds, self.learnt)

    def with_learnt(self, learnt: Mapping[str, LearntRate]) -> "Measured":
        """What is known with the rates that steps told of some kinds of devices."""
        return replace(self, learnt=learnt)

    @property
    def at_start(self) -> dict[str, StageDevice]:
        """What the best device of each kind was measured to do when its worker started."""
        found: dict[str, StageDevice] = {}
        for place, kind in self.kinds.items():
            device, best = self.devices[place], found.get(kind)
            found[kind] = StageDevice(
                memory_bytes=device.memory_bytes,
                flops_per_s=max(device.flops_per_s, best.flops_per_s if best else 0.0),
                bytes_per_s=max(device.bytes_per_s, best.bytes_per_s if best else 0.0),
                layer_overhead_s=device.layer_overhead_s,
            )
        return found

    def reached(self, device: MeasuredDevice) -> MeasuredDevice:
        """A device with what it reaches when it serves, as far as that is known."""
        rate = self.learnt.get(self.kinds.get((device.node, device.device), ""))
        if rate is None:
            flops, num_bytes = usual_part(self.learnt, self.at_start)
            return replace(
                device,
                flops_per_s=device.flops_per_s * flops,
                bytes_per_s=device.bytes_per_s * num_bytes,
            )
        return replace(
            device,
            flops_per_s=rate.flops_per_s,
            bytes_per_s=rate.bytes_per_s,
            layer_overhead_s=rate.layer_overhead_s,
            step_overhead_s=rate.step_overhead_s,
        )

    def with_link(self, one: str, other: str, rate: LinkRate) -> "Measured":
        """What is known with a link that was measured; it counts both ways."""
        near = LinkRate(bytes_per_s=rounded(rate.bytes_per_s), latency_s=rounded(rate.latency_s))
        return replace(self, links={**self.links, ends_of(one, other): near})

    @property
    def memory(self) -> dict[Place, int]:
        """Bytes of each device that were free when it was measured first."""
        return {place: device.memory_bytes for place, device in self.devices.items()}


def kind_of(up: WorkerUp, num_threads: int) -> str:
    """A kind of device: a CPU's threads decide what it can do."""
    return f"{up.device_name}, {num_threads} threads" if up.device == "cpu" else up.device_name


def ends_of(one: str, other: str) -> tuple[str, str]:
    """A link's name."""
    return (one, other) if one < other else (other, one)


def _best(known: MeasuredDevice | None, up: WorkerUp, slot: WorkerSlot) -> MeasuredDevice:
    if known is None:
        return MeasuredDevice(
            node=slot.node,
            device=slot.device,
            memory_bytes=up.memory_bytes,
            flops_per_s=up.flops_per_s,
            bytes_per_s=up.bytes_per_s,
            layer_overhead_s=up.layer_overhead_s,
        )
    return replace(
        known,
        memory_bytes=max(known.memory_bytes, up.memory_bytes),
        flops_per_s=max(known.flops_per_s, up.flops_per_s),
        bytes_per_s=max(known.bytes_per_s, up.bytes_per_s),
        layer_overhead_s=min(known.layer_overhead_s, up.layer_overhead_s),
    )


def unmeasured(members: Members, measured: Measured) -> tuple[Place, ...]:
    """Devices of which nothing is known, in order, but for those of nodes that leave."""
    return tuple(
        (name, device)
        for name, node in members.nodes.items()
        if name not in members.leaving
        for device in node.devices
        if (name, device) not in measured.devices
    )


def not_calm(records: Iterable[PipelineRecord], members: Members) -> str:
    """Why this is no time to think of another plan, in words; empty if it is one."""
    records = tuple(records)
    if not records:
        return "there is no plan yet"
    for record in records:
        if record.state != READY or record.is_busy or record.wanted != record.plan:
            what = "changing" if record.state == READY else record.state
            return f"pipeline {record.plan.id} is {what}"
        if record.phase is not None:
            return f"pipeline {record.plan.id} is changing ({record.phase})"
    if members.leaving:
        return f"node {min(members.leaving)} is leaving"
    return ""


def situation_of(
    settings: ServiceSettings,
    members: Members,
    plans: Iterable[PipelinePlan],
    measured: Measured,
    workload: Workload | None = None,
) -> Situation:
    """The cluster as the planner sees it; `settings.shape` must be there.

    Without a `workload` that was observed, requests count as those that layers are split for at the
    start.

    Raises:
        ValueError: the model's shape is not known.
    """
    if settings.shape is None:
        raise ValueError("situation: expected settings with the model's shape, got none")
    layout = layout_of(plans)
    return Situation(
        devices=tuple(
            _planned(settings, measured.reached(device), members, layout, measured)
            for (node, _), device in sorted(measured.devices.items())
            if node in members.nodes and node not in members.leaving
        ),
        links=tuple((*ends, measured.links[ends]) for ends in sorted(measured.links)),
        layout=layout,
        shape=settings.shape,
        workload=workload or usual_workload(settings.cost, settings.max_model_len),
        limits=limits_of(settings),
    )


def layout_of(plans: Iterable[PipelinePlan]) -> Layout:
    """Where the layers of some plans are."""
    return tuple(
        tuple(Placed(s.node, s.device, s.start, s.end) for s in plan.stages) for plan in plans
    )


def _planned(
    settings: ServiceSettings,
    device: MeasuredDevice,
    members: Members,
    layout: Layout,
    measured: Measured,
) -> MeasuredDevice:
    """A device with the memory that stages may take; a CPU's threads may have been shared out."""
    place = (device.node, device.device)
    flops_per_s = device.flops_per_s
    if device.device == "cpu":
        stages = sum((s.node, s.device) == place for chain in layout for s in chain)
        at_once = members.nodes[device.node].num_cores // max(1, measured.threads[place])
        flops_per_s *= max(1, min(stages, at_once))
    memory_bytes = memory_share(settings, device.memory_bytes, device.device, 1)
    return replace(device, memory_bytes=memory_bytes, flops_per_s=flops_per_s)
