"""How fast the planner finds how good a plan, and how that grows with the cluster.

    python -m benchmarks.planner                 # all: about five minutes
    python -m benchmarks.planner --devices 24    # one size

For each size: seconds to the first plan, the value after the short and after the long budget, their
ratio, and the gap to the bound. Sizes mix five kinds of devices on three sites.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, process_time

from scheduling.cluster import Cluster, Link, Node
from scheduling.model_profile import known_model
from scheduling.planner import plan
from scheduling.roofline import LinkRate
from scheduling.solvers.interface import Budget, Problem, Solution
from scheduling.workload import synthetic

SITES = ("east", "west", "north")
MIX = ("T4", "L4", "A10G", "A100-40G", "H100")
BETWEEN = LinkRate(bytes_per_s=125e6, latency_s=0.02)


@dataclass(frozen=True, slots=True)
class Case:
    """A size, the time in which a plan is wanted, and the time that it is held against."""

    num_devices: int
    short_s: float
    long_s: float


CASES = (
    Case(8, 2, 10),
    Case(24, 2, 60),
    Case(64, 10, 60),
    Case(256, 30, 30),
    Case(1000, 60, 60),
)


def problem_of(num_devices: int) -> Problem:
    """Devices of five kinds in turn on three sites, one a node; Llama-70B, conversation lengths."""
    nodes = tuple(
        Node(id=f"n{i}", devices=(MIX[i % len(MIX)],), site=SITES[i // len(MIX) % len(SITES)])
        for i in range(num_devices)
    )
    sites = sorted({node.site for node in nodes})
    links = tuple(
        Link(between=(one, other), rate=BETWEEN) for one in sites for other in sites if one < other
    )
    return Problem(
        cluster=Cluster(nodes=nodes, links=links),
        shape=known_model("llama-70b"),
        workload=synthetic("conversation"),
    )


def measure(case: Case, seed: int, clock: Callable[[], float]) -> str:
    """One row of the table."""
    marks: list[tuple[float, Solution]] = []

    def note(solution: Solution, spent_s: float) -> None:
        marks.append((spent_s, solution))

    short = plan(
        problem_of(case.num_devices),
        budget=Budget(seconds=case.short_s, clock=clock),
        seed=seed,
        on_progress=note,
    )
    first_s, first = marks[0]
    whole = short
    if case.long_s > case.short_s:
        whole = plan(
            problem_of(case.num_devices),
            budget=Budget(seconds=case.long_s, clock=clock),
            seed=seed,
        )
    ratio = short.solution.score / max(whole.solution.score, short.solution.score)
    return (
        f"| {case.num_devices:>7} | {first_s:7.2f} | {first.score:11.1f} | {short.spent_s:8.1f} "
        f"| {short.solution.score:11.1f} | {whole.spent_s:7.1f} | {whole.solution.score:11.1f} "
        f"| {ratio:6.1%} | {whole.solution.gap:6.1%} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, nargs="*", help="only these sizes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu counts this process's own seconds, for a machine that is busy with others",
    )
    options = parser.parse_args()
    clock = monotonic if options.clock == "wall" else process_time
    print(
        "| devices | first s | first tok/s | short s | short tok/s | long s | long tok/s "
        "| short/long | gap |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for case in CASES:
        if options.devices is None or case.num_devices in options.devices:
            print(measure(case, options.seed, clock), flush=True)


if __name__ == "__main__":
    main()
