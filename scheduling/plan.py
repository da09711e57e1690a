"""What is to run where: an immutable value with an epoch.

The one idea: a plan is data. It is checked in one place, compared by value, written as JSON, and
replaced by the next epoch's; nobody changes one. It never knows how it was found.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, NewType

from scheduling.errors import InvalidPlan
from scheduling.placement import PHASES, Phase

NodeId = NewType("NodeId", str)
WorkerId = NewType("WorkerId", str)
PipelineId = NewType("PipelineId", str)


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """Layers `[start, end)` on one device of one node, in a stage worker of their own.

    Attributes:
        stage: its place in the pipeline, from 0.
        node: the node.
        worker: the stage worker there that hosts it; unique in its node.
        device: the device, as the node names it ("cpu", "cuda:0").
    """

    stage: int
    node: NodeId
    worker: WorkerId
    device: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelinePlan:
    """Stages that cover all layers once, each with the same number of KV blocks.

    `phase` is the part of a request that it serves: `prefill` computes prompts and hands requests
    off with their first token, `decode` goes on with those, `both` does all of it.
    """

    id: PipelineId
    stages: tuple[StagePlan, ...]
    num_blocks: int
    block_tokens: int
    phase: Phase = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The share of requests that one pipeline hands off to another, as a weight above 0."""

    prefill: str
    decode: str
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All pipelines of a model in one epoch.

    A prefill pipeline without a route hands off to every decode pipeline alike.
    """

    epoch: int
    model: str
    pipelines: tuple[PipelinePlan, ...]
    routes: tuple[Route, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON would hold it; `from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Plan":
        """Read what `to_dict` gave, before or after a trip through JSON.

        Raises:
            InvalidPlan: a key is missing or unknown, or a value of another type.
        """
        keys: _Types = {"epoch": int, "model": str, "pipelines": (list, tuple)}
        _expect(data, "plan", keys, {"routes": (list, tuple)})
        return cls(
            epoch=data["epoch"],
            model=data["model"],
            pipelines=tuple(pipeline_from_dict(pipeline) for pipeline in data["pipelines"]),
            routes=tuple(_route(route) for route in data.get("routes", ())),
        )


def check(plan: Plan, num_layers: int) -> None:
    """Refuse a plan that contradicts itself or does not cover the model.

    Raises:
        InvalidPlan: one sentence says what, where, expected and got.
    """
    if plan.epoch < 0:
        raise InvalidPlan(f"epoch: expected 0 or more, got {plan.epoch}")
    _check_unique("pipeline", (pipeline.id for pipeline in plan.pipelines))
    stages = [stage for pipeline in plan.pipelines for stage in pipeline.stages]
    _check_unique("worker", (f"{stage.node}/{stage.worker}" for stage in stages))
    for pipeline in plan.pipelines:
        check_pipeline(pipeline, num_layers)
    check_phases({pipeline.id: pipeline.phase for pipeline in plan.pipelines}, plan.routes)


def check_phases(phases: Mapping[PipelineId, Phase], routes: Iterable[Route] = ()) -> None:
    """Refuse phases by which some requests could not begin, or not go on.

    Raises:
        InvalidPlan: one sentence says what, where, expected and got.
    """
    for name, phase in phases.items():
        _check_phase(f"pipeline {name!r}", phase)
    for alone, other in (("prefill", "decode"), ("decode", "prefill")):
        if phases and all(phase == alone for phase in phases.values()):
            raise InvalidPlan(
                f"phases: expected a pipeline that serves {other} or both, got {alone} alone for "
                f"{', '.join(sorted(phases))}; have one of them serve {other} or both"
            )
    routes = tuple(routes)
    _check_unique("route", ((route.prefill, route.decode) for route in routes))
    for route in routes:
        _check_route(route, phases)


def _check_route(route: Route, phases: Mapping[PipelineId, Phase]) -> None:
    where = f"route from {route.prefill!r} to {route.decode!r}"
    if not (math.isfinite(route.weight) and route.weight > 0):
        raise InvalidPlan(f"{where}: expected a weight above 0, got {route.weight:g}")
    ends = ((route.prefill, ("prefill",)), (route.decode, ("decode", "both")))
    for name, fitting in ends:
        got = phases.get(PipelineId(name))
        if got not in fitting:
            found = f"one that serves {got}" if got is not None else "no such pipeline"
            expected = " or ".join(fitting)
            raise InvalidPlan(
                f"{where}: expected {name!r} to be a pipeline that serves {expected}, got {found}"
            )


def _check_phase(where: str, phase: object) -> None:
    if phase not in PHASES:
        raise InvalidPlan(f"{where}.phase: expected one of {', '.join(PHASES)}, got {phase!r}")


def parse_layers(text: str, num_layers: int) -> tuple[tuple[int, int], ...]:
    """Read the layer ranges of a pipeline's stages as a user types them.

    Raises:
        InvalidPlan: the text is not of that form, or does not cover the layers in order.

    Example:
        >>> parse_layers("0:5,5:12", num_layers=12)
        ((0, 5), (5, 12))
    """
    ranges = tuple(_parse_range(part, text) for part in text.split(","))
    _check_ranges(f"layers {text!r}", ranges, num_layers)
    return ranges


def check_pipeline(pipeline: PipelinePlan, num_layers: int) -> None:
    """Refuse a pipeline that contradicts itself or does not cover the model.

    Raises:
        InvalidPlan: one sentence says what, where, expected and got.
    """
    where = f"pipeline {pipeline.id!r}"
    if pipeline.num_blocks < 1 or pipeline.block_tokens < 1:
        raise InvalidPlan(
            f"{where}: expected 1 or more blocks of 1 or more tokens, got {pipeline.num_blocks} "
            f"of {pipeline.block_tokens}"
        )
    order = [stage.stage for stage in pipeline.stages]
    if order != list(range(len(order))):
        raise InvalidPlan(f"{where}: expected stages in order from 0, got {order}")
    _check_ranges(where, [(stage.start, stage.end) for stage in pipeline.stages], num_layers)


def _check_ranges(where: str, ranges: Sequence[tuple[int, int]], num_layers: int) -> None:
    reached = 0
    for start, end in ranges:
        if start != reached:
            fault = "a gap" if start > reached else "an overlap"
            raise InvalidPlan(
                f"{where}: {fault} at {start}:{end}, expected a start of {reached}, got {start}"
            )
        if end <= start:
            raise InvalidPlan(f"{where}: an empty stage {start}:{end}, expected 1 or more layers")
        reached = end
    if reached != num_layers:
        raise InvalidPlan(f"{where}: expected layers 0:{num_layers}, got 0:{reached}")


def _check_unique(what: str, ids: Iterable[Hashable]) -> None:
    twice = [key for key, count in Counter(ids).items() if count > 1]
    if twice:
        raise InvalidPlan(f"{what} {twice[0]!r}: expected one, got it more than once")


def _parse_range(part: str, text: str) -> tuple[int, int]:
    start, colon, end = part.strip().partition(":")
    if not (colon and _is_number(start) and _is_number(end)):
        raise InvalidPlan(f"layers {text!r}: expected start:end, as in 0:5, got {part.strip()!r}")
    return int(start), int(end)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def pipeline_from_dict(data: Any) -> PipelinePlan:
    """Read one pipeline of what `Plan.to_dict` gave.

    Raises:
        InvalidPlan: a key is missing or unknown, or a value of another type.
    """
    counts = {"num_blocks": int, "block_tokens": int}
    _expect(data, "pipeline", {"id": str, "stages": (list, tuple), **counts}, {"phase": str})
    _check_phase(f"pipeline {data['id']!r}", data.get("phase", "both"))
    return PipelinePlan(**{**data, "stages": tuple(_stage(stage) for stage in data["stages"])})


def _stage(data: Any) -> StagePlan:
    names = {"node": str, "worker": str, "device": str}
    _expect(data, "stage", {"stage": int, **names, "start": int, "end": int})
    return StagePlan(**data)


def _route(data: Any) -> Route:
    _expect(data, "route", {"prefill": str, "decode": str, "weight": (int, float)})
    return Route(**{**data, "weight": float(data["weight"])})


_Types = Mapping[str, type | tuple[type, ...]]


def _expect(data: Any, where: str, types: _Types, optional: _Types = MappingProxyType({})) -> None:
    if not isinstance(data, Mapping) or data.keys() - optional.keys() != types.keys():
        got = sorted(map(str, data)) if isinstance(data, Mapping) else type(data).__name__
        raise InvalidPlan(f"{where}: expected the keys {sorted({*types, *optional})}, got {got}")
    for key, expected in {**types, **optional}.items():
        if key not in data:
            continue
        value = data[key]
        if not isinstance(value, expected) or isinstance(value, bool):
            raise InvalidPlan(f"{where}.{key}: expected {expected}, got {value!r}")


if __name__ == "__main__":  # `python -m scheduling.plan` is the planner's command
    import sys

    from scheduling.command import main

    sys.exit(main())
