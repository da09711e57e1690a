"""Phases apart or together: ThunderServe's comparisons (arXiv 2502.09334) on our cost model.

    python -m examples.papers.thunderserve [--part split ...] [--plot FILE.svg] [--short]

Published: 1,610 tokens/s not disaggregated, 3,292 disaggregated over 40 Gbit/s, 2,196 with the plan
for 5 Gbit/s; throughput up to 2.1 times and 1.7 in the mean at latencies that are kept; flips in 13
s where a full plan takes 157 s. What is in time is computed by `phase_queue` on seeded Poisson
arrivals, not by the planner's own estimate, which stands beside it. Where we differ: fixed roles on
the eight GPUs serve less than all together here, since all answers would then decode in the little
memory that four 3090Ti have beside the weights; parting gains where latencies are tight. Rates are
a roofline's, so ratios can be compared and no absolute figures.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from examples.papers.phase_queue import PhaseQueue, Request
from examples.papers.thunderserve_plot import Curve, save_curves
from examples.papers.thunderserve_scenarios import (
    GBPS,
    KINDS,
    LIMITS,
    equal_pipelines,
    means,
    pool_of_32,
    replicas,
    two_machines,
)
from examples.papers.thunderserve_systems import (
    SYSTEMS,
    Chosen,
    Deployment,
    attained_by,
    colocated,
    goodput,
    ours,
    parted,
    saturated_tokens_per_s,
    whole_prompts,
)
from scheduling.goal import Goal
from scheduling.phases.bound import Phases
from scheduling.phases.choice import choose_phases, colocation
from scheduling.phases.table import table_of
from scheduling.phases.transfer import KvTransport
from scheduling.planner import plan
from scheduling.solvers.interface import Budget

PUBLISHED_TOKENS = {"colocated": 1610.0, "40 Gbps": 3292.0, "5 Gbps": 2196.0}
PUBLISHED_GAIN = "up to 2.1x, mean 1.7x"
PUBLISHED_FLIP_S, PUBLISHED_PLAN_S = 13.0, 157.0
APART: Phases = ("prefill", "prefill", "decode")
"""The paper's roles: A40 have the arithmetic, 3090Ti the bandwidth."""
SCALES = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
TIGHT, LOOSE = 2.5, 8.0
PARTS = ("machines", "split", "flips", "curves", "sweep")


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is computed; the defaults take some minutes.

    Attributes:
        num_requests: in each run.
        seeds: of the runs.
        scales: multiples of the latencies of a request alone.
        plan_s: for a full plan.
    """

    num_requests: int = 300
    seeds: tuple[int, ...] = (0,)
    scales: tuple[float, ...] = SCALES
    plan_s: float = 10.0

    def of(self, deployment: Deployment) -> Deployment:
        """A deployment that is looked at so long."""
        return replace(deployment, num_requests=self.num_requests, seeds=self.seeds)


SHORT = Effort(num_requests=40, seeds=(0,), scales=(2.0, 6.0), plan_s=0.5)


def scaled_goal(deployment: Deployment, scale: float) -> Goal:
    """So many times the latencies of a mean request that is alone on the fastest pipeline."""
    problem = deployment.scenario.problem()
    load = problem.workload
    found = []
    for number in range(len(deployment.placement.pipelines)):
        request = Request(round(load.mean_prompt), max(2, round(load.mean_output)), 0.0)
        for _ in PhaseQueue(problem, deployment.placement).run([request], _always(number)):
            pass
        found.append((request.ttft_s, request.tpot_s))
    ttft_s, tpot_s = min(ttft for ttft, _ in found), min(tpot for _, tpot in found)
    return Goal(measure="slo", ttft_s=scale * ttft_s, tpot_s=scale * tpot_s)


def _always(number: int) -> Callable[[int], tuple[int, int]]:
    return lambda _: (number, number)


def machines(kind: str, line: str, bits: int, effort: Effort, **scaled: float) -> Deployment:
    """The paper's eight GPUs."""
    scenario = two_machines(kind, line, **scaled)
    deployment = Deployment(
        scenario=scenario, placement=replicas(scenario), transport=KvTransport.of_bits(bits)
    )
    return effort.of(deployment)


