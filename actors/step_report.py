"""Asks every stage that serves what its last steps took, for whoever compares or calibrates.

One question to each, all at once, with a deadline: a stage that does not answer is left out.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from actors.asking import answer_of
from actors.cluster import Cluster
from actors.kernel.ref import Ref
from actors.messages import GetStageSteps, StageSteps
from scheduling.plan import PipelinePlan, StagePlan

ASK_TIMEOUT_S = 1.0

MeasuredStages = tuple[tuple[StagePlan, StageSteps], ...]


async def measured_stages(cluster: Cluster) -> MeasuredStages:
    """What stages say of their steps, of those that answer."""
    stages = [
        (stage, record.serving[stage.worker])
        for record in cluster.pipelines.values()
        for stage in record.plan.stages
        if stage.worker in record.serving
    ]
    async with asyncio.TaskGroup() as asking:
        asked = [asking.create_task(_ask(cluster, stage, ref)) for stage, ref in stages]
    answers = [task.result() for task in asked]
    return tuple(
        (stage, answer)
        for (stage, _), answer in zip(stages, answers, strict=True)
        if answer is not None
    )


async def _ask(cluster: Cluster, stage: StagePlan, ref: Ref) -> StageSteps | None:
    question = GetStageSteps(start=stage.start, end=stage.end)
    return await answer_of(cluster.context, ref, question, StageSteps, timeout_s=ASK_TIMEOUT_S)


def steps_document(cluster: Cluster, measured: MeasuredStages) -> dict[str, Any]:
    """All that a calibration needs, as JSON would hold it."""
    shape = cluster.settings.shape
    return {
        "shape": None if shape is None else asdict(shape),
        "stages": [_told(cluster, stage, answer) for stage, answer in measured],
    }


def _told(cluster: Cluster, stage: StagePlan, answer: StageSteps) -> dict[str, Any]:
    up = cluster.members.workers.get(stage.worker)
    told: dict[str, Any] = {
        "node": stage.node,
        "device": stage.device,
        "layers": [stage.start, stage.end],
        "steps": answer.steps,
    }
    if up is not None:
        told |= {
            "name": up.device_name,
            "memory_bytes": up.memory_bytes,
            "flops_per_s": up.flops_per_s,
            "bytes_per_s": up.bytes_per_s,
            "layer_overhead_s": up.layer_overhead_s,
        }
    return told


def mean_step_s(
    measured: MeasuredStages, node: str, device: str, start: int, end: int
) -> float | None:
    """Seconds of a mean step of some layers on a device, over all stages that share them; or None.

    Stages that follow one another on a device count together, as plans count them.
    """
    means = {
        (stage.start, stage.end): sum(step[-1] for step in answer.steps) / len(answer.steps)
        for stage, answer in measured
        if (stage.node, stage.device) == (node, device)
        and start <= stage.start < stage.end <= end
        and answer.steps
    }
    if sum(to - from_ for from_, to in means) != end - start:
        return None
    return sum(means.values())


def total_tokens_per_s(plans: Iterable[PipelinePlan], measured: MeasuredStages) -> float | None:
    """Tokens drawn a second by all pipelines, each as its last stage counts; or None."""
    rates = {stage: answer.tokens_per_s for stage, answer in measured}
    told = [rates.get(plan.stages[-1]) for plan in plans]
    known = [rate for rate in told if rate is not None]
    return sum(known) if known and len(known) == len(told) else None
