"""How the cluster stands, in the words of `PlanChanged`: pure, from what the coordinator knows."""

from collections.abc import Callable, Iterable, Mapping

from actors.cluster import Cluster
from actors.cluster_state import PipelineRecord
from actors.membership import Members
from actors.messages import (
    LOST,
    READY,
    FittedTimes,
    PipelineStatus,
    PlanChanged,
    ProcessInfo,
    RouteStatus,
    StageStatus,
)
from actors.placement import ServiceSettings, missing_nodes
from actors.route_encoding import LinkRates, hops_between
from models.kv_encoding import KvEncoding
from scheduling.batch_times import BatchTimes
from scheduling.plan import PipelinePlan, Route, StagePlan


def plan_status(
    cluster: Cluster,
    processes: Iterable[ProcessInfo],
    routes: Iterable[RouteStatus],
    times: Mapping[str, BatchTimes],
    *,
    wants_workload: bool,
) -> PlanChanged:
    """What routers and launchers are told; `times` are of those pipelines that could be fitted."""
    settings, members = cluster.settings, cluster.members
    records = tuple(cluster.pipelines.values())
    return PlanChanged(
        epoch=cluster.epoch,
        model=settings.model_name,
        pipelines=tuple(
            _pipeline(record, settings, members, times.get(record.plan.id)) for record in records
        ),
        nodes=tuple(members.nodes),
        missing=missing_parts(settings, members, records),
        failure=cluster.failure,
        processes=(
            *processes,
            *(ProcessInfo(role="node", name=n, pid=node.pid) for n, node in members.nodes.items()),
        ),
        routes=tuple(routes),
        wants_workload=wants_workload,
    )


def route_statuses(
    records: Iterable[PipelineRecord],
    routes: Iterable[Route],
    link_rate: LinkRates,
    encoding: Callable[[PipelinePlan, PipelinePlan], KvEncoding],
) -> tuple[RouteStatus, ...]:
    """What is known of each way from a prefill pipeline to one that may go on with its requests.

    `link_rate` gives the bytes a second between two nodes, None where that was not measured;
    `encoding` how KV travels on a way.
    """
    plans = [record.plan for record in records]
    weights = {(route.prefill, route.decode): route.weight for route in routes}
    found = (
        RouteStatus(
            prefill=one.id,
            decode=other.id,
            weight=weights.get((one.id, other.id)),
            bytes_per_s=_slowest(one, other, link_rate),
            encoding=encoding(one, other),
        )
        for one in plans
        for other in plans
        if one.phase == "prefill" and other.phase != "prefill"
    )
    return tuple(r for r in found if _says_something(r))


def _says_something(route: RouteStatus) -> bool:
    told = (route.weight, route.bytes_per_s)
    return any(value is not None for value in told) or route.encoding != "none"


def _slowest(one: PipelinePlan, other: PipelinePlan, link_rate: LinkRates) -> float | None:
    """The rate of the slowest link that KV takes between two pipelines, if all were measured."""
    rates = [link_rate(a.node, b.node) for a, b in hops_between(one, other) if a.node != b.node]
    measured = [rate for rate in rates if rate is not None]
    return min(measured) if measured and len(measured) == len(rates) else None


def missing_parts(
    settings: ServiceSettings, members: Members, records: Iterable[PipelineRecord]
) -> tuple[str, ...]:
    """What must still come before every stage is ready, in words."""
    records = tuple(records)
    if not members.slots:
        return tuple(
            f"waiting for {what}" for what in missing_nodes(settings, tuple(members.nodes))
        )
    if not records:
        return tuple(
            f"waiting for stage {slot.stage} on node {slot.node} to start"
            for slot in members.slots.values()
            if slot.worker not in members.workers
        ) or ("waiting for a plan",)
    return tuple(
        part
        for record in records
        if record.state != READY
        for part in record.missing or (f"pipeline {record.plan.id} is {record.state}",)
    )


def _pipeline(
    record: PipelineRecord,
    settings: ServiceSettings,
    members: Members,
    times: BatchTimes | None,
) -> PipelineStatus:
    return PipelineStatus(
        pipeline=record.plan.id,
        epoch=record.epoch,
        ref=record.home,
        state=record.state,
        max_running=settings.max_running,
        max_waiting=settings.max_waiting,
        stages=tuple(_stage(record, stage, members) for stage in record.plan.stages),
        last_change=record.last_change,
        phase=record.phase,
        serves=record.plan.phase,
        kv_tokens=record.plan.num_blocks * record.plan.block_tokens,
        times=None if times is None else FittedTimes(prefill=times.prefill, decode=times.decode),
    )


def _stage(record: PipelineRecord, stage: StagePlan, members: Members) -> StageStatus:
    worker = members.workers.get(stage.worker)
    ready = {s.stage: s for s in record.stages}.get(stage.stage)
    return StageStatus(
        stage=stage.stage,
        node=stage.node,
        device=stage.device,
        worker=stage.worker,
        pid=0 if worker is None else worker.pid,
        start=stage.start,
        end=stage.end,
        kv_blocks=record.plan.num_blocks,
        weight_bytes=0 if ready is None else ready.weight_bytes,
        resident_bytes=0 if ready is None else ready.resident_bytes,
        state=record.state if worker is not None else LOST,
    )