def print_machines(effort: Effort) -> Iterator[str]:
    """Tokens/s with all requests at once, and the rate that is served in time, in ratios."""
    published = {line: PUBLISHED_TOKENS[line] / PUBLISHED_TOKENS["colocated"] for line in GBPS}
    for kind in KINDS:
        yield f"{kind}: {means(two_machines(kind, '40 Gbps').workload)}"
        for line in GBPS:
            for bits in (16, 4):
                deployment = machines(kind, line, bits, effort)
                goal = scaled_goal(deployment, LOOSE)
                full = [
                    saturated_tokens_per_s(deployment, goal, _all_to(deployment, system))
                    for system in ("whole", "chunked", "apart")
                ]
                yield (
                    f"  {line}, KV of {bits} bits: all at once {full[2]:.0f} tokens/s apart, "
                    f"{full[2] / full[0]:.2f}x of whole prompts, {full[2] / full[1]:.2f}x of chunks"
                    f" (published {published[line]:.2f}x)"
                )
                for scale in (TIGHT, LOOSE):
                    told = _rates_in_time(deployment, scaled_goal(deployment, scale))
                    yield f"    in time at {scale:g} times a request alone, requests/s: {told}"


def _rates_in_time(deployment: Deployment, goal: Goal) -> str:
    systems = {
        "whole": whole_prompts,
        "chunked": colocated,
        "apart": parted(APART),
        "ours": ours,
    }
    found = {name: goodput(deployment, goal, each, most=3.0) for name, each in systems.items()}
    return "  ".join(f"{name} {rate:.2f}" for name, rate in found.items())


def _all_to(deployment: Deployment, system: str) -> Chosen:
    """Who serves everything as fast as it can, shares by capacity."""
    table = deployment.table(Goal(), 1.0)
    if system == "apart":
        return Chosen(phases=APART, ends=((0, 2), (1, 2)), shares=tuple(table.prefill[:2]))
    ends = tuple((i, i) for i in range(table.num_pipelines))
    return Chosen(
        phases=colocation(table),
        ends=ends,
        shares=tuple(table.both.tolist()),
        is_chunked=system == "chunked",
    )


def print_split(effort: Effort) -> Iterator[str]:
    """Of equal pipelines, how many for prompts and how many for answers."""
    num = 6
    for kind in KINDS:
        for scale in (TIGHT, LOOSE):
            scenario, placement = equal_pipelines(kind, num)
            deployment = effort.of(
                Deployment(scenario=scenario, placement=placement, transport=KvTransport.of_bits(4))
            )
            goal = scaled_goal(deployment, scale)
            most = 2 * float(deployment.table(goal, 1.0).both.sum()) or 1.0
            rates = {
                givers: goodput(deployment, goal, parted(_split(givers, num)), most=most)
                for givers in range(1, num)
            }
            best = max(rates, key=rates.__getitem__)
            together = goodput(deployment, goal, colocated, most=most)
            rate = max(rates[best], together, 0.01)
            phases = ours(deployment, goal, rate).phases
            told = ", ".join(f"{g}:{num - g} {value:.2f}" for g, value in rates.items())
            yield (
                f"{kind} at {scale:g} times a request alone, requests/s in time: {told}; together "
                f"{together:.2f}; best apart {best}:{num - best}; ours at {rate:.2f}: "
                + " ".join(f"{phases.count(p)} {p}" for p in ("prefill", "decode", "both"))
            )


def _split(givers: int, num: int) -> Phases:
    return tuple("prefill" if i < givers else "decode" for i in range(num))


def print_flips(effort: Effort) -> Iterator[str]:
    """How long flipping takes beside planning anew, and what it keeps, on 32 GPUs."""
    for old, new in (KINDS, KINDS[::-1]):
        goal = Goal(measure="slo", ttft_s=6.0, tpot_s=0.3)
        budget = Budget(seconds=effort.plan_s, clock=time.monotonic)
        # what serves was planned for the load before, with the same latencies to keep
        served = plan(pool_of_32(old).problem(goal, rate=3.0), budget=budget).solution.placement
        problem = pool_of_32(new).problem(goal, rate=3.0)
        start = time.perf_counter()
        table = table_of(problem, served, transport=KvTransport.of_bits(4))
        choice = choose_phases(table)
        flip_s = time.perf_counter() - start
        start = time.perf_counter()
        anew = plan(problem, budget=Budget(seconds=effort.plan_s, clock=time.monotonic))
        plan_s = time.perf_counter() - start
        other = table_of(problem, anew.solution.placement, transport=KvTransport.of_bits(4))
        full = choose_phases(other)
        yield (
            f"{old} to {new}, {table.num_pipelines} pipelines: flips {flip_s:.3f} s, a full plan "
            f"{plan_s:.1f} s ({plan_s / flip_s:.0f}x; published "
            f"{PUBLISHED_PLAN_S / PUBLISHED_FLIP_S:.0f}x); estimated in time "
            f"{choice.attainment:.1%} against {full.attainment:.1%}, all together "
            f"{choice.colocated:.1%}"
        )


