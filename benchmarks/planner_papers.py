"""The planners against the papers they come from: one run, one table.

    python -m benchmarks.planner_papers [--reference FOLDER] [--top-k 5] [--seconds 30] [--json F]

Every row has a figure, what it is measured against, and their ratio; times are of this machine, and
what is compared by time runs in the same process, one after the other.
"""

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from examples.papers import cost_efficiency, helix, routing, shuntserve
from scheduling.helix.flow import rate_bound
from scheduling.shuntserve.beam import beam_placement
from scheduling.shuntserve.catalogue import AWS_STOCK, LLAMA_31_70B
from scheduling.shuntserve.estimator import Estimator
from scheduling.shuntserve.search import best_placement
from scheduling.solvers.flow_search import search
from scheduling.solvers.interface import Budget
from scheduling.solvers.rent_baselines import best_rent


class Row(NamedTuple):
    """A figure beside the one it is measured against."""

    what: str
    ours: float
    other: float
    unit: str

    @property
    def ratio(self) -> float:
        """Ours for one of the other."""
        return self.ours / self.other


def shuntserve_rows(top_k: int) -> Iterator[Row]:
    """The search against the published beam, by throughput and by time."""
    start = time.perf_counter()
    ours = best_placement(Estimator(LLAMA_31_70B), AWS_STOCK)
    ours_s = time.perf_counter() - start
    start = time.perf_counter()
    beam = beam_placement(Estimator(LLAMA_31_70B), AWS_STOCK, top_k=top_k)
    beam_s = time.perf_counter() - start
    rate = shuntserve.total(beam)
    yield Row(f"shuntserve: search, beam at {top_k}", ours.requests_per_s, rate, "requests/s")
    yield Row("shuntserve: search, its bound", ours.requests_per_s, ours.bound, "requests/s")
    yield Row("shuntserve: time of both", ours_s, beam_s, "s")


def helix_rows(folder: Path, seconds: float) -> Iterator[Row]:
    """The flow against the published one, the bound, and when the published one was passed."""
    cluster = helix.load_cluster(folder)
    start = time.perf_counter()
    passed_s = best = 0.0
    for solution in search(cluster, budget=Budget(seconds=seconds, clock=time.perf_counter)):
        best = solution.score
        if not passed_s and best >= helix.TARGET:
            passed_s = time.perf_counter() - start
    yield Row("helix: flow, published placement", best, helix.PUBLISHED["ilp"], "tokens/s")
    yield Row("helix: flow, our bound", best, rate_bound(cluster), "tokens/s")
    yield Row(
        "helix: bound, published bound", rate_bound(cluster), helix.PUBLISHED_BOUND, "tokens/s"
    )
    yield Row("helix: time to pass, time allowed", passed_s, helix.TARGET_S, "s")


def rent_rows() -> Iterator[Row]:
    """The worked example against the published plan."""
    plan = best_rent(cost_efficiency.WORKED)
    published = cost_efficiency.PUBLISHED_WORKED_S
    yield Row("rent: worked example, published", plan.makespan_s, published, "s")
    yield Row("rent: worked example, bound", plan.makespan_s, plan.bound_s, "s")


def routing_rows() -> Iterator[Row]:
    """Predicted completion against the other policies."""
    requests = routing.make_requests(0, per_s=20.0)
    for cluster, fits in routing.CLUSTERS.items():
        rates = {
            name: len(requests) / routing.makespan_s(fits, requests, policy)
            for name, policy in routing.policies(fits, seed=1).items()
        }
        ours = rates.pop("predicted completion")
        for name, rate in rates.items():
            yield Row(f"routing, {cluster}: predicted, {name}", ours, rate, "requests/s")


def verdicts(rows: Iterable[Row]) -> Iterator[str]:
    """The lines of what must be reached, each with ok or MISSED."""
    found = {row.what: row for row in rows}
    flow, passed = found["helix: flow, our bound"], found["helix: time to pass, time allowed"]
    is_met = flow.ours >= helix.TARGET and passed.ours <= helix.TARGET_S
    yield (
        f"helix, 24 nodes, Llama-70B: {flow.ours:.2f} tokens/s, {helix.TARGET} passed after "
        f"{passed.ours:.1f} s (target <= {helix.TARGET_S:g} s), the bound of {flow.other:.2f} is "
        f"{1 / flow.ratio - 1:.1%} above: {'ok' if is_met else 'MISSED'}"
    )
    makespan = found["rent: worked example, published"].ours
    yield (
        f"rent, worked example: {makespan:.3f} s (target 28.431 s): "
        f"{'ok' if abs(makespan - 28.431) < 5e-4 else 'MISSED'}"
    )


def main() -> None:
    """Run all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, default=helix.reference_folder())
    parser.add_argument("--top-k", type=int, default=5, help="of the published beam")
    parser.add_argument("--seconds", type=float, default=30.0, help="of the search for a flow")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    options = parser.parse_args()
    folder = options.reference / "helix"
    if not folder.is_dir():
        parser.error(f"{folder}: expected the folder with the published files; give --reference")
    rows = [
        *helix_rows(folder, options.seconds),
        *rent_rows(),
        *routing_rows(),
        *shuntserve_rows(options.top_k),
    ]
    table = Table("figures compared", "ours", "other", "unit", "ratio")
    for row in rows:
        table.add_row(row.what, f"{row.ours:.4f}", f"{row.other:.4f}", row.unit, f"{row.ratio:.3f}")
    Console(width=110).print(table)
    for line in verdicts(rows):
        print(line)
    if options.json:
        data = [{**row._asdict(), "ratio": row.ratio} for row in rows]
        options.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
