"""What to do so that a pipeline is as it is wanted: pure, from what is wanted and what is there.

The one idea: it looks at the present, never at how that came about. Whatever was lost, in whatever
order, the same few questions are asked: is everything there that serves; who can stand in; who is
to be started; would fewer do. The order of the answers is the preference: the worker's next life or
a spare on the same device, then a spare elsewhere, then those that are left with the layers split
anew, then waiting.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from actors.kernel.ref import Ref
from actors.membership import Members
from actors.placement import ServiceSettings, WorkerSlot, plan_pipelines
from scheduling.errors import SchedulingError
from scheduling.plan import NodeId, PipelinePlan, StagePlan, WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """A pipeline as it is.

    Attributes:
        plan: what is wanted.
        serves_plan: whether that is over which it serves now.
        serving: which life of each worker the pipeline's actor uses; empty if it has no actor.
        lost: workers that the pipeline cannot reach any more, whoever else can.
    """

    plan: PipelinePlan
    serves_plan: bool
    serving: Mapping[str, Ref]
    lost: frozenset[Ref]


@dataclass(frozen=True, slots=True)
class Stay:
    """All is as it should be."""


@dataclass(frozen=True, slots=True)
class Open:
    """Bring the pipeline up over this plan: it has no actor, so no KV counts."""

    plan: PipelinePlan


@dataclass(frozen=True, slots=True)
class Change:
    """Have the pipeline's actor go on over this plan."""

    plan: PipelinePlan


@dataclass(frozen=True, slots=True)
class Await:
    """Start these workers, if any, and wait for what is missing."""

    starts: tuple[WorkerSlot, ...]
    missing: tuple[str, ...]


Decision: TypeAlias = Stay | Open | Change | Await


def decide(
    present: Present, members: Members, spares: Sequence[str], settings: ServiceSettings
) -> Decision:
    """The next step towards a pipeline that serves.

    Args:
        present: the pipeline.
        members: who is here.
        spares: workers that no pipeline uses or is about to use.
        settings: what the planner needs to split layers anew.
    """
    alive = {
        name: up.ref
        for name in members.workers
        if (up := members.usable(name)) is not None and up.ref not in present.lost
    }
    if _is_whole(present, alive):
        return Stay()
    plan, absent = _stand_ins(present.plan, alive, members, spares)
    if absent:
        split = _split_anew(plan, absent, alive, members, spares, settings)
        if split is None:
            return _await(absent, members)
        plan = split
    return Change(plan) if present.serving else Open(plan)


def _is_whole(present: Present, alive: Mapping[str, Ref]) -> bool:
    names = [stage.worker for stage in present.plan.stages]
    return (
        bool(present.serving)
        and present.serves_plan
        and all(name in alive and alive[name] == present.serving.get(name) for name in names)
    )


def _stand_ins(
    plan: PipelinePlan, alive: Mapping[str, Ref], members: Members, spares: Sequence[str]
) -> tuple[PipelinePlan, tuple[StagePlan, ...]]:
    """The plan with a living worker for each stage, as far as there are, and the stages without."""
    free = [name for name in spares if name in alive]
    stages: list[StagePlan] = []
    absent: list[StagePlan] = []
    for stage in plan.stages:
        chosen = stage.worker if stage.worker in alive else _nearest(stage, free, members)
        if chosen is None:
            stages.append(stage)
            absent.append(stage)
            continue
        if chosen in free:
            free.remove(chosen)
        stages.append(_hosted(stage, members.slots[chosen]))
    return replace(plan, stages=tuple(stages)), tuple(absent)


def _nearest(stage: StagePlan, free: Sequence[str], members: Members) -> str | None:
    """A spare on the same device, else on the same node, else, if the node is gone, anywhere."""
    slots = [members.slots[name] for name in free]
    same_device = [s for s in slots if (s.node, s.device) == (stage.node, stage.device)]
    same_node = [s for s in slots if s.node == stage.node]
    is_gone = stage.node not in members.nodes or stage.node in members.leaving
    candidates = same_device or same_node or (slots if is_gone else [])
    return candidates[0].worker if candidates else None


def _hosted(stage: StagePlan, slot: WorkerSlot) -> StagePlan:
    return replace(stage, worker=WorkerId(slot.worker), node=NodeId(slot.node), device=slot.device)


def _split_anew(
    plan: PipelinePlan,
    absent: Sequence[StagePlan],
    alive: Mapping[str, Ref],
    members: Members,
    spares: Sequence[str],
    settings: ServiceSettings,
) -> PipelinePlan | None:
    """All layers over those that are left, if a node is gone for which nobody stands in."""
    if all(stage.node in members.nodes and stage.node not in members.leaving for stage in absent):
        return None
    left: list[str] = [stage.worker for stage in plan.stages if stage.worker in alive]
    left += [name for name in spares if name in alive and name not in left]
    return split_over(plan, left, members, settings)


def split_over(
    plan: PipelinePlan, workers: Sequence[str], members: Members, settings: ServiceSettings
) -> PipelinePlan | None:
    """A pipeline's layers over some workers, in that order; None if they do not fit."""
    if not workers:
        return None
    slots = [
        replace(members.slots[name], pipeline=str(plan.id), stage=stage, layers=None)
        for stage, name in enumerate(workers[: len(settings.cost.layer_bytes)])
    ]
    try:
        (split,) = plan_pipelines(settings, slots, members.workers)
    except SchedulingError:
        return None
    return replace(split, num_blocks=min(split.num_blocks, plan.num_blocks))


def _await(absent: Sequence[StagePlan], members: Members) -> Await:
    starts = tuple(members.slots[s.worker] for s in absent if members.may_start(s.worker))
    missing = tuple(
        f"waiting for node {stage.node}"
        if stage.node not in members.nodes
        else f"waiting for stage {stage.stage} on node {stage.node} to start"
        for stage in absent
    )
    return Await(starts, tuple(dict.fromkeys(missing)))
