"""Predicted against measured: real services on this machine, over splits, batches and speeds.

    python -m benchmarks.predicted
    python -m benchmarks.predicted --rounds 3 --window 12

Each node plays a device at a part of this machine's speed (`--emulated-speed`): a step takes as
many times longer as it really computed, so that slow devices leave the two or more cores to each
other, and their ratio is known. Load, processes, wire and batching are real.

Every combination is loaded steadily and measured once a round, one after another, so that what
else the machine does strikes all alike; of the rounds the half counts in which others used least
of the machine, and of these the median. Rates are fitted to the steps of every other combination,
and all are predicted by them, those held out included, as a coordinator predicts plans. Besides the
mean error it counts whether the split that is predicted best gives within 5 % of what the best
measured one does. Errors mean little where others used more than half a core.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.checkpoint import bench_checkpoint
from benchmarks.emulated_cluster import emulated_cluster, give_layers
from benchmarks.load import Target
from benchmarks.machine import describe_machine, machine_time
from benchmarks.predicted_combinations import (
    Combination,
    Link,
    Measured,
    Round,
    Row,
    Scene,
    choices,
    mean_error,
)
from benchmarks.predicted_rates import fitted, predicted
from benchmarks.service import get_json
from benchmarks.steady_load import Seen, SteadyLoad, keep_steady
from scheduling.link_rate import LinkRate
from scheduling.steps_file import ToldSteps

MAX_ERROR, MAX_LOSS = 0.15, 0.05
MOST_STREAMS = 64
SCENES = (
    Scene((0.2, 0.1), ((4, 8), (7, 5), (9, 3), (11, 1)), (8, 16, 32)),
    Scene((0.2, 0.2), ((4, 8), (7, 5)), (8, 32)),
    Scene((0.2, 0.1, 0.1), ((4, 4, 4), (6, 4, 2), (7, 4, 1)), (16,)),
)
QUICK = (Scene((0.2, 0.1), ((6, 6), (9, 3)), (4, 8)),)

Found = dict[Combination, Measured]


def main(arguments: list[str] | None = None) -> None:
    """Measure, fit, predict, and print the table."""
    options = _parser().parse_args(arguments)
    scenes = QUICK if options.quick else SCENES
    load = SteadyLoad(
        streams=0,
        prompt=options.prompt,
        new=options.new,
        warm_s=2.0 if options.quick else options.warm,
        window_s=4.0 if options.quick else options.window,
    )
    before = machine_time()
    found: Found = {}
    for scene in scenes:
        found |= measure(scene, load, 1 if options.quick else options.rounds, _model(options.model))
    foreign_cores = machine_time().foreign_cores_since(before)
    console = Console(width=None if sys.stdout.isatty() else 120)
    for line in fits_of(scenes, found):
        console.print(line)
    rows = predict(scenes, found, load)
    console.print(table_of(rows))
    for line in verdicts(rows):
        console.print(line)
    console.print(f"{describe_machine()}; others used {foreign_cores:.2f} cores in the mean")


def _model(given: Path | None) -> str:
    return str(given or bench_checkpoint())


def measure(scene: Scene, load: SteadyLoad, rounds: int, model: str) -> Found:
    """What the clients of each combination saw, and what its stages say of their steps."""
    found: Found = {combination: Measured() for combination in scene.combinations()}
    with emulated_cluster(model, scene.speeds, scene.splits[0], MOST_STREAMS) as url:
        name = get_json(f"{url}/v1/models")["data"][0]["id"]
        target = Target(url=url, model=name, new=load.new)
        for number in range(rounds):
            for combination in scene.combinations():
                give_layers(url, combination.split)
                before = machine_time()
                seen, steps = _loaded(target, load, combination)
                foreign_cores = machine_time().foreign_cores_since(before)
                found[combination].rounds.append(Round(seen, steps, foreign_cores))
                found[combination].links = _links(url)
                sys.stderr.write(
                    f"round {number + 1}: {_named(combination)}: {seen.tokens_per_s:.1f} tokens/s, "
                    f"others used {foreign_cores:.2f} cores\n"
                )
    return found


def _loaded(target: Target, load: SteadyLoad, combination: Combination) -> tuple[Seen, ToldSteps]:
    mine = SteadyLoad(
        streams=combination.batch,
        prompt=load.prompt,
        new=load.new,
        warm_s=load.warm_s,
        window_s=load.window_s,
    )

    def steps() -> ToldSteps:
        return msgspec.convert(get_json(f"{target.url}/admin/steps"), ToldSteps)

    return asyncio.run(keep_steady(target, mine, steps))


def _links(url: str) -> tuple[Link, ...]:
    """What the service measured between its nodes."""
    planner = get_json(f"{url}/admin/plan").get("planner") or {}
    return tuple(
        (*link["between"], LinkRate(bytes_per_s=link["bytes_per_s"], latency_s=link["latency_s"]))
        for link in planner.get("links", ())
    )


def _calibrating(scenes: Sequence[Scene], found: Found) -> list[ToldSteps]:
    return [
        steps
        for scene in scenes
        for combination in scene.combinations()
        if scene.calibrates(combination)
        for steps in (one.steps for one in found[combination].calm)
    ]


def fits_of(scenes: Sequence[Scene], found: Found) -> list[str]:
    """A line for each kind of device: what was fitted, and how well."""
    return [
        f"{name}: {fit.num_steps} steps of {fit.num_sizes} sizes, error {fit.mean_error:.1%}; "
        f"{fit.kind.rates.flops_per_s / 1e9:.1f} GFLOP/s, "
        f"{fit.kind.rates.bytes_per_s / 1e9:.1f} GB/s, "
        f"{fit.kind.rates.layer_overhead_s * 1e3:.2f} ms a layer, "
        f"{fit.kind.rates.step_overhead_s * 1e3:.2f} ms a step"
        for name, fit in fitted(_calibrating(scenes, found)).items()
    ]


def predict(scenes: Sequence[Scene], found: Found, load: SteadyLoad) -> list[Row]:
    """All combinations by the rates that some of them are fitted to."""
    rates = fitted(_calibrating(scenes, found))
    return [
        Row(
            combination=combination,
            is_held_out=not scene.calibrates(combination),
            predicted=predicted(combination, measured, rates, load),
            measured=Seen(tokens_per_s=measured.tokens_per_s, tpot_s=measured.tpot_s),
            foreign_cores=measured.foreign_cores,
        )
        for scene in scenes
        for combination in scene.combinations()
        for measured in (found[combination],)
    ]


def table_of(rows: Sequence[Row]) -> Table:
    """Every combination, predicted and measured."""
    table = Table(title="tokens/s and ms a token of steady streams", box=None)
    for heading in ("speeds", "layers"):
        table.add_column(heading)
    for heading in (
        "streams",
        "predicted",
        "measured",
        "error",
        "ms",
        "ms",
        "others' cores",
        "held out",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        combination, guess, real = row.combination, row.predicted, row.measured
        table.add_row(
            ":".join(f"{speed:g}" for speed in combination.speeds),
            ":".join(map(str, combination.split)),
            str(combination.batch),
            f"{guess.tokens_per_s:.1f}",
            f"{real.tokens_per_s:.1f}",
            f"{row.error:+.1%}",
            f"{guess.tpot_s * 1e3:.0f}",
            f"{real.tpot_s * 1e3:.0f}",
            f"{row.foreign_cores:.2f}",
            "yes" if row.is_held_out else "",
        )
    return table


def verdicts(rows: Sequence[Row]) -> list[str]:
    """The errors and the choices against what they should be, a line each."""
    held_out = [row for row in rows if row.is_held_out]
    errors = (
        f"mean error {mean_error(rows):.1%}, of {len(held_out)} held out {mean_error(held_out):.1%}"
        f" (at most {MAX_ERROR:.0%}: {_word(mean_error(held_out) <= MAX_ERROR)})"
    )
    return [
        errors,
        *(
            f"best predicted {_named(choice.chosen)}: {choice.loss:.1%} below the best measured "
            f"(at most {MAX_LOSS:.0%}: {_word(choice.loss <= MAX_LOSS)})"
            for choice in choices(rows)
        ),
    ]


def _named(combination: Combination) -> str:
    speeds = ":".join(f"{speed:g}" for speed in combination.speeds)
    split = ":".join(map(str, combination.split))
    return f"{split} at {speeds}, {combination.batch} streams"


def _word(is_met: bool) -> str:
    return "ok" if is_met else "MISSED"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.predicted",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--rounds", type=int, default=2, help="times each combination is measured (default 2)")
    add("--prompt", type=int, default=16, help="tokens of each prompt (default 16)")
    add("--new", type=int, default=24, help="tokens generated for each (default 24)")
    add("--warm", type=float, default=6.0, help="seconds before each window (default 6)")
    add("--window", type=float, default=14.0, help="seconds of each window (default 14)")
    add("--model", type=Path, help="a checkpoint of 12 layers (default: a random Llama)")
    add("--quick", action="store_true", help="four combinations, briefly: only to try it out")
    return parser


if __name__ == "__main__":
    main()
