"""What to rent for Llama-3-70B: our plan, one type of device, and each decision taken uniformly.

    python -m examples.papers.cost_efficiency [--seconds 3] [--sweep]

First the worked example of arXiv 2502.00722 (28.67 s published; the optimum is 28.431 s), then its
prices, its availabilities and its mixes of nine types of request. The published gain at one budget
is up to 41 %, 20 % in the mean, over one type of device. Where we differ: throughputs come from a
roofline and not from its profiles, replicas are of one type of device each, and every plan keeps
to the same availability, the one of a single type as well; so ratios can be compared and no times.
"""

import argparse
import time
from contextlib import suppress
from math import isfinite

from scheduling.errors import Infeasible
from scheduling.hardware import CATALOGUE
from scheduling.shuntserve.catalogue import LLAMA_31_70B
from scheduling.solvers.interface import Budget
from scheduling.solvers.rent_baselines import (
    best_rent,
    homogeneous,
    uniform_assignment,
    uniform_composition,
    uniform_deployment,
)
from scheduling.solvers.rent_problem import Configuration, RentPlan, RentProblem
from scheduling.solvers.rent_rates import Offer, RequestType, replicas_of

PUBLISHED_WORKED_S = 28.67
PUBLISHED_GAIN = "up to +41 %, mean +20 %"
TYPES = tuple(
    RequestType(prompt_tokens=prompt, output_tokens=output)
    for prompt in (2455, 824, 496)
    for output in (510, 253, 18)
)
"""The nine types; which of the mixes' columns is which length is not marked in our source."""
MIXES = {
    "T1": (0.33, 0.07, 0.08, 0.07, 0.27, 0.06, 0.06, 0.03, 0.03),
    "T2": (0.22, 0.05, 0.05, 0.21, 0.05, 0.05, 0.19, 0.06, 0.12),
    "T3": (0.04, 0.14, 0.03, 0.20, 0.27, 0.01, 0.25, 0.00, 0.06),
}
NAMES = ("4090", "A40", "A6000", "L40", "A100-80G", "H100")
AVAILABLE = ((16, 12, 8, 12, 6, 8), (32, 8, 16, 16, 7, 12))
NUM_REQUESTS = 1000.0
_NVLINK_BYTES_PER_S = 300e9
_PCIE_BYTES_PER_S = 25e9

WORKED = RentProblem(
    prices=(4.0, 2.0, 2.0),
    available=(2, 2, 2),
    demand=(80.0, 20.0),
    budget_per_hour=8.0,
    configurations=(
        Configuration(name="1 x t1", devices=(1, 0, 0), requests_per_s=(1.0, 1.2)),
        Configuration(name="1 x t2", devices=(0, 1, 0), requests_per_s=(0.9, 0.9)),
        Configuration(name="1 x t3", devices=(0, 0, 1), requests_per_s=(0.3, 0.5)),
        Configuration(name="2 x t2, TP", devices=(0, 2, 0), requests_per_s=(2.4, 1.5)),
    ),
)


def cloud_problem(
    mix: str,
    *,
    available: tuple[int, ...] = AVAILABLE[0],
    budget_per_hour: float = 30.0,
    flops: float = 1.0,
    num_bytes: float = 1.0,
) -> RentProblem:
    """One of the paper's settings.

    Args:
        mix: its name, a key of `MIXES`.
        available: devices of each of `NAMES`.
        budget_per_hour: dollars.
        flops: what the reached arithmetic is multiplied by, for a sweep.
        num_bytes: what the reached bandwidth is multiplied by.
    """
    offers = [
        Offer(
            kind=CATALOGUE[name].scaled(flops=flops, num_bytes=num_bytes),
            link_bytes_per_s=(
                _NVLINK_BYTES_PER_S if name in ("A100-80G", "H100") else _PCIE_BYTES_PER_S
            ),
        )
        for name in NAMES
    ]
    return RentProblem(
        prices=tuple(offer.kind.price_per_hour for offer in offers),
        available=available,
        demand=tuple(share * NUM_REQUESTS for share in MIXES[mix]),
        budget_per_hour=budget_per_hour,
        configurations=replicas_of(LLAMA_31_70B, offers, TYPES),
    )


def compare(problem: RentProblem, *, seconds: float) -> dict[str, float]:
    """Makespans in seconds: ours, its bound, and the baselines; infinite where one cannot serve."""

    def budget() -> Budget:
        return Budget(seconds=seconds, clock=time.monotonic)

    baselines = {
        "one type": homogeneous,
        "uniform composition": uniform_composition,
        "uniform deployment": uniform_deployment,
    }
    plans: dict[str, RentPlan] = {}
    for name, baseline in baselines.items():
        with suppress(Infeasible):
            plans[name] = baseline(problem, budget())
    start = plans.get("uniform deployment")
    plan = best_rent(problem, budget(), start=start)
    found = {"ours": plan.makespan_s, "bound": plan.bound_s}
    for name in baselines:
        found[name] = plans[name].makespan_s if name in plans else float("inf")
    found["uniform assignment"] = uniform_assignment(problem, plan).makespan_s
    return found


def _print_row(title: str, found: dict[str, float]) -> None:
    ours = found.pop("ours")
    bound = found.pop("bound")
    gains = "  ".join(
        f"{name} " + (f"{seconds / ours - 1:+6.1%}" if isfinite(seconds) else "cannot serve")
        for name, seconds in found.items()
    )
    print(f"{title:26} ours {ours:7.1f} s (gap {1 - bound / ours:5.1%})  gain over: {gains}")


def main() -> None:
    """Print the worked example and the settings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each plan")
    parser.add_argument("--sweep", action="store_true", help="efficiencies 20 %% up and down")
    options = parser.parse_args()
    worked = best_rent(WORKED)
    print(f"worked example: published {PUBLISHED_WORKED_S} s, ours {worked.makespan_s:.3f} s")
    print(f"  with replicas {worked.replicas}; proven within {worked.gap:.1e}")
    print(f"published gain over one type at one budget: {PUBLISHED_GAIN}")
    for mix in MIXES:
        for dollars in (15.0, 30.0):
            problem = cloud_problem(mix, budget_per_hour=dollars)
            found = compare(problem, seconds=options.seconds)
            _print_row(f"{mix} {dollars:.0f} $/h", found)
    if options.sweep:
        for flops, num_bytes in ((0.8, 1.0), (1.2, 1.0), (1.0, 0.8), (1.0, 1.2)):
            problem = cloud_problem("T1", flops=flops, num_bytes=num_bytes)
            found = compare(problem, seconds=options.seconds)
            _print_row(f"T1 flops x{flops} bytes x{num_bytes}", found)


if __name__ == "__main__":
    main()
