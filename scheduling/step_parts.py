"""Many steps' work as arrays, and what a device would take for each: `StageTime`, all at once.

A fit asks for the times of hundreds of steps on thousands of imagined devices; a test holds that
they are those of `roofline.StageTime`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scheduling.measured_steps import StageStep
from scheduling.model_shape import ModelShape
from scheduling.split import StageDevice
from scheduling.stage_cost import Array


@dataclass(frozen=True, slots=True)
class StepParts:
    """What each of `N` steps reads and computes, apart for matrices, attention and head.

    Shapes:
        num_bytes, flops: `[N, 3]`, over all layers of the step.
        num_layers: `[N]`.
    """

    num_bytes: Array
    flops: Array
    num_layers: Array

    @staticmethod
    def of(shape: ModelShape, steps: Sequence[StageStep]) -> "StepParts":
        """The parts of a model's steps."""
        rows = [_parts(shape, step) for step in steps]
        return StepParts(
            num_bytes=np.asarray([num_bytes for num_bytes, _ in rows]),
            flops=np.asarray([flops for _, flops in rows]),
            num_layers=np.asarray([float(step.end - step.start) for step in steps]),
        )

    def seconds_on(self, device: StageDevice) -> Array:
        """What a device takes for each step: `[N]`."""
        times = np.maximum(self.num_bytes / device.bytes_per_s, self.flops / device.flops_per_s)
        overhead_s = self.num_layers * device.layer_overhead_s + device.step_overhead_s
        total: Array = times.sum(axis=1) + overhead_s
        return total


def _parts(shape: ModelShape, step: StageStep) -> tuple[list[float], list[float]]:
    num_layers, work = step.end - step.start, step.work
    draws = step.end == shape.num_layers and work.num_drawn > 0
    num_bytes = [
        num_layers * shape.read_bytes(work.num_tokens),
        num_layers * shape.kv_bytes_per_token * work.num_context,
        shape.head_parameters * shape.dtype_bytes * float(draws),
    ]
    flops = [
        num_layers * 2.0 * shape.active_parameters * work.num_tokens,
        num_layers * 4.0 * shape.num_heads * shape.head_dim * work.num_pairs,
        2.0 * shape.head_parameters * work.num_drawn * float(draws),
    ]
    return num_bytes, flops
