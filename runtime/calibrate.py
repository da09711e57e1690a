"""`python -m runtime.calibrate`: what a running service's devices reach, fitted to its steps.

    python -m runtime.calibrate --url http://127.0.0.1:8000

Asks for the last steps of every stage and fits, for each kind of device, the rates at which it
reads and computes and what a layer costs besides. Prints them as `[devices.NAME]` of a cluster
file, with the error that is left, for `python -m scheduling.plan` and `runtime.simulate`. Let the
service work on short and long requests first: steps of one size tell nothing of another.
"""

import argparse
import sys
from collections.abc import Iterator

import msgspec

from runtime.control.service import CommandFailed, Service
from runtime.ctl import DEFAULT_URL
from scheduling.calibration import Calibration
from scheduling.hardware import DeviceKind
from scheduling.measured_steps import StageStep, calibrate_device
from scheduling.roofline import ModelShape, StepWork


class ToldStage(msgspec.Struct, frozen=True):
    """A stage as `GET /admin/steps` tells of it."""

    node: str
    device: str
    layers: tuple[int, int]
    steps: tuple[tuple[int, int, int, int, float], ...]
    name: str = ""
    memory_bytes: int = 0
    flops_per_s: float = 0.0
    bytes_per_s: float = 0.0
    layer_overhead_s: float = 0.0


class ToldSteps(msgspec.Struct, frozen=True):
    """All stages, and the model's shape if it is known."""

    shape: ModelShape | None
    stages: tuple[ToldStage, ...]


def main(arguments: list[str] | None = None) -> int:
    """Fit and print; 0 if one kind or more could be fitted, 1 with a sentence if none could."""
    options = _parser().parse_args(arguments)
    service = Service(options.url)
    try:
        told = service.understood(service.get("/admin/steps"), ToldSteps, "what its steps took")
        lines = list(report(told))
    except CommandFailed as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 1
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def report(told: ToldSteps) -> Iterator[str]:
    """A table of the cluster file for each kind of device, with its error.

    Raises:
        CommandFailed: none can be fitted; says why.
    """
    if told.shape is None:
        raise CommandFailed("the model's shape is not known to this service: nothing can be fitted")
    fitted, failures = 0, []
    kinds = {_kind_name(stage): stage for stage in told.stages if stage.memory_bytes}
    for name, first in kinds.items():
        mine = [stage for stage in told.stages if _kind_name(stage) == name]
        try:
            found = calibrate_device(_kind(name, first), told.shape, _steps(mine))
        except ValueError as error:
            failures.append(f"{error}; serve requests of different lengths, and ask again")
            continue
        fitted += 1
        yield from _table(name, first, found)
    if not fitted:
        raise CommandFailed(
            "; ".join(failures) or "no stage answered with its steps: see `runtime.ctl status`"
        )
    for failure in failures:
        yield f"# {failure}"


def _kind_name(stage: ToldStage) -> str:
    """A name that a TOML key and a node's list of devices can have."""
    name = "".join(letter if letter.isalnum() else "-" for letter in stage.name or stage.device)
    return (
        name if name.isascii() and name.strip("-") else f"device-{stage.device}".replace(":", "-")
    )


def _kind(name: str, stage: ToldStage) -> DeviceKind:
    return DeviceKind(
        name=name,
        memory_bytes=stage.memory_bytes,
        peak_flops_per_s=stage.flops_per_s,
        peak_bytes_per_s=stage.bytes_per_s,
        flops_part=1.0,
        bytes_part=1.0,
        layer_overhead_s=stage.layer_overhead_s,
    )


def _steps(stages: list[ToldStage]) -> Iterator[StageStep]:
    for stage in stages:
        for tokens, pairs, context, drawn, seconds in stage.steps:
            work = StepWork(
                num_tokens=tokens, num_pairs=pairs, num_context=context, num_drawn=drawn
            )
            start, end = stage.layers
            yield StageStep(start=start, end=end, work=work, seconds=seconds)


def _table(name: str, stage: ToldStage, found: Calibration) -> Iterator[str]:
    rates = found.kind.rates
    yield f"[devices.{name}]  # {found.kind.source}"
    yield f"# error of the fit: {found.mean_error:.1%} in the mean, {found.max_error:.1%} at most"
    yield f"memory_bytes = {stage.memory_bytes}"
    yield f"flops_per_s = {rates.flops_per_s:.4g}  # at start: {stage.flops_per_s:.4g}"
    yield f"bytes_per_s = {rates.bytes_per_s:.4g}  # at start: {stage.bytes_per_s:.4g}"
    yield (
        f"layer_overhead_s = {rates.layer_overhead_s:.4g}  # at start: {stage.layer_overhead_s:.4g}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.calibrate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", default=DEFAULT_URL, help="the service (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
