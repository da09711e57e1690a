"""The pipelines of a plan file, for a cluster file that may have others."""

import json
from pathlib import Path

import msgspec

from runtime.errors import ConfigError
from runtime.simulation.cluster_file import Cluster
from runtime.simulation.pipeline_file import PipelineFile, StageFile
from scheduling.cluster_toml import parse_cluster
from scheduling.errors import SchedulingError
from scheduling.placement import PlacedPipeline, Placement
from scheduling.plan_file import read_document


def with_plan(cluster: Cluster, cluster_path: Path, plan_path: Path) -> Cluster:
    """The cluster with a plan's pipelines instead of its own.

    Args:
        cluster: as it was read.
        cluster_path: where from; the plan's nodes and devices are those of this file.
        plan_path: what `python -m scheduling.plan --json` wrote.

    Raises:
        ConfigError: it is no plan, is for another cluster, or has what is not simulated.
    """
    try:
        facts = parse_cluster(cluster_path.read_text(encoding="utf-8")).cluster
        placement = read_document(json.loads(plan_path.read_text(encoding="utf-8")), facts)
    except OSError as error:
        raise ConfigError(f"plan: cannot read {plan_path}: {error.strerror}") from None
    except (ValueError, SchedulingError) as error:
        raise ConfigError(f"plan: {plan_path}: {error}") from None
    return with_placement(cluster, placement)


def with_placement(cluster: Cluster, placement: Placement) -> Cluster:
    """The cluster with a planner's pipelines instead of its own.

    Raises:
        ConfigError: it is for another cluster or model, or has what is not simulated.
    """
    pipelines = tuple(_pipeline(p) for p in placement.pipelines)
    planned = msgspec.structs.replace(cluster, pipelines=pipelines)
    planned.wishes()  # says so where the layers are another model's
    return planned


def _pipeline(pipeline: PlacedPipeline) -> PipelineFile:
    return PipelineFile(
        stages=tuple(
            StageFile(
                node=stage.group.node,
                devices=stage.group.devices,
                layers=f"{stage.start}:{stage.end}",
            )
            for stage in pipeline.stages
        ),
        phase=pipeline.phase,
    )
