"""Which pipeline a request goes to, on unequal pipelines: four policies in the simulated service.

    python -m examples.papers.routing_simulated [--quick]

The router is the service's own, with its choice of a pipeline replaced; arrivals are the same for
all policies. Loads are parts of what the planner forecasts for the plan. A request is good that
ends within its scene's time to a first token and time a token after it.
"""

import argparse
import json
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from runtime.simulation.client import Outcome
from runtime.simulation.cluster_file import Cluster
from runtime.simulation.cluster_reading import load_cluster
from runtime.simulation.load import Arrival, limited, poisson
from runtime.simulation.planned import with_plan
from runtime.simulation.routing_policies import random_choice, round_robin, shortest_queue
from runtime.simulation.simulation import Job, simulate
from scheduling.pairing import RoutingPolicy
from scheduling.routing import Choose, choose_pipeline

EXAMPLES = Path(__file__).parents[1]
OURS = "predicted completion"
TOLERANCE = 0.05
"""By so much ours may be behind the best of the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A cluster with a plan of the same name, and when a request is good.

    Units: `ttft_s` and `tpot_s` seconds to the first token and a token after it, `duration_s`
    seconds in which requests come.
    """

    name: str
    ttft_s: float
    tpot_s: float
    duration_s: float

    def is_good(self, outcome: Outcome) -> bool:
        """Whether a request ended in time."""
        allowed_s = self.ttft_s + self.tpot_s * outcome.num_tokens
        return outcome.is_done and outcome.last_at - outcome.sent_at <= allowed_s

    @property
    def cluster(self) -> Cluster:
        """The cluster with the plan's pipelines."""
        path = EXAMPLES / "clusters" / f"{self.name}.toml"
        return with_plan(load_cluster(path), path, self.plan_path)

    @property
    def plan_path(self) -> Path:
        """The plan, as `scheduling.plan --json` wrote it."""
        return EXAMPLES / "plans" / f"{self.name}.json"

    @property
    def forecast_per_s(self) -> float:
        """Requests a second that the planner says the plan serves."""
        document = json.loads(self.plan_path.read_text(encoding="utf-8"))
        return float(document["forecast"]["requests_per_s"])


SCENES = (
    Scene(name="unequal", ttft_s=2.0, tpot_s=0.1, duration_s=60.0),
    Scene(name="three_sites", ttft_s=10.0, tpot_s=0.4, duration_s=60.0),
)
PARTS = (0.5, 0.8, 0.95)
"""Of the forecast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one policy gave at one load; seconds of whole requests, and good requests a second."""

    num_requests: int
    num_done: int
    p50_s: float
    p99_s: float
    goodput_per_s: float


def policies(seed: int) -> dict[str, Choose]:
    """All four, fresh."""
    return {
        "round robin": round_robin(),
        "random": random_choice(random.Random(seed).randrange),
        "shortest queue": shortest_queue(),
        OURS: choose_pipeline,
    }


def arrivals(scene: Scene, cluster: Cluster, part: float, seed: int) -> list[Arrival]:
    """The requests of a scene at a part of the forecast."""
    load = msgspec.structs.replace(cluster.load, rate=part * scene.forecast_per_s)
    coming = poisson(random.Random(seed), load)
    return limited(coming, cluster.serving.max_model_len, scene.duration_s, None)


def compare(
    scene: Scene,
    part: float,
    choices: Mapping[str, Choose],
    *,
    seed: int = 0,
    on_result: Callable[[str, Result], object] = lambda name, result: None,
) -> dict[str, Result]:
    """Each policy on the same requests; `on_result` hears of each as it comes."""
    cluster = scene.cluster
    coming = arrivals(scene, cluster, part, seed)
    found = {}
    for name, choose in choices.items():
        job = Job(cluster=cluster, arrivals=coming, seed=seed, policy=RoutingPolicy(begin=choose))
        found[name] = result_of(scene, simulate(job).outcomes)
        on_result(name, found[name])
    return found


def result_of(scene: Scene, outcomes: Sequence[Outcome]) -> Result:
    """What came of some requests.

    Raises:
        RuntimeError: none of them came to its end.
    """
    seconds = [o.last_at - o.sent_at for o in outcomes if o.is_done]
    if not seconds:
        raise RuntimeError(f"scene {scene.name}: no request came to its end, of {len(outcomes)}")
    p50_s, p99_s = np.percentile(seconds, (50, 99))
    return Result(
        num_requests=len(outcomes),
        num_done=len(seconds),
        p50_s=float(p50_s),
        p99_s=float(p99_s),
        goodput_per_s=sum(map(scene.is_good, outcomes)) / scene.duration_s,
    )


def shortfalls(results: Mapping[str, Result]) -> dict[str, float]:
    """How far ours is behind the best of the others, as a part of that; below 0 if it is ahead."""
    ours = results[OURS]
    others = [result for name, result in results.items() if name != OURS]
    goodput = max(result.goodput_per_s for result in others)
    return {
        "p50": ours.p50_s / min(result.p50_s for result in others) - 1,
        "p99": ours.p99_s / min(result.p99_s for result in others) - 1,
        "goodput": 1 - ours.goodput_per_s / goodput if goodput else 0.0,
    }


def verdict(results: Mapping[str, Result]) -> str:
    """Ours against the best of the others, in a line."""
    found = shortfalls(results)
    word = "ok" if max(found.values()) <= TOLERANCE else "MISSED"
    told = ", ".join(f"{name} {part:+.1%}" for name, part in found.items())
    return f"behind the best of the others (at most {TOLERANCE:.0%}): {told}: {word}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table and a verdict for each cluster and load."""
    parser = argparse.ArgumentParser(prog="python -m examples.papers.routing_simulated")
    parser.add_argument("--quick", action="store_true", help="one cluster, briefly, to try it out")
    parser.add_argument("--seed", type=int, default=0, help="of all chance (default 0)")
    options = parser.parse_args(arguments)
    console = Console(width=110)
    scenes = (replace(SCENES[0], duration_s=1.0),) if options.quick else SCENES
    for scene in scenes:
        for part in PARTS[:1] if options.quick else PARTS:
            with _quiet():
                results = compare(scene, part, policies(options.seed), seed=options.seed)
            table = _table(scene, part)
            for name, result in results.items():
                table.add_row(*_cells(name, result))
            console.print(table)
            console.print(verdict(results))


def _table(scene: Scene, part: float) -> Table:
    rate = part * scene.forecast_per_s
    title = f"{scene.name} at {part:.0%} of the forecast: {rate:.1f} requests/s"
    table = Table("policy", title=title, box=None)
    for heading in ("done", "p50 s", "p99 s", "good requests/s"):
        table.add_column(heading, justify="right")
    return table


def _cells(name: str, result: Result) -> tuple[str, ...]:
    done = f"{result.num_done}/{result.num_requests}"
    return name, done, f"{result.p50_s:.2f}", f"{result.p99_s:.2f}", f"{result.goodput_per_s:.2f}"


@contextmanager
def _quiet() -> Iterator[None]:
    """What the service logs while it comes up is no news here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


if __name__ == "__main__":
    main()
