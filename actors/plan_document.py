"""A whole plan as an operator hands it in: of this service, or of the planner. Pure.

The one idea: what this service told is taken as it is. What the planner's command wrote says where
layers go, but cannot know names of pipelines and workers or the memory that is free, so that those
are chosen here.
"""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from actors.cluster import Cluster
from actors.placement import ServiceSettings
from actors.worker_choice import with_workers
from models.demo import demo_path
from scheduling.errors import InvalidPlan
from scheduling.live import Placed
from scheduling.overlapping import OVERLAPPING
from scheduling.plan import Plan, check
from scheduling.plan_file import JOINED, phases_of

FORECAST, PLANNER = "forecast", "planner"
"""What is beside a plan: the planner's command writes the one, and this service tells the other."""


def served_plan(
    data: Mapping[str, Any], cluster: Cluster, memory: Mapping[tuple[str, str], int]
) -> Plan:
    """The plan that a document asks for.

    Args:
        data: the JSON.
        cluster: the service.
        memory: bytes of each device, by node and device.

    Raises:
        InvalidPlan: it is no plan, is for another model, or asks for what is not here.
        Infeasible: a stage has no room for a KV block.
    """
    plan = Plan.from_dict(
        {k: v for k, v in data.items() if k not in (FORECAST, OVERLAPPING, PLANNER)}
    )
    if FORECAST not in data:
        return plan
    settings = cluster.settings
    _check_model(plan.model, settings)
    check(plan, len(settings.cost.layer_bytes))
    for pipeline in plan.pipelines:
        if pipeline.block_tokens != settings.block_tokens:
            raise InvalidPlan(
                f"plan: expected KV blocks of {settings.block_tokens} tokens, got "
                f"{pipeline.block_tokens}; plan with serving.block_tokens = {settings.block_tokens}"
            )
        for stage in pipeline.stages:
            if JOINED in stage.device:
                raise InvalidPlan(
                    f"plan: stage {stage.stage} of pipeline {pipeline.id} is spread over "
                    f"{stage.device}; this service runs a stage on one device: plan with --max-tp 1"
                )
    layout = tuple(
        tuple(Placed(s.node, s.device, s.start, s.end) for s in pipeline.stages)
        for pipeline in plan.pipelines
    )
    present = [record.plan for record in cluster.pipelines.values()]
    phases = phases_of(plan, data[FORECAST])
    pipelines = with_workers(layout, present, cluster.members, settings, memory, phases)
    return Plan(epoch=cluster.epoch, model=settings.model_name, pipelines=pipelines)


def _check_model(planned: str, settings: ServiceSettings) -> None:
    """The planner names a model by its name, its folder or its config.json."""
    path = PurePath(planned)
    folder = path.parent if path.name == "config.json" else path
    served = demo_path() if settings.model == "demo" else PurePath(settings.model)
    if not {planned, folder.name} & {settings.model_name, served.name}:
        raise InvalidPlan(
            f"plan: expected one for model {settings.model_name!r}, got one for {planned!r}; plan "
            f"with --model and the folder that is served"
        )
