"""Every solver against trying all, on as many random problems as there is time for.

    python -m tests.scheduling.solvers.offline --problems 2000 [--first 0] [--solvers dp tabu]

Prints a line for each problem on which a solver is off: a heuristic that is more than 5 % below the
best, an exact one that is not equal to it (`milp` is one where phases are not apart), or anything
above it or above its own bound. Ends with 1 if there is any.
"""

import argparse
import sys
from collections import Counter

from scheduling.errors import TooLarge
from scheduling.planner import SOLVERS
from scheduling.solvers import exhaustive
from scheduling.solvers.interface import Problem, Solution
from tests.scheduling.solvers.clusters import last_of
from tests.scheduling.solvers.varied import varied_problem

HEURISTICS = ("dp", "tabu", "maxflow")
PART = 0.05
FEW_S = {"dp": 0.04, "tabu": 0.05, "maxflow": 0.2}
"""Counted seconds, a thousandth for each look at the clock."""


def fault(problem: Problem, name: str, best: Solution | None) -> str:
    """What is wrong with a solver on a problem; nothing where all is well.

    Args:
        problem: a small one.
        name: of the solver.
        best: what trying all found; None where nothing is feasible.
    """
    is_exact = name not in HEURISTICS
    if is_exact and problem.limits.disaggregate:
        return ""  # the integer program takes rows of classes then, and claims nothing
    found = last_of(SOLVERS[name], problem, FEW_S.get(name, 1e6))
    if found is None or best is None:
        return "" if found is best else f"found {found and found.score}, best {best and best.score}"
    size = abs(best.score)
    if found.score > best.score + 1e-6 * size:
        return f"{found.score:.6g} is above the best, {best.score:.6g}"
    if found.bound < best.score - 1e-6 * size:
        return f"a bound of {found.bound:.6g} is below the best, {best.score:.6g}"
    if found.score < best.score - (1e-6 if is_exact else PART) * size:
        return f"{found.score:.6g} is {found.score / best.score:.1%} of the best, {best.score:.6g}"
    return ""


def main() -> int:
    """Try all and say what is off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first problem")
    parser.add_argument("--solvers", nargs="*", default=[*HEURISTICS, "milp"])
    options = parser.parse_args()
    faults: Counter[tuple[str, str]] = Counter()
    solved = too_large = 0
    for seed in range(options.first, options.first + options.problems):
        sort, problem = varied_problem(seed)
        try:
            best = last_of(exhaustive.solve, problem, 1e9)
        except TooLarge:
            too_large += 1
            continue
        solved += best is not None
        for name in options.solvers:
            said = fault(problem, name, best)
            if said:
                faults[name, sort] += 1
                _say(f"seed {seed} ({sort}), {name}: {said}")
    _say(f"{solved} of {options.problems} could be solved, {too_large} were too large to try all")
    for (name, sort), count in sorted(faults.items()):
        _say(f"{name}, {sort}: {count}")
    return 1 if faults else 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
