"""What happened between two states of the plan: pure, from what the coordinator tells of each."""

from collections.abc import Iterator

from actors.messages import PipelineStatus, PlanChanged, StageStatus
from runtime.telemetry.events import Event

PAUSED = frozenset({"pause", "delta", "commit"})
"""The phases of a change in which streams stand still."""


def events_between(before: PlanChanged | None, after: PlanChanged) -> Iterator[Event]:
    """What happened, nodes first, then pipelines; of the first state, what is there."""
    old_nodes = set(before.nodes) if before is not None else set()
    for node in after.nodes:
        if node not in old_nodes:
            yield Event("node_joined", {"node": node})
    for node in sorted(old_nodes.difference(after.nodes)):
        yield Event("node_left", {"node": node})
    old = {p.pipeline: p for p in before.pipelines} if before is not None else {}
    for pipeline in after.pipelines:
        yield from _of_pipeline(old.pop(pipeline.pipeline, None), pipeline)
    for gone in old:
        yield Event("pipeline_removed", {"pipeline": gone})


def pause_s(pipeline: PipelineStatus) -> float:
    """How long the last change of a pipeline had its streams stand still, in seconds."""
    change = pipeline.last_change
    phases = () if change is None else change.phases
    return sum(phase.duration_s for phase in phases if phase.phase in PAUSED)


def is_new_change(before: PipelineStatus | None, after: PipelineStatus) -> bool:
    """Whether a change of stages was finished since."""
    known = None if before is None else before.last_change
    return after.last_change is not None and after.last_change != known


def _of_pipeline(before: PipelineStatus | None, after: PipelineStatus) -> Iterator[Event]:
    name = {"pipeline": after.pipeline, "epoch": after.epoch}
    if before is None or before.state != after.state:
        was = None if before is None else before.state
        yield Event("pipeline_state", name | {"state": after.state, "was": was})
    if after.phase is not None and (before is None or before.phase != after.phase):
        yield Event("swap_phase", name | {"phase": after.phase})
    yield from _of_stages(name, before.stages if before is not None else (), after.stages)
    if is_new_change(before, after) and before is not None:
        yield _change(name, after)


def _of_stages(
    name: dict[str, object], before: tuple[StageStatus, ...], after: tuple[StageStatus, ...]
) -> Iterator[Event]:
    workers = {stage.worker: stage for stage in before}
    for stage in after:
        old = workers.get(stage.worker)
        facts = name | {"stage": stage.stage, "node": stage.node, "device": stage.device}
        if old is not None and old.state != stage.state:
            yield Event("stage_state", facts | {"state": stage.state, "was": old.state})
        elif old is None and before:
            yield Event("stage_placed", facts | {"layers": [stage.start, stage.end]})


def _change(name: dict[str, object], pipeline: PipelineStatus) -> Event:
    change = pipeline.last_change
    assert change is not None
    phases = {phase.phase: round(phase.duration_s, 6) for phase in change.phases}
    return Event(
        "stages_changed",
        name
        | {
            "cause": change.cause,
            "phases_s": phases,
            "pause_s": round(pause_s(pipeline), 6),
            "moved_bytes": sum(phase.num_bytes for phase in change.phases),
            "recomputed": change.recomputed,
            "preempted": change.num_preempted,
        },
    )
