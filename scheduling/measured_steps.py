"""Measured steps of a service as what calibration takes: bytes, operations and seconds. Pure.

The one idea: steps of nearly the same work are one measurement, their median time, so that the
thousands of alike decode steps of a service count no more than its few long prompts, and one that
was disturbed counts for nothing.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from scheduling.calibration import Calibration, Measurement, calibrate
from scheduling.hardware import DeviceKind
from scheduling.live import rounded
from scheduling.roofline import ModelShape, StepWork


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStep:
    """A step of the layers `[start, end)` on a device, and its seconds."""

    start: int
    end: int
    work: StepWork
    seconds: float


def measurement_of(shape: ModelShape, step: StageStep) -> Measurement:
    """What a step read and computed, as `roofline.StageTime` counts it."""
    num_layers, work = step.end - step.start, step.work
    num_bytes = shape.read_bytes(work.num_tokens) + shape.kv_bytes_per_token * work.num_context
    flops = 2.0 * shape.active_parameters * work.num_tokens
    flops += 4.0 * shape.num_heads * shape.head_dim * work.num_pairs
    head_bytes = head_flops = 0.0
    if step.end == shape.num_layers and work.num_drawn:
        head_bytes = shape.head_parameters * shape.dtype_bytes
        head_flops = 2.0 * shape.head_parameters * work.num_drawn
    return Measurement(
        num_bytes=num_layers * num_bytes + head_bytes,
        flops=num_layers * flops + head_flops,
        num_layers=num_layers,
        seconds=step.seconds,
    )


def medians(measured: Iterable[Measurement]) -> tuple[Measurement, ...]:
    """One measurement for all that asked nearly the same (within 5 %), with the median time."""
    alike: dict[tuple[float, float, int], list[Measurement]] = defaultdict(list)
    for step in measured:
        alike[rounded(step.num_bytes), rounded(step.flops), step.num_layers].append(step)
    return tuple(
        Measurement(
            num_bytes=group[0].num_bytes,
            flops=group[0].flops,
            num_layers=group[0].num_layers,
            seconds=median(step.seconds for step in group),
        )
        for group in alike.values()
    )


def calibrate_device(
    kind: DeviceKind, shape: ModelShape, steps: Iterable[StageStep]
) -> Calibration:
    """Fit a device's rates to the steps it was measured at.

    Raises:
        ValueError: they are of fewer than 3 sizes; says how many.
    """
    return calibrate(kind, medians(measurement_of(shape, step) for step in steps))
