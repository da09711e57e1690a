"""How fast the planner finds how good a plan, and how that grows with the cluster.

    python -m benchmarks.planner                 # all: about five minutes
    python -m benchmarks.planner --devices 24    # one size
    python -m benchmarks.planner --plot docs/pictures/planner_growth.svg

For each size: seconds to the first plan, the value after the short and after the long budget, their
ratio, and the gap to the bound. Sizes mix five kinds of devices on three sites. Then a line for
each target, with ok or MISSED; ends with 1 if one was missed.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
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
NEAR = 0.98
"""The part of the long budget's value that counts as reached."""


@dataclass(frozen=True, slots=True)
class Case:
    """A size, the time in which a plan is wanted, and the time that it is held against.

    `short_s` is what the search is given; it looks at its clock between steps of its work and may
    end later, so that it is less than `target_s`, by which the plan must be there.
    """

    num_devices: int
    short_s: float
    long_s: float
    target_s: float | None = None


CASES = (
    Case(8, 2, 10),
    Case(24, 1.6, 60, target_s=2),
    Case(64, 10, 60),
    Case(256, 26, 26, target_s=30),
    Case(1000, 100, 100, target_s=120),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came of a case.

    Attributes:
        case: the size and its budgets.
        marks: seconds at which the longer search had each better plan, and its value.
        short_s: seconds that the shorter search took.
        short: what it found.
        long_s: seconds that the longer one took.
        long: what it found.
    """

    case: Case
    marks: tuple[tuple[float, float], ...]
    short_s: float
    short: Solution
    long_s: float
    long: Solution

    @property
    def ratio(self) -> float:
        """The shorter search's value as a part of the better one's."""
        return self.short.score / max(self.long.score, self.short.score)

    @property
    def near_s(self) -> float:
        """Seconds until the longer search was near its end's value."""
        most = self.marks[-1][1]
        return next(at for at, value in self.marks if value >= NEAR * most)

    def row(self) -> str:
        """One row of the table."""
        first_s, first = self.marks[0]
        return (
            f"| {self.case.num_devices:>7} | {first_s:7.2f} | {first:11.1f} | {self.short_s:8.1f} "
            f"| {self.short.score:11.1f} | {self.long_s:7.1f} | {self.long.score:11.1f} "
            f"| {self.ratio:6.1%} | {self.long.gap:6.1%} |"
        )

    def verdict(self) -> tuple[str, bool] | None:
        """The line of a target and whether it is met; None where there is none."""
        case = self.case
        if case.target_s is None:
            return None
        in_time = self.short_s <= case.target_s
        if case.long_s == case.short_s:
            said = f"a plan in {self.short_s:.1f} s (target <= {case.target_s:g} s)"
            is_met = in_time
        else:
            said = (
                f"{self.ratio:.1%} of the value of {case.long_s:g} s in {self.short_s:.1f} s "
                f"(target >= {NEAR:.0%} in <= {case.target_s:g} s)"
            )
            is_met = in_time and self.ratio >= NEAR
        return f"{case.num_devices} GPUs: {said}: {'ok' if is_met else 'MISSED'}", is_met


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


def measure(case: Case, seed: int, clock: Callable[[], float]) -> Measured:
    """Search for the short time, and for the long one if that is another."""
    short_s, short, marks = _search(case.num_devices, case.short_s, seed, clock)
    long_s, long = short_s, short
    if case.long_s > case.short_s:
        long_s, long, marks = _search(case.num_devices, case.long_s, seed, clock)
    return Measured(
        case=case, marks=tuple(marks), short_s=short_s, short=short, long_s=long_s, long=long
    )


def _search(
    num_devices: int, seconds: float, seed: int, clock: Callable[[], float]
) -> tuple[float, Solution, list[tuple[float, float]]]:
    marks: list[tuple[float, float]] = []

    def note(solution: Solution, spent_s: float) -> None:
        marks.append((spent_s, solution.score))

    budget = Budget(seconds=seconds, clock=clock)
    found = plan(problem_of(num_devices), budget=budget, seed=seed, on_progress=note)
    return found.spent_s, found.solution, marks


def verdicts(found: Sequence[Measured]) -> Iterator[tuple[str, bool]]:
    """The lines of all targets."""
    for measured in found:
        said = measured.verdict()
        if said is not None:
            yield said


def save_growth(found: Sequence[Measured], path: Path) -> None:
    """Draw seconds over devices, both in logarithms."""
    from matplotlib.figure import Figure  # an extra: only pictures need it

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    sizes = [measured.case.num_devices for measured in found]
    axes.plot(sizes, [m.marks[0][0] for m in found], "o-", label="first plan")
    axes.plot(sizes, [m.near_s for m in found], "s-", label=f"within {1 - NEAR:.0%} of the last")
    aims = [(m.case.num_devices, m.case.target_s) for m in found if m.case.target_s is not None]
    axes.plot([size for size, _ in aims], [aim for _, aim in aims], "k_", ms=16, label="target")
    axes.set(xscale="log", yscale="log", xlabel="devices", ylabel="seconds of search")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> int:
    """Print the table and the targets; draw the growth if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, nargs="*", help="only these sizes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, metavar="F", help="draw the growth, as .svg or .png")
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
    found = []
    for case in CASES:
        if options.devices is None or case.num_devices in options.devices:
            found.append(measure(case, options.seed, clock))
            print(found[-1].row(), flush=True)
    said = list(verdicts(found))
    for line, _ in said:
        print(line)
    if options.plot and found:
        save_growth(found, options.plot)
    return 0 if all(is_met for _, is_met in said) else 1


if __name__ == "__main__":
    sys.exit(main())
