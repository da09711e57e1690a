"""A plan and its state as `/admin/status` shows them: plain data, in words that operators know."""

from typing import Any

from actors.messages import (
    ChangeStatus,
    HandOffCounts,
    PipelineStatus,
    PlanChanged,
    ProcessInfo,
    RouteStatus,
    StageStatus,
)

NO_PLAN = PlanChanged(epoch=0, model="", pipelines=(), nodes=(), missing=(), failure=None)


def plan_json(told: PlanChanged | None, *, is_ready: bool, num_recoveries: int) -> dict[str, Any]:
    """What the coordinator told last, if it has told anything, and how the router stands."""
    plan = told or NO_PLAN
    return {
        "model": plan.model,
        "epoch": plan.epoch,
        "ready": is_ready,
        "missing": list(plan.missing),
        "nodes": list(plan.nodes),
        "pipelines": [pipeline_json(pipeline) for pipeline in plan.pipelines],
        "routes": [_route(route) for route in plan.routes],
        "recoveries": num_recoveries,
        "swap": next((_swap(p) for p in plan.pipelines if p.phase is not None), None),
        "processes": [_process(process) for process in plan.processes],
    }


def pipeline_json(
    pipeline: PipelineStatus, hand_offs: HandOffCounts | None = None
) -> dict[str, Any]:
    """One pipeline; `hand_offs` where it was asked for them."""
    return {
        "id": pipeline.pipeline,
        "epoch": pipeline.epoch,
        "state": pipeline.state,
        "phase": pipeline.serves,
        "hand_offs": None if hand_offs is None else _hand_offs(hand_offs),
        "stages": [_stage(stage) for stage in pipeline.stages],
        "last_change": None if pipeline.last_change is None else _change(pipeline.last_change),
    }


def _hand_offs(counts: HandOffCounts) -> dict[str, Any]:
    return {
        "done": counts.num_done,
        "stayed": counts.num_stayed,
        "failed": counts.num_failed,
        "bytes": counts.num_bytes,
        "saved_bytes": counts.num_saved_bytes,
        "present_blocks": counts.num_present_blocks,
        "present_bytes": counts.num_present_bytes,
        "seconds": counts.seconds,
    }


def _route(route: RouteStatus) -> dict[str, Any]:
    return {
        "prefill": route.prefill,
        "decode": route.decode,
        "weight": route.weight,
        "bytes_per_s": route.bytes_per_s,
        "encoding": route.encoding,
    }


def _swap(pipeline: PipelineStatus) -> dict[str, Any]:
    return {"pipeline": pipeline.pipeline, "epoch": pipeline.epoch, "phase": pipeline.phase}


def _change(change: ChangeStatus) -> dict[str, Any]:
    return {
        "epoch": change.epoch,
        "cause": change.cause,
        "noticed_s": change.noticed_s,
        "phases": [
            {"name": phase.phase, "seconds": phase.duration_s, "bytes": phase.num_bytes}
            for phase in change.phases
        ],
        "recomputed": change.recomputed,
        "preempted": change.num_preempted,
    }


def _process(process: ProcessInfo) -> dict[str, Any]:
    return {"role": process.role, "name": process.name, "pid": process.pid}


def _stage(stage: StageStatus) -> dict[str, Any]:
    return {
        "stage": stage.stage,
        "node": stage.node,
        "device": stage.device,
        "layers": [stage.start, stage.end],
        "pid": stage.pid,
        "kv_blocks": stage.kv_blocks,
        "weight_bytes": stage.weight_bytes,
        "resident_bytes": stage.resident_bytes,
        "state": stage.state,
    }
