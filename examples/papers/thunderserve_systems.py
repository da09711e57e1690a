"""The ways of serving that are compared on ThunderServe's scenarios, and how each is measured.

A *system* says, for a problem with a rate and latencies to keep, which phases pipelines have and
where each request goes. What it attains is computed by `phase_queue` on seeded Poisson arrivals.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from examples.papers.phase_queue import PhaseQueue, Request, attainment, drawn_requests
from examples.papers.thunderserve_scenarios import Scenario, with_phases
from scheduling.goal import Goal
from scheduling.phases.bound import Phases
from scheduling.phases.choice import attained, choose_phases, colocation
from scheduling.phases.table import PhaseTable, table_of
from scheduling.phases.transfer import KvTransport
from scheduling.placement import Placement
from scheduling.solvers.interface import Problem

WELL = 0.9
"""The part of requests in time that counts as serving a rate."""
_STEPS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A scenario's pipelines, in what form KV travels between them, and how long to look.

    Attributes:
        scenario: cluster and requests.
        placement: pipelines; their phases do not count.
        transport: of KV.
        num_requests: in each run.
        seeds: of the runs, whose mean counts.
    """

    scenario: Scenario
    placement: Placement
    transport: KvTransport
    num_requests: int = 300
    seeds: tuple[int, ...] = (0, 1)

    def table(self, goal: Goal, rate: float) -> PhaseTable:
        """What phases can do for it, by the planner's estimate."""
        return table_of(
            self.scenario.problem(goal, rate=rate), self.placement, transport=self.transport
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What a system decided.

    Attributes:
        phases: of each pipeline.
        ends: pairs that requests go to.
        shares: part of the requests of each, in proportion.
        is_chunked: whether prompts are computed in chunks beside answers.
        estimate: the part of requests in time that the planner expects; None if it says nothing.
    """

    phases: Phases
    ends: tuple[tuple[int, int], ...]
    shares: tuple[float, ...]
    is_chunked: bool = True
    estimate: float | None = None


System = Callable[[Deployment, Goal, float], Chosen]


def ours(deployment: Deployment, goal: Goal, rate: float) -> Chosen:
    """Phases by search, requests by the transportation problem."""
    choice = choose_phases(deployment.table(goal, rate))
    return _routed(deployment, goal, rate, choice.phases)


def colocated(deployment: Deployment, goal: Goal, rate: float) -> Chosen:
    """All pipelines serve both phases, prompts in chunks; requests by the linear program."""
    return _routed(deployment, goal, rate, colocation(deployment.table(goal, rate)))


def whole_prompts(deployment: Deployment, goal: Goal, rate: float) -> Chosen:
    """The same, but prompts are computed whole and first, while nobody decodes."""
    return replace(colocated(deployment, goal, rate), is_chunked=False, estimate=None)


def round_robin(deployment: Deployment, goal: Goal, rate: float) -> Chosen:
    """Our phases, with requests dealt evenly to prefill pipelines and evenly to decode ones."""
    chosen = ours(deployment, goal, rate)
    number = {phase: chosen.phases.count(phase) for phase in ("both", "prefill", "decode")}
    ends = [(i, i) for i, phase in enumerate(chosen.phases) if phase == "both"]
    shares = [1.0] * len(ends)
    for i, phase in enumerate(chosen.phases):
        for j, other in enumerate(chosen.phases):
            if (phase, other) == ("prefill", "decode"):
                ends.append((i, j))
                shares.append(1.0 / number["decode"])
    return replace(chosen, ends=tuple(ends), shares=tuple(shares), estimate=None)


def parted(phases: Phases) -> System:
    """The system that has given phases always."""

    def chosen(deployment: Deployment, goal: Goal, rate: float) -> Chosen:
        return _routed(deployment, goal, rate, phases)

    return chosen


SYSTEMS: dict[str, System] = {
    "whole prompts": whole_prompts,
    "colocated": colocated,
    "round robin": round_robin,
    "ours": ours,
}


def runs_of(deployment: Deployment, goal: Goal, rate: float, chosen: Chosen) -> list[list[Request]]:
    """Each seed's requests, served."""
    problem = deployment.scenario.problem(goal, rate=rate)
    placement = with_phases(deployment.placement, chosen.phases)
    return [_run(deployment, problem, placement, chosen, seed) for seed in deployment.seeds]


def attained_by(deployment: Deployment, goal: Goal, rate: float, chosen: Chosen) -> float:
    """Part of the requests in time, as the mean over seeds."""
    if not chosen.ends:
        return 0.0
    assert goal.ttft_s is not None
    assert goal.tpot_s is not None
    runs = runs_of(deployment, goal, rate, chosen)
    return float(np.mean([attainment(run, goal.ttft_s, goal.tpot_s) for run in runs]))


def goodput(deployment: Deployment, goal: Goal, system: System, *, most: float) -> float:
    """The highest rate of requests, up to some, at which `WELL` of them are in time.

    By bisection, to within 2 % of the most.
    """
    low, high = 0.0, most
    for _ in range(_STEPS):
        rate = (low + high) / 2
        served = attained_by(deployment, goal, rate, system(deployment, goal, rate))
        low, high = (rate, high) if served >= WELL else (low, rate)
    return low


def saturated_tokens_per_s(deployment: Deployment, goal: Goal, chosen: Chosen) -> float:
    """Tokens of prompts and answers a second where all requests come at once."""
    totals = []
    for run in runs_of(deployment, goal, 1e6, chosen):
        tokens = sum(request.prompt + request.output for request in run)
        totals.append(tokens / max(request.done_s for request in run))
    return float(np.mean(totals))


def _routed(deployment: Deployment, goal: Goal, rate: float, phases: Phases) -> Chosen:
    routing = attained(deployment.table(goal, rate), phases)
    return Chosen(
        phases=phases,
        ends=tuple((route.prefill, route.decode) for route in routing.routes),
        shares=tuple(route.share for route in routing.routes),
        estimate=routing.attainment,
    )


def _run(
    deployment: Deployment, problem: Problem, placement: Placement, chosen: Chosen, seed: int
) -> list[Request]:
    rate = problem.workload.rate
    assert rate is not None
    requests = drawn_requests(problem.workload, deployment.num_requests, rate=rate, seed=seed)
    queue = PhaseQueue(
        problem, placement, transport=deployment.transport, is_chunked=chosen.is_chunked
    )
    dealer = _Dealer(chosen)
    for _ in queue.run(requests, lambda _: dealer.next()):
        pass
    return requests


class _Dealer:
    """Deals requests out by shares, as evenly as whole requests go."""

    def __init__(self, chosen: Chosen) -> None:
        total = sum(chosen.shares)
        self._ends, self._shares = chosen.ends, [share / total for share in chosen.shares]
        self._owed = [0.0] * len(self._ends)

    def next(self) -> tuple[int, int]:
        """The pair that is owed most."""
        self._owed = [o + s for o, s in zip(self._owed, self._shares, strict=True)]
        most = max(range(len(self._owed)), key=self._owed.__getitem__)
        self._owed[most] -= 1.0
        return self._ends[most]