def curves_of(effort: Effort, rates: dict[str, float]) -> Iterator[Curve]:
    """Part of the requests in time against the scale of latencies, for each system."""
    for kind, rate in rates.items():
        deployment = machines(kind, "40 Gbps", 4, effort)
        goals = [scaled_goal(deployment, scale) for scale in effort.scales]
        for name, system in SYSTEMS.items():
            chosen = [system(deployment, goal, rate) for goal in goals]
            parts = [
                attained_by(deployment, goal, rate, each)
                for goal, each in zip(goals, chosen, strict=True)
            ]
            yield Curve(
                panel=f"{kind}, {rate:g} requests/s",
                name=name,
                scales=effort.scales,
                parts=tuple(parts),
                estimates=tuple(each.estimate for each in chosen),
            )


def print_curves(effort: Effort, plot: Path | None) -> Iterator[str]:
    """The curves as numbers and, where asked for, as a picture."""
    curves = []
    for curve in curves_of(effort, {"conversation": 1.0, "code": 1.5}):
        curves.append(curve)
        parts = " ".join(f"{part:6.1%}" for part in curve.parts)
        yield f"{curve.panel:30} {curve.name:14} {parts}"
    known = [
        abs(part - estimate)
        for curve in curves
        for part, estimate in zip(curve.parts, curve.estimates, strict=True)
        if estimate is not None
    ]
    off = sum(known) / len(known)
    yield f"scales {effort.scales}; the estimate is off by {off:.1%} of the requests in the mean"
    if plot is not None:
        save_curves(curves, plot)
        yield f"drawn in {plot}"


def print_sweep(effort: Effort) -> Iterator[str]:
    """Ratios with the constants a fifth up and down."""
    for kind in KINDS:
        for flops, num_bytes in ((1.0, 1.0), (0.8, 1.0), (1.2, 1.0), (1.0, 0.8), (1.0, 1.2)):
            deployment = machines(kind, "40 Gbps", 4, effort, flops=flops, num_bytes=num_bytes)
            goal = scaled_goal(machines(kind, "40 Gbps", 4, effort), 8.0)
            rates = [
                goodput(deployment, goal, system, most=3.0)
                for system in (whole_prompts, colocated, parted(APART), ours)
            ]
            yield (
                f"{kind} flops x{flops} bytes x{num_bytes}: ours {rates[3]:.2f} requests/s in time,"
                f" {rates[3] / max(rates[0], 1e-9):.2f}x of whole prompts, "
                f"{rates[3] / max(rates[1], 1e-9):.2f}x of chunks, apart {rates[2]:.2f}"
            )


def main() -> None:
    """Print what was asked for, a line when it is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, action="append", help="of the comparisons; all")
    parser.add_argument("--plot", type=Path, help="an .svg or .png of the curves")
    parser.add_argument("--requests", type=int, default=Effort().num_requests, help="in each run")
    parser.add_argument("--short", action="store_true", help="a look in seconds, of no weight")
    options = parser.parse_args()
    effort = SHORT if options.short else replace(Effort(), num_requests=options.requests)
    parts: dict[str, Callable[[], Iterator[str]]] = {
        "machines": lambda: print_machines(effort),
        "split": lambda: print_split(effort),
        "flips": lambda: print_flips(effort),
        "curves": lambda: print_curves(effort, options.plot),
        "sweep": lambda: print_sweep(effort),
    }
    print(f"pipelines hold {LIMITS.max_model_len} tokens; published gain {PUBLISHED_GAIN}")
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for part in options.part or PARTS:
            task = progress.add_task(part, total=None)
            for line in parts[part]():
                print(line, flush=True)
                progress.update(task, advance=1)
            progress.remove_task(task)


if __name__ == "__main__":
    main()
