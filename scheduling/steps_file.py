"""What `GET /admin/steps` tells, and what is kept of it in a file: stages with their last steps.

The one idea: steps of all stages on devices of one kind are that kind's, whichever layers they had.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec
from msgspec import Meta

from scheduling.hardware import DeviceKind
from scheduling.measured_steps import StageStep
from scheduling.model_shape import ModelShape, StepWork
from scheduling.split import StageDevice

MAX_STAGES = 4096
MAX_STEPS = 1 << 16

Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]
Step = tuple[Count, Count, Count, Count, Seconds]
"""Tokens, pairs, context, drawn, seconds; see `StepWork`."""


class ToldStage(msgspec.Struct, frozen=True):
    """A stage and its last steps; what its worker measured at its start is 0 where not known."""

    node: str
    device: str
    layers: tuple[int, int]
    steps: Annotated[tuple[Step, ...], Meta(max_length=MAX_STEPS)]
    name: str = ""
    memory_bytes: int = 0
    flops_per_s: float = 0.0
    bytes_per_s: float = 0.0
    layer_overhead_s: float = 0.0


class ToldSteps(msgspec.Struct, frozen=True):
    """All stages, and the model's shape if it is known."""

    shape: ModelShape | None
    stages: Annotated[tuple[ToldStage, ...], Meta(max_length=MAX_STAGES)]


def read_steps(text: str | bytes) -> ToldSteps:
    """What a file says.

    Raises:
        ValueError: it is no such file; says what was expected where.
    """
    try:
        return msgspec.json.decode(text, type=ToldSteps)
    except msgspec.MsgspecError as error:
        raise ValueError(f"expected what GET /admin/steps answers: {error}") from None


def together(told: Iterable[ToldSteps]) -> ToldSteps:
    """Several files of one model as one.

    Raises:
        ValueError: there is none, or they are of different models.
    """
    files = tuple(told)
    shapes = {file.shape for file in files}
    if len(shapes) != 1:
        raise ValueError(f"expected files of one model, got {len(shapes)} models")
    return ToldSteps(files[0].shape, tuple(stage for file in files for stage in file.stages))


def kinds_of(told: ToldSteps) -> dict[str, tuple[ToldStage, ...]]:
    """The stages of each kind of device, by a name that a cluster file can have.

    Those of which no measurement was told are left out.
    """
    kinds: dict[str, list[ToldStage]] = {}
    for stage in told.stages:
        if stage.memory_bytes:
            kinds.setdefault(kind_name(stage), []).append(stage)
    return {name: tuple(stages) for name, stages in kinds.items()}


def kind_name(stage: ToldStage) -> str:
    """A name that a TOML key and a node's list of devices can have."""
    name = "".join(letter if letter.isalnum() else "-" for letter in stage.name or stage.device)
    return (
        name if name.isascii() and name.strip("-") else f"device-{stage.device}".replace(":", "-")
    )


def kind_at_start(name: str, stage: ToldStage) -> DeviceKind:
    """A kind of device as its worker measured it when it started."""
    rates = StageDevice(
        memory_bytes=stage.memory_bytes,
        flops_per_s=stage.flops_per_s,
        bytes_per_s=stage.bytes_per_s,
        layer_overhead_s=stage.layer_overhead_s,
    )
    return DeviceKind.measured(name, rates)


def steps_of(stages: Iterable[ToldStage]) -> Iterator[StageStep]:
    """The steps of some stages, as calibration takes them."""
    for stage in stages:
        start, end = stage.layers
        for tokens, pairs, context, drawn, seconds in stage.steps:
            work = StepWork(
                num_tokens=tokens, num_pairs=pairs, num_context=context, num_drawn=drawn
            )
            yield StageStep(start=start, end=end, work=work, seconds=seconds)
