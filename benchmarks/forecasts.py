"""Forecasts of saved plans against simulation: the real batcher and router on emulated devices.

    python -m benchmarks.forecasts

Each plan is forecast for its cluster file's own load, as `scheduling.plan` does, and then simulated
under more of that load than it is forecast to serve. What counts is the tokens a second of the
second half of the time in which requests come: by then pipelines are full, and none runs empty.
Everything is seeded and on virtual time, so that what else the machine does changes nothing.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from runtime.simulation.cluster_file import Cluster
from runtime.simulation.cluster_reading import load_cluster
from runtime.simulation.load import limited, poisson
from runtime.simulation.planned import with_plan
from runtime.simulation.simulation import Job, simulate
from runtime.simulation.steady import steady_tokens_per_s
from scheduling.cluster_toml import parse_cluster
from scheduling.goal import Goal, Limits
from scheduling.objective import Objective
from scheduling.plan_file import read_document
from scheduling.solvers.interface import Problem
from scheduling.workload import log_normal

EXAMPLES = Path(__file__).parents[1] / "examples"
MAX_ERROR = 0.2
OVERLOAD = 1.3
"""Requests come so many times as often as they are forecast to be served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A cluster of the examples with its saved plan; `max_step_tokens` of 0 is the file's own."""

    name: str
    duration_s: float
    max_step_tokens: int = 0

    def cluster(self) -> Cluster:
        """The cluster with the plan's pipelines."""
        path = EXAMPLES / "clusters" / f"{self.name}.toml"
        found = with_plan(load_cluster(path), path, self.plan)
        if not self.max_step_tokens:
            return found
        serving = msgspec.structs.replace(found.serving, max_step_tokens=self.max_step_tokens)
        return msgspec.structs.replace(found, serving=serving)

    @property
    def plan(self) -> Path:
        """The saved plan."""
        return EXAMPLES / "plans" / f"{self.name}.json"


CASES = (
    Case(name="laptop", duration_s=30),
    Case(name="unequal", duration_s=60),
    Case(name="two_and_two", duration_s=600),
    Case(name="two_and_two", duration_s=600, max_step_tokens=256),
    Case(name="three_sites", duration_s=500),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Tokens a second of a plan, forecast and simulated."""

    case: Case
    forecast: float
    simulated: float

    @property
    def error(self) -> float:
        """How far the forecast is from the simulation, as a part of that."""
        return self.forecast / self.simulated - 1


def main(arguments: list[str] | None = None) -> int:
    """Compare all cases; 0 if every error is within bounds."""
    options = _parser().parse_args(arguments)
    chosen = [case for case in CASES if options.case in ("", case.name)]
    if not chosen:
        known = ", ".join(dict.fromkeys(case.name for case in CASES))
        sys.stderr.write(f"error: --case: expected one of {known}, got {options.case!r}\n")
        return 1
    found = []
    for case in chosen:
        found.append(compare(case, options.seed))
        sys.stderr.write(f"{case.name}: {found[-1].error:+.1%}\n")
    Console().print(table_of(found))
    return int(any(abs(each.error) > MAX_ERROR for each in found))


def compare(case: Case, seed: int = 0) -> Compared:
    """Forecast a plan, and simulate it under more load than it is forecast to serve."""
    cluster = case.cluster()
    tokens_per_s, requests_per_s = forecast(cluster, case)
    load = msgspec.structs.replace(cluster.load, rate=OVERLOAD * requests_per_s)
    coming = poisson(random.Random(seed), load)
    arrivals = limited(coming, cluster.serving.max_model_len, case.duration_s, None)
    history = simulate(Job(cluster=cluster, arrivals=arrivals, seed=seed))
    simulated = steady_tokens_per_s(history.outcomes, history.start_s, case.duration_s)
    return Compared(case=case, forecast=tokens_per_s, simulated=simulated)


def forecast(cluster: Cluster, case: Case) -> tuple[float, float]:
    """Tokens and requests a second of a case's plan, as `scheduling.plan explain` would say."""
    text = (EXAMPLES / "clusters" / f"{case.name}.toml").read_text(encoding="utf-8")
    serving, load = cluster.serving, cluster.load
    workload = log_normal(load.mean_prompt, load.mean_output, load.spread, serving.max_model_len)
    problem = Problem(
        cluster=parse_cluster(text).cluster,
        shape=cluster.shape,
        workload=workload,
        goal=Goal(),
        limits=Limits(
            max_running=serving.max_running,
            max_step_tokens=serving.max_step_tokens,
            max_model_len=serving.max_model_len,
            block_tokens=serving.block_tokens,
        ),
    )
    plan = json.loads(case.plan.read_text(encoding="utf-8"))
    found = Objective.of(problem).evaluate(read_document(plan, problem.cluster))
    return found.tokens_per_s, found.tokens_per_s / workload.mean_output


def table_of(found: Sequence[Compared]) -> Table:
    """Each plan with both rates and its error."""
    table = Table(title="output tokens/s of saved plans", box=None)
    table.add_column("plan")
    for heading in ("step tokens", "forecast", "simulated", "error", f"≤ {MAX_ERROR:.0%}"):
        table.add_column(heading, justify="right")
    for each in found:
        table.add_row(
            each.case.name,
            str(each.case.max_step_tokens or "file's"),
            f"{each.forecast:.1f}",
            f"{each.simulated:.1f}",
            f"{each.error:+.1%}",
            "ok" if abs(each.error) <= MAX_ERROR else "MISSED",
        )
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.forecasts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--case", default="", help="only the plans of this cluster (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of all chance (default 0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
