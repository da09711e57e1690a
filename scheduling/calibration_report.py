"""Fitted rates as tables of a cluster file, with the error left and what was measured at start."""

from collections.abc import Iterator

from scheduling.calibration import Calibration, calibrate
from scheduling.steps_file import ToldStage, ToldSteps, kind_at_start, kinds_of, steps_of


def report(told: ToldSteps) -> Iterator[str]:
    """A table `[devices.NAME]` for each kind of device, with its error.

    Raises:
        ValueError: none can be fitted; says why, and what would help.
    """
    if told.shape is None:
        raise ValueError("the model's shape is not known to this service: nothing can be fitted")
    lines, failures = [], []
    for name, stages in kinds_of(told).items():
        try:
            found = calibrate(kind_at_start(name, stages[0]), told.shape, steps_of(stages))
        except ValueError as error:
            failures.append(f"{error}; serve requests of different lengths, and ask again")
        else:
            lines += _table(name, stages[0], found)
    if not lines:
        why = "; ".join(failures)
        raise ValueError(why or "no stage answered with its steps: see `runtime.ctl status`")
    yield from lines
    yield from (f"# {failure}" for failure in failures)


def _table(name: str, stage: ToldStage, found: Calibration) -> list[str]:
    rates = found.kind.rates
    return [
        f"[devices.{name}]  # {found.num_steps} measured steps of {found.num_sizes} sizes",
        f"# error of the fit: {found.mean_error:.1%} in the mean, {found.max_error:.1%} at most",
        f"memory_bytes = {stage.memory_bytes}",
        f"flops_per_s = {rates.flops_per_s:.4g}  # at start: {stage.flops_per_s:.4g}",
        f"bytes_per_s = {rates.bytes_per_s:.4g}  # at start: {stage.bytes_per_s:.4g}",
        f"layer_overhead_s = {rates.layer_overhead_s:.4g}  # at start: "
        f"{stage.layer_overhead_s:.4g}",
        f"step_overhead_s = {rates.step_overhead_s:.4g}  # at start: not measured",
    ]
