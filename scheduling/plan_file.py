"""A plan as a file: the `Plan` that is served, with what was foretold of it beside it.

The one idea: the file is a plan's JSON with a key more, `forecast`, for people and for `explain`,
and from the solver `maxflow` another, `overlapping`, which is no plan: a placement that no service
here runs. Both are left unread by what serves or simulates a plan. Each element of `pipelines` is
what `ctl swap --plan` takes.

GPUs are named as nodes name them, "cuda:0" and on, counted without the CPU, which is "cpu".
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from scheduling.cluster import Cluster
from scheduling.errors import InvalidPlan
from scheduling.overlapping import OVERLAPPING, document_of
from scheduling.placement import PHASES, Group, Phase, PlacedPipeline, PlacedStage, Placement
from scheduling.plan import NodeId, PipelineId, PipelinePlan, Plan, StagePlan, WorkerId
from scheduling.planner import Outcome

FORECAST = "forecast"
BESIDE = frozenset({FORECAST, OVERLAPPING})
"""Keys of the file that are no part of the plan: nobody serves or simulates what stands there."""
CPU = "cpu"
JOINED = "+"


def to_plan(outcome: Outcome, model: str) -> Plan:
    """The plan that is to be served: KV blocks as many as fit and are of use.

    A stage of several devices names them all, joined by "+"; nodes that serve no such stages
    refuse it by that name.
    """
    limits, cluster = outcome.problem.limits, outcome.problem.cluster
    most = -(-limits.max_running * limits.max_model_len // limits.block_tokens)
    pipelines = []
    for number, (pipeline, forecast) in enumerate(
        zip(outcome.solution.placement.pipelines, outcome.evaluation.forecasts, strict=True)
    ):
        stages = tuple(
            _stage(cluster, number, order, stage) for order, stage in enumerate(pipeline.stages)
        )
        blocks = max(1, min(most, forecast.kv_tokens // limits.block_tokens))
        pipelines.append(
            PipelinePlan(
                id=PipelineId(str(number)),
                stages=stages,
                num_blocks=blocks,
                block_tokens=limits.block_tokens,
                phase=pipeline.phase,
            )
        )
    return Plan(epoch=0, model=model, pipelines=tuple(pipelines))


def to_document(outcome: Outcome, model: str) -> dict[str, Any]:
    """The plan file's content."""
    solution, evaluation = outcome.solution, outcome.evaluation
    is_bounded = solution.bound < float("inf")
    forecast = {
        "goal": outcome.problem.goal.measure,
        "score": solution.score,
        "bound": solution.bound if is_bounded else None,
        "gap": solution.gap if is_bounded else None,
        "solver": solution.solver,
        "requests_per_s": evaluation.requests_per_s,
        "tokens_per_s": evaluation.tokens_per_s,
        "price_per_hour": evaluation.price_per_hour,
        "pipelines": [
            {
                "phase": pipeline.phase,
                "requests_per_s": found.requests_per_s,
                "good_part": found.good_part,
                "ttft_s": found.ttft_s,
                "tpot_s": found.tpot_s,
                "num_sequences": found.num_sequences,
                "bottleneck": f"{found.bottleneck} {found.slowest}",
            }
            for pipeline, found in zip(
                solution.placement.pipelines, evaluation.forecasts, strict=True
            )
        ],
    }
    document = {**to_plan(outcome, model).to_dict(), FORECAST: forecast}
    over, load = solution.overlapping, outcome.problem.workload
    if over is not None:
        num_tokens = round(load.mean_prompt + load.mean_output)
        document[OVERLAPPING] = document_of(over, evaluation.tokens_per_s, num_tokens)
    return document


def read_document(data: Any, cluster: Cluster) -> Placement:
    """The placement of a plan file on a cluster.

    Raises:
        InvalidPlan: it is no plan, or names a device that the cluster lacks.
    """
    if not isinstance(data, Mapping):
        raise InvalidPlan(f"plan: expected an object, got {type(data).__name__}")
    plan = Plan.from_dict({key: value for key, value in data.items() if key not in BESIDE})
    phases = phases_of(plan, data.get(FORECAST))
    pipelines = tuple(
        PlacedPipeline(
            tuple(
                PlacedStage(_group(stage, cluster), stage.start, stage.end)
                for stage in pipeline.stages
            )
        )
        for pipeline in plan.pipelines
    )
    return Placement(
        tuple(replace(p, phase=phase) for p, phase in zip(pipelines, phases, strict=True))
    )


def phases_of(plan: Plan, forecast: Any) -> tuple[Phase, ...]:
    """What each pipeline of a plan file serves.

    Files of earlier versions say so in the forecast alone.

    Raises:
        InvalidPlan: a phase of the forecast is none.
    """
    told = forecast.get("pipelines", ()) if isinstance(forecast, Mapping) else ()
    phases = [pipeline.phase for pipeline in plan.pipelines]
    if not isinstance(told, list | tuple) or len(told) > len(phases):
        raise InvalidPlan(
            f"forecast.pipelines: expected a list of at most {len(phases)}, as many as there are "
            f"pipelines, got {told!r:.80}"
        )
    for number, found in enumerate(told):
        phase = found.get("phase", "both") if isinstance(found, Mapping) else found
        if phase not in PHASES:
            raise InvalidPlan(
                f"forecast.pipelines[{number}]: expected a phase of {', '.join(PHASES)}, got "
                f"{phase!r:.80}"
            )
        phases[number] = phase if phases[number] == "both" else phases[number]
    return tuple(phases)


def model_of(data: Any) -> str:
    """The model that a plan file is of, as it was named when it was made."""
    return str(data.get("model")) if isinstance(data, Mapping) else ""


def device_name(devices: tuple[str, ...], index: int) -> str:
    """What a node calls one of its devices."""
    if devices[index] == CPU:
        return CPU
    return f"cuda:{sum(kind != CPU for kind in devices[:index])}"


def _stage(cluster: Cluster, pipeline: int, order: int, stage: PlacedStage) -> StagePlan:
    node, devices = stage.group.node, cluster.node(stage.group.node).devices
    return StagePlan(
        stage=order,
        node=NodeId(node),
        worker=WorkerId(f"{node}/stage-{pipeline}.{order}"),
        device=JOINED.join(device_name(devices, index) for index in stage.group.devices),
        start=stage.start,
        end=stage.end,
    )


def _group(stage: StagePlan, cluster: Cluster) -> Group:
    devices = cluster.node(stage.node).devices
    known = {device_name(devices, index): index for index in range(len(devices))}
    names = stage.device.split(JOINED)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InvalidPlan(
            f"node {stage.node!r}: expected a device of {', '.join(known)}, got {unknown[0]!r}"
        )
    return Group(stage.node, tuple(known[name] for name in names))
