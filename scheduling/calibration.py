"""Reached rates of a device, fitted to measured steps, with the error left.

The one idea: a step takes what `roofline.StageTime` says, so that what is fitted is exactly what
forecasts use: its two rates, and what a layer and a step cost besides. The fit is by least squares
of the logarithms, so that short and long steps count alike, with Huber's loss, so that steps which
other work on the machine held up pull it no further than others do; those that then stand out from
the rest are left out, and it is fitted again. None of the four can become negative. What remains is
reported over all steps, since a model that is off by half must not pass for a measured one.

Sources: Williams, Waterman, Patterson, Roofline, CACM 2009; Huber, Robust Estimation of a Location
Parameter, Annals of Mathematical Statistics 1964.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from scheduling.hardware import DeviceKind
from scheduling.measured_steps import StageStep, WeighedStep, alike
from scheduling.model_shape import ModelShape
from scheduling.stage_cost import Array
from scheduling.step_parts import StepParts

LEAST_SIZES = 4
"""Sizes of step that four unknowns need."""
_LEAST_PART, _MOST_PART = 0.01, 4.0
_MOST_OVERHEAD_S = 0.1
_STARTS = ((1.0, 1.0), (0.2, 0.8), (0.8, 0.2), (0.2, 0.2))
_DISTURBED = 0.1
"""Errors beyond this part of a step's time count as a disturbance."""
_FAR = 4.0
"""Errors so many times the usual one stand out; of normal ones, fewer than one in a hundred do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A fitted kind, and how far its times are from the measured ones.

    Attributes:
        kind: with the fitted parts and overheads.
        mean_error: mean of |predicted / measured - 1| over sizes of step, by their weights.
        max_error: the largest of them.
        num_sizes: sizes of step that it was fitted to.
        num_steps: steps measured in all.
    """

    kind: DeviceKind
    mean_error: float
    max_error: float
    num_sizes: int
    num_steps: int


def calibrate(kind: DeviceKind, shape: ModelShape, steps: Iterable[StageStep]) -> Calibration:
    """Fit a kind's reached rates to the steps of a model's layers that it was measured at.

    Args:
        kind: its peaks are kept, its parts and overheads are replaced.
        shape: the model's.
        steps: of `LEAST_SIZES` sizes or more, the more different the better.

    Raises:
        ValueError: there are too few sizes, or a step has no time or no work.
    """
    given = tuple(steps)
    for step in given:
        if not (step.seconds > 0 and step.end > step.start and step.work.num_tokens > 0):
            raise ValueError(f"calibration of {kind.name}: expected work and time, got {step}")
    groups = alike(given)
    if len(groups) < LEAST_SIZES:
        raise ValueError(
            f"calibration of {kind.name}: expected steps of {LEAST_SIZES} sizes or more, got "
            f"{len(groups)} in {len(given)} steps"
        )
    found = _fit(kind, StepParts.of(shape, [group.step for group in groups]), groups)
    return replace(found, num_steps=len(given))


def _fit(kind: DeviceKind, parts: StepParts, groups: Sequence[WeighedStep]) -> Calibration:
    seconds = np.asarray([group.step.seconds for group in groups])
    weights = np.asarray([group.weight for group in groups])
    weights = weights / weights.mean()

    def fitted(values: Array) -> DeviceKind:
        flops, num_bytes, layer, step = (float(value) for value in values)
        return replace(
            kind,
            flops_part=flops,
            bytes_part=num_bytes,
            layer_overhead_s=layer * 1e-6,
            step_overhead_s=step * 1e-6,
        )

    def errors(values: Array) -> Array:
        off: Array = np.log(parts.seconds_on(fitted(values).rates) / seconds)
        return off

    scale = np.sqrt(weights)
    best = _least(lambda values: scale * errors(values))
    keep = scale * ~_stand_out(errors(best))
    best = _least(lambda values: keep * errors(values))
    off = np.abs(np.exp(errors(best)) - 1)
    return Calibration(
        kind=replace(fitted(best), source=f"measured steps of {len(groups)} sizes"),
        mean_error=float(np.average(off, weights=weights)),
        max_error=float(off.max()),
        num_sizes=len(groups),
        num_steps=len(groups),
    )


def _stand_out(errors: Array) -> npt.NDArray[np.bool_]:
    """Which errors are far beyond the usual one; never so many that too few would be left."""
    off = np.abs(errors - np.median(errors))
    bound = max(_DISTURBED, _FAR * float(np.median(off)))
    bound = max(bound, float(np.sort(off)[min(len(off), 2 * LEAST_SIZES) - 1]))
    far: npt.NDArray[np.bool_] = off > bound
    return far


def _least(errors: Callable[[Array], Array]) -> Array:
    """The values of the least loss; maxima have kinks, so that a start may end in a corner."""
    most = _MOST_OVERHEAD_S * 1e6
    bounds = ([_LEAST_PART, _LEAST_PART, 0.0, 0.0], [_MOST_PART, _MOST_PART, most, most])
    fits = [
        least_squares(
            errors,
            [*start, 30.0, 30.0],
            bounds=bounds,
            x_scale=[1, 1, 100, 100],
            loss="huber",
            f_scale=_DISTURBED,
        )
        for start in _STARTS
    ]
    best: Array = min(fits, key=lambda fit: float(fit.cost)).x
    return best
