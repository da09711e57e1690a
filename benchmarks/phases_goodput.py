"""Whether parting prefill and decode serves more requests in time, as the planner says it does.

    python -m benchmarks.phases_goodput

Two loads on two emulated machines each, planned with pipelines that serve whole requests (for the
latencies, and for throughput: the better of both counts), and with phases apart where the planner
finds that better. Every plan is simulated at several rates on virtual time, by the real actors.
Goodput is requests a second that keep both latencies, at the rate where that is most. Then the
plans are served at their best rates in real time, and compared again: where a gain is predicted it
must be there, and where none is the plan must be no worse.
"""

import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.machine import describe_machine
from runtime.simulation.client import Outcome
from runtime.simulation.cluster_file import Cluster, LoadFile
from runtime.simulation.cluster_reading import load_cluster
from runtime.simulation.load import limited, poisson
from runtime.simulation.planned import with_plan
from runtime.simulation.simulation import Job, simulate
from scheduling.command import main as plan_command

EXAMPLES = Path(__file__).parents[1] / "examples" / "clusters"
PARTS_OF_PREDICTED = (0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25)
LEAST_GAIN, LEAST_PREDICTED = 1.3, 1.5
"""Where the planner predicts so much more, so much must come of it."""
LEAST_WITHOUT_GAIN = 0.98


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A cluster, the lengths of its requests in tokens, and the latencies they are to keep."""

    cluster: str
    prompt: int
    output: int
    ttft_s: float
    tpot_s: float

    def is_in_time(self, outcome: Outcome) -> bool:
        """Whether a request had its first token, and those after it, in time."""
        if not outcome.is_done or outcome.first_at is None:
            return False
        tpot_s = (outcome.last_at - outcome.first_at) / max(1, outcome.num_tokens - 1)
        return outcome.first_at - outcome.sent_at <= self.ttft_s and tpot_s <= self.tpot_s

    def __str__(self) -> str:
        return (
            f"{self.cluster}, {self.prompt}:{self.output}, "
            f"TTFT {self.ttft_s:g} s, TPOT {self.tpot_s:g} s"
        )


LOADS = (
    Load(cluster="compute_and_bandwidth", prompt=1500, output=200, ttft_s=3.0, tpot_s=0.12),
    Load(cluster="two_alike", prompt=500, output=200, ttft_s=4.0, tpot_s=0.1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan: its cluster, what it serves in time as predicted, and which phases it has."""

    cluster: Cluster
    requests_per_s: float
    phases: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A plan at its best rate: requests a second, predicted and in time, simulated and live."""

    planned: Planned
    rate: float
    simulated: float
    live: float


def main(arguments: list[str] | None = None) -> int:
    """Measure both loads; 0 if parting phases gains what it should and costs nothing else."""
    options = _parser().parse_args(arguments)
    is_well = True
    console = Console(width=120)
    for load in LOADS:
        measures = ("slo", "throughput")
        alike = [plan_for(load, m, apart=False, seconds=options.time) for m in measures]
        mine = plan_for(load, "slo", apart=True, seconds=options.time)
        together = serve(load, alike, options)
        is_same = mine.cluster == together.planned.cluster
        ours = replace(together, planned=mine) if is_same else serve(load, [mine], options)
        console.print(table_of(load, together, ours))
        is_well = is_well and _is_met(together, ours)
    console.print(describe_machine())
    return int(not is_well)


def serve(load: Load, plans: list[Planned], options: argparse.Namespace) -> Served:
    """Find the plan and the rate that serve most in time, and serve that in real time."""
    tried = [(p, part * p.requests_per_s) for p in plans for part in PARTS_OF_PREDICTED]
    found = []
    with _progress(f"{load.cluster} {'+'.join(plans[0].phases)}", len(tried) + 1) as advance:
        for planned, rate in tried:
            found.append(goodput(load, planned, rate, options.duration, is_live=False))
            advance()
        simulated = max(found)
        planned, rate = tried[found.index(simulated)]
        live = goodput(load, planned, rate, options.live, is_live=True)
    return Served(planned=planned, rate=rate, simulated=simulated, live=live)


def plan_for(load: Load, measure: str, *, apart: bool, seconds: float) -> Planned:
    """What `python -m scheduling.plan` plans, whose words are not shown."""
    path = EXAMPLES / f"{load.cluster}.toml"
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "plan.json"
        words = [
            str(path), "--workload", f"{load.prompt}:{load.output}", "--objective", measure,
            "--time", str(seconds), "--json", str(plan),
            *(["--slo", f"ttft={load.ttft_s},tpot={load.tpot_s}"] if measure == "slo" else []),
            *(["--disaggregate"] if apart else []),
        ]  # fmt: skip
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            status = plan_command(words)
        if status:
            raise SystemExit(said.getvalue())
        return _planned(path, plan)


def goodput(
    load: Load, planned: Planned, rate: float, duration_s: float, *, is_live: bool
) -> float:
    """Requests a second in time, of those that come within `duration_s` at a rate."""
    lengths = LoadFile(rate=rate, mean_prompt=load.prompt, mean_output=load.output, spread=0.0)
    coming = poisson(random.Random(0), lengths)
    arrivals = limited(coming, planned.cluster.serving.max_model_len, duration_s, None)
    history = simulate(Job(cluster=planned.cluster, arrivals=arrivals, is_live=is_live))
    return sum(map(load.is_in_time, history.outcomes)) / duration_s


def _planned(path: Path, plan: Path) -> Planned:
    forecast = json.loads(plan.read_text(encoding="utf-8"))["forecast"]
    cluster = with_plan(load_cluster(path), path, plan)
    return Planned(
        cluster=cluster,
        requests_per_s=forecast["requests_per_s"],
        phases=tuple(pipeline.phase for pipeline in cluster.pipelines),
    )


def _is_met(together: Served, ours: Served) -> bool:
    predicted = ours.planned.requests_per_s / together.planned.requests_per_s
    least = LEAST_GAIN if predicted >= LEAST_PREDICTED else LEAST_WITHOUT_GAIN
    return ours.live >= least * together.live


def table_of(load: Load, together: Served, ours: Served) -> Table:
    """Both plans of a load, and how they compare."""
    table = Table(title=f"{load}: requests/s in time", box=None)
    table.add_column("plan")
    for heading in ("predicted", "simulated", "in real time", "offered"):
        table.add_column(heading, justify="right")
    for name, served in (("together", together), ("ours", ours)):
        planned = served.planned
        figures = (planned.requests_per_s, served.simulated, served.live, served.rate)
        told = f"{name}: {', '.join(planned.phases)}"
        table.add_row(told, *(f"{figure:.2f}" for figure in figures))
    ratios = (
        ours.planned.requests_per_s / together.planned.requests_per_s,
        ours.simulated / max(together.simulated, 1e-9),
        ours.live / max(together.live, 1e-9),
    )
    least = LEAST_GAIN if ratios[0] >= LEAST_PREDICTED else LEAST_WITHOUT_GAIN
    verdict = "ok" if _is_met(together, ours) else "MISSED"
    table.add_row("ratio", *(f"{ratio:.2f}x" for ratio in ratios), f"≥ {least:g}x {verdict}")
    return table


@contextlib.contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.phases_goodput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--duration", type=float, default=120.0, help="simulated seconds a rate (default 120)")
    add("--live", type=float, default=60.0, help="real seconds a plan (default 60)")
    add("--time", type=float, default=5.0, help="seconds to plan in (default 5)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
