"""How fast the simulator is: processor time for each step of a stage, and simulated time to real.

The clock is the process's processor time, so that others who use the machine change it little.
"""

import argparse
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from runtime.errors import ConfigError
from runtime.simulation.cluster_reading import load_cluster
from runtime.simulation.load import limited, poisson
from runtime.simulation.simulation import History, Job, simulate

CLUSTER = Path("examples/clusters/three_sites.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What one simulation took.

    Attributes:
        num_requests: requests that were sent.
        num_stage_steps: steps, each counted once for every stage.
        simulated_s: from the service being up to the last request's end.
        cpu_s: processor time of this process, from its cluster's start to its end.
        clock_s: the same on the wall's clock.
    """

    num_requests: int
    num_stage_steps: int
    simulated_s: float
    cpu_s: float
    clock_s: float

    @property
    def stage_step_us(self) -> float:
        """Processor time of a stage's step, and of all that goes with it, in microseconds."""
        return self.cpu_s / max(1, self.num_stage_steps) * 1e6

    @property
    def ratio(self) -> float:
        """Simulated seconds in a second of processor time."""
        return self.simulated_s / max(self.cpu_s, 1e-9)


def main(arguments: list[str] | None = None) -> int:
    """Run the rounds and print a line for each."""
    options = _parser().parse_args(arguments)
    try:
        job = job_of(options.cluster, options.rate, options.duration, options.seed)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    speeds = [measure(job) for _ in range(options.rounds)]
    Console(width=100).print(table_of(speeds, f"{options.cluster.name}, {describe_machine()}"))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulator", description=__doc__)
    parser.add_argument("cluster", type=Path, nargs="?", default=CLUSTER, help="the cluster file")
    parser.add_argument("--rate", type=float, default=5.0, help="requests a second (default 5)")
    parser.add_argument("--duration", type=float, default=3600.0, help="seconds (default an hour)")
    parser.add_argument("--seed", type=int, default=0, help="of all chance (default 0)")
    parser.add_argument("--rounds", type=int, default=1, help="how often (default once)")
    return parser


def job_of(path: Path, rate: float, duration_s: float, seed: int) -> Job:
    """What `python -m runtime.simulate` would run with these options.

    Raises:
        ConfigError: the cluster file makes no sense, or no request comes.
    """
    cluster = load_cluster(path)
    load = msgspec.structs.replace(cluster.load, rate=rate)
    coming = poisson(random.Random(seed), load)
    arrivals = limited(coming, cluster.serving.max_model_len, duration_s, None)
    if not arrivals:
        raise ConfigError(f"no request comes within {duration_s:g} s at {rate:g} a second")
    return Job(cluster=cluster, arrivals=arrivals, seed=seed)


def measure(job: Job) -> Speed:
    """Simulate once."""
    cpu_s, clock_s = time.process_time(), time.perf_counter()
    history = simulate(job)
    return speed_of(history, time.process_time() - cpu_s, time.perf_counter() - clock_s)


def speed_of(history: History, cpu_s: float, clock_s: float) -> Speed:
    """What a history says of how fast it was."""
    return Speed(
        num_requests=len(history.outcomes),
        num_stage_steps=sum(row.num_steps for row in history.record.rows.values()),
        simulated_s=history.end_s - history.start_s,
        cpu_s=cpu_s,
        clock_s=clock_s,
    )


def table_of(speeds: list[Speed], title: str) -> Table:
    """A line for each round."""
    table = Table(title=title, title_justify="left")
    for heading in ("requests", "stage steps", "simulated", "CPU", "wall", "µs/step", "ratio"):
        table.add_column(heading, justify="right")
    for speed in speeds:
        table.add_row(
            str(speed.num_requests),
            str(speed.num_stage_steps),
            f"{speed.simulated_s:.0f} s",
            f"{speed.cpu_s:.1f} s",
            f"{speed.clock_s:.1f} s",
            f"{speed.stage_step_us:.1f}",
            f"{speed.ratio:.1f}×",
        )
    return table


if __name__ == "__main__":
    raise SystemExit(main())
