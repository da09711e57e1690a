"""`python -m runtime.simulate CLUSTER.toml`: an imaginary cluster under load, on virtual time.

The actors are the real ones; devices, links and faults are emulated. See docs/simulation.md.
"""

import argparse
import logging
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from runtime.errors import ConfigError, RemudaError
from runtime.simulation.client import Outcome
from runtime.simulation.cluster_file import Cluster
from runtime.simulation.cluster_reading import load_cluster
from runtime.simulation.faults import load_faults
from runtime.simulation.load import Arrival, limited, poisson, trace
from runtime.simulation.planned import with_plan
from runtime.simulation.plot import check_plot, save_plot
from runtime.simulation.report import show, summary, to_json
from runtime.simulation.routing_policies import POLICIES, policy_of
from runtime.simulation.simulation import History, Job, simulate
from runtime.simulation.times import save_times, times_of

DEFAULT_DURATION_S = 60.0
PIPE_WIDTH = 120


def main(arguments: list[str] | None = None) -> int:
    """Simulate; 0 if every request that was checked was right, 1 if not or it could not be done."""
    options = _parser().parse_args(arguments)
    try:
        history = _run(options)
        found = summary(history)
        if options.json:
            options.json.write_text(to_json(found), encoding="utf-8")
        if options.times:
            save_times(times_of(history.outcomes), options.times)
        if options.plot:
            save_plot(history, options.plot)
    except (RemudaError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    show(found, _console())
    return 1 if found["requests"]["wrong"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m runtime.simulate", description=__doc__)
    parser.add_argument("cluster", type=Path, help="the cluster file")
    parser.add_argument("--plan", type=Path, help="pipelines, as `scheduling.plan --json` wrote")
    parser.add_argument("--trace", type=Path, help="requests as a CSV, instead of by chance")
    parser.add_argument("--rate", type=_positive, help="requests a second")
    parser.add_argument("--duration", type=_positive, help="seconds in which requests come")
    parser.add_argument("--requests", type=_count, help="how many requests, at most")
    parser.add_argument("--faults", type=Path, help="what goes wrong, and when")
    parser.add_argument("--seed", type=int, default=0, help="of all chance (default 0)")
    parser.add_argument(
        "--live", action="store_true", help="let time pass as it does, instead of jumping ahead"
    )
    parser.add_argument("--plot", type=Path, help="a timeline, as .svg or .png")
    parser.add_argument("--json", type=Path, help="the whole result")
    parser.add_argument("--times", type=Path, help="each request's times, as a CSV")
    parser.add_argument(
        "--routing",
        choices=POLICIES,
        default=POLICIES[0],
        help="who picks pipelines: the service's own way, or another one to compare it with",
    )
    return parser


def _run(options: argparse.Namespace) -> History:
    if options.plot:
        check_plot(options.plot)
    cluster = load_cluster(options.cluster)
    if options.plan:
        cluster = with_plan(cluster, options.cluster, options.plan)
    arrivals = _arrivals(options, cluster)
    faults = load_faults(options.faults, cluster) if options.faults else ()
    job = Job(
        cluster=cluster,
        arrivals=arrivals,
        faults=faults,
        seed=options.seed,
        is_live=options.live,
        policy=policy_of(options.routing, options.seed),
    )
    with _progress(len(arrivals)) as progress, _quiet():
        return simulate(job, progress)


def _arrivals(options: argparse.Namespace, cluster: Cluster) -> list[Arrival]:
    duration_s = options.duration
    if options.trace:
        coming = iter(trace(options.trace, options.rate))
    else:
        rate = options.rate or cluster.load.rate
        load = msgspec.structs.replace(cluster.load, rate=rate)
        coming = poisson(random.Random(options.seed), load)
        if duration_s is None and options.requests is None:
            duration_s = DEFAULT_DURATION_S
    found = limited(coming, cluster.serving.max_model_len, duration_s, options.requests)
    if not found:
        raise ConfigError(f"no request comes within {duration_s:g} s")
    return found


class _Progress:
    """Counts requests that ended, where somebody looks."""

    def __init__(self, bar: Progress, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task("requests", total=total)

    def __call__(self, outcome: Outcome) -> None:
        self._bar.advance(self._task)


@contextmanager
def _progress(total: int) -> Iterator[_Progress]:
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        yield _Progress(bar, total)


@contextmanager
def _quiet() -> Iterator[None]:
    """Where faults are made, their warnings are no news: the timeline has them."""
    nothing = logging.NullHandler()
    logging.getLogger().addHandler(nothing)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(nothing)


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected more than 0, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
