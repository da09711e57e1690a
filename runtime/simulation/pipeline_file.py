"""The pipelines of a cluster file: their stages, the devices of each, and what cannot be.

A stage stands on a device or, in tensor parallel, on several of one node. It never knows a model.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated

from msgspec import Meta, Struct

from runtime.errors import ConfigError
from scheduling.placement import Phase

Id = Annotated[str, Meta(min_length=1, max_length=128, pattern="^[^/ ]+$")]


class FileRecord(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of a cluster file; unknown keys are refused."""


class StageFile(FileRecord, frozen=True, kw_only=True):
    """One stage of a pipeline; `device` counts the node's devices from 0.

    Instead of one, `devices` may be several of a kind, in tensor parallel.
    """

    node: Id
    device: Annotated[int, Meta(ge=0)] = 0
    devices: tuple[Annotated[int, Meta(ge=0)], ...] = ()
    layers: str = ""

    @property
    def places(self) -> tuple[int, ...]:
        """All devices that it is on."""
        return self.devices or (self.device,)


class PipelineFile(FileRecord, frozen=True, kw_only=True):
    """A pipeline's stages, or the nodes each of whose devices is to be one of them.

    `phase` is what of a request it serves.
    """

    nodes: tuple[Id, ...] = ()
    stages: tuple[StageFile, ...] = ()
    phase: Phase = "both"


def check_groups(pipelines: Iterable[PipelineFile]) -> None:
    """Refuse groups that share a device, with another one or with a stage of its own.

    Raises:
        ConfigError: some do, or a group names a device twice.
    """
    pipelines = tuple(pipelines)
    seen: dict[tuple[str, int], StageFile] = {}
    for stage in (stage for pipeline in pipelines for stage in pipeline.stages):
        if stage.devices and (stage.device or len(set(stage.devices)) < len(stage.devices)):
            raise ConfigError(
                f"pipelines: a stage of node {stage.node!r}: expected a device or different "
                f"devices, got device {stage.device} and devices {list(stage.devices)}"
            )
        for place in stage.places:
            other = seen.setdefault((stage.node, place), stage)
            if other is not stage and (len(stage.places) > 1 or len(other.places) > 1):
                raise ConfigError(
                    f"pipelines: device {place} of node {stage.node!r} is in a group and in "
                    "another stage; a device of a group serves that stage alone"
                )
    _check_whole_nodes(pipelines, seen)


def _check_whole_nodes(
    pipelines: Iterable[PipelineFile], seen: Mapping[tuple[str, int], StageFile]
) -> None:
    wide = {node for (node, _), stage in seen.items() if len(stage.places) > 1}
    for name in (name for pipeline in pipelines for name in pipeline.nodes):
        if name in wide:
            raise ConfigError(
                f"pipelines: all devices of node {name!r} are to be stages, and some of them are "
                "a group in another pipeline; name the devices of each stage"
            )
