"""What runs where, as solvers move it about: pipelines of stages on devices of a cluster.

The one idea: a placement has only what a decision can change. Names of workers, epochs and KV
blocks are added once, when it becomes a `Plan`. It never says how good it is: `objective` does.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from scheduling.cluster import Cluster
from scheduling.errors import InvalidPlan

Phase = Literal["both", "prefill", "decode"]
PHASES: tuple[Phase, ...] = ("both", "prefill", "decode")


@dataclass(frozen=True, slots=True, order=True)
class Group:
    """Devices of one kind in one node that hold a stage together; more than one is TP.

    `devices` counts those of the node from 0.
    """

    node: str
    devices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlacedStage:
    """Layers `[start, end)` on a group of devices."""

    group: Group
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class PlacedPipeline:
    """Stages that cover all layers once, and which phase of a request they serve."""

    stages: tuple[PlacedStage, ...]
    phase: Phase = "both"

    @property
    def groups(self) -> tuple[Group, ...]:
        """The stages' devices, in order."""
        return tuple(stage.group for stage in self.stages)


@dataclass(frozen=True, slots=True)
class Placement:
    """All pipelines; devices that none of them has are left idle."""

    pipelines: tuple[PlacedPipeline, ...]

    @property
    def groups(self) -> tuple[Group, ...]:
        """All groups of all pipelines."""
        return tuple(group for pipeline in self.pipelines for group in pipeline.groups)

    @property
    def nodes(self) -> frozenset[str]:
        """The nodes that are used, and so paid for."""
        return frozenset(group.node for group in self.groups)


def chain(groups: Iterable[Group], layers: Iterable[int], phase: Phase = "both") -> PlacedPipeline:
    """A pipeline from its groups in order and how many layers each holds."""
    stages, start = [], 0
    for group, count in zip(groups, layers, strict=True):
        stages.append(PlacedStage(group, start, start + count))
        start += count
    return PlacedPipeline(tuple(stages), phase)


def check_placement(placement: Placement, cluster: Cluster, num_layers: int) -> None:
    """Refuse a placement that uses a device twice, mixes kinds in a group, or leaves layers out.

    Raises:
        InvalidPlan: one sentence says what, where, expected and got.
    """
    used: set[tuple[str, int]] = set()
    for group in placement.groups:
        devices = cluster.node(group.node).devices
        known = [index for index in group.devices if 0 <= index < len(devices)]
        kinds = {devices[index] for index in known}
        if len(known) != len(group.devices) or len(kinds) != 1:
            raise InvalidPlan(
                f"node {group.node!r}: expected devices of one kind out of {devices}, got "
                f"{group.devices}"
            )
        for index in group.devices:
            if (group.node, index) in used:
                raise InvalidPlan(f"node {group.node!r}: device {index} is used twice")
            used.add((group.node, index))
    for number, pipeline in enumerate(placement.pipelines):
        _check_layers(f"pipeline {number}", pipeline, num_layers)


def _check_layers(where: str, pipeline: PlacedPipeline, num_layers: int) -> None:
    reached = 0
    for stage in pipeline.stages:
        if stage.start != reached or stage.end <= stage.start:
            raise InvalidPlan(
                f"{where}: expected a stage that starts at {reached}, got {stage.start}:{stage.end}"
            )
        reached = stage.end
    if reached != num_layers:
        raise InvalidPlan(f"{where}: expected layers 0:{num_layers}, got 0:{reached}")
