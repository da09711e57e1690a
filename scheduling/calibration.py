"""Reached rates of a device, fitted to measured steps by least squares, with the error left.

The one idea: a measured step takes `bytes / (part * peak)` or `flops / (part * peak)`, whichever is
longer, and an overhead for each layer; the two parts and the overhead are fitted to the logarithms
of the times, so that short and long steps count alike. What remains is reported, since a model that
is off by half must not pass for a measured one.

Source of the form: Williams, Waterman, Patterson, Roofline, CACM 2009.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import least_squares

from scheduling.hardware import DeviceKind
from scheduling.stage_cost import Array

_LEAST_PART, _MOST_PART = 0.01, 1.5
_MOST_OVERHEAD_S = 0.1
_STARTS = ((0.8, 0.8), (0.4, 0.8), (0.8, 0.4))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One measured step: what it read and computed, in how many layers, and how long it took."""

    num_bytes: float
    flops: float
    num_layers: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A fitted kind, and how far its times are from the measured ones.

    Attributes:
        kind: with the fitted parts and overhead.
        mean_error: mean of |predicted / measured - 1|.
        max_error: the largest of them.
    """

    kind: DeviceKind
    mean_error: float
    max_error: float


def calibrate(kind: DeviceKind, measured: Sequence[Measurement]) -> Calibration:
    """Fit a kind's reached rates.

    Args:
        kind: its peaks are kept, its parts and overhead are replaced.
        measured: three steps or more, of different sizes.

    Raises:
        ValueError: there are too few, or one has no time or no work.
    """
    if len(measured) < 3:
        raise ValueError(
            f"calibration of {kind.name}: expected 3 steps or more, got {len(measured)}"
        )
    for step in measured:
        if min(step.num_bytes, step.flops, step.num_layers, step.seconds) <= 0:
            raise ValueError(f"calibration of {kind.name}: expected work and time, got {step}")
    seconds = np.asarray([step.seconds for step in measured])

    def fitted(values: Array) -> DeviceKind:
        flops, num_bytes, overhead = (float(value) for value in values)
        return replace(
            kind, flops_part=flops, bytes_part=num_bytes, layer_overhead_s=overhead * 1e-6
        )

    def errors(
        values: Array,
    ) -> Array:
        device = fitted(values)
        predicted = np.asarray([predict(device, step) for step in measured])
        off: Array = np.log(predicted / seconds)
        return off

    low = [_LEAST_PART, _LEAST_PART, 0.0]
    high = [_MOST_PART, _MOST_PART, _MOST_OVERHEAD_S * 1e6]
    # the maximum has a kink, so that one start may end in a corner
    fits = [
        least_squares(errors, [*start, 30.0], bounds=(low, high), x_scale=[1, 1, 100])
        for start in _STARTS
    ]
    best = min(fits, key=lambda fit: float(fit.cost))
    off = np.abs(np.exp(errors(best.x)) - 1)
    return Calibration(
        kind=replace(fitted(best.x), source=f"{len(measured)} measured steps"),
        mean_error=float(off.mean()),
        max_error=float(off.max()),
    )


def predict(kind: DeviceKind, step: Measurement) -> float:
    """Seconds that a kind takes for a step's work."""
    rates = kind.rates
    work_s = max(step.num_bytes / rates.bytes_per_s, step.flops / rates.flops_per_s)
    return work_s + step.num_layers * rates.layer_overhead_s
