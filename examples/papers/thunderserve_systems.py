"""The ways of serving that are compared on ThunderServe's set-ups, and how each is judged.

A *system* says, for a rate of requests and latencies to keep, which phases pipelines have and who
picks them. One run tells its requests' times, and of any latencies afterwards who was in time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import msgspec

from examples.papers.thunderserve_runs import Run, Served, Setting
from examples.papers.thunderserve_scenarios import LIMITS
from examples.papers.thunderserve_workers import Serve
from runtime.simulation.times import RequestTimes, attainment
from scheduling.goal import Goal
from scheduling.kv_transport import Encoding, KvLayout, wire_ratio
from scheduling.phases.bound import Phases
from scheduling.phases.choice import attained, choose_phases, colocation
from scheduling.phases.table import PhaseTable, table_of
from scheduling.phases.transfer import KvTransport
from scheduling.placement import Phase  # noqa: TC001  of a local variable

WELL = 0.9
"""The part of requests in time that counts as serving them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """Of a mean request alone, on the pipeline that is best at each; seconds."""

    ttft_s: float
    tpot_s: float

    def goal(self, scale: float) -> Goal:
        """So many times these."""
        return Goal(measure="slo", ttft_s=scale * self.ttft_s, tpot_s=scale * self.tpot_s)

    def part(self, served: Served, scale: float) -> float:
        """The part of requests that kept so many times these."""
        return attainment(served.times, scale * self.ttft_s, scale * self.tpot_s)

    def least_scale(self, served: Served) -> float:
        """How many times these have to be allowed for `WELL` of the requests to be in time."""
        scales = sorted(self._scale(each) for each in served.times)
        return scales[min(len(scales) - 1, -int(-WELL * len(scales) // 1) - 1)]

    def _scale(self, times: RequestTimes) -> float:
        assert times.ttft_s is not None
        return max(times.ttft_s / self.ttft_s, (times.tpot_s or 0.0) / self.tpot_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A set-up, in what form KV travels between its pipelines, and how much of it is looked at."""

    setting: Setting
    kv: Encoding = "int4"
    num_requests: int = 200
    seed: int = 0

    def table(self, goal: Goal, rate: float) -> PhaseTable:
        """What phases can do for it, by the planner's estimate, as a service asks for it."""
        scenario, placement = self.setting.made()
        problem = scenario.problem(goal, rate=rate)
        layout = KvLayout(
            block_tokens=LIMITS.block_tokens,
            head_dim=problem.shape.head_dim,
            itemsize=problem.shape.dtype_bytes,
        )
        transport = KvTransport(ratio=wire_ratio(self.kv, layout), overlaps=True)
        return table_of(problem, placement, transport=transport)

    def run(self, phases: Phases, rate: float, routing: str = "predicted") -> Run:
        """The simulation of some phases at a rate.

        Where all serve both nothing goes over the line, and one run tells for all of them.
        """
        is_apart = set(phases) != {"both"}
        usual = msgspec.structs.replace(self.setting, line=Setting(kind="").line)
        return Run(
            setting=self.setting if is_apart else usual,
            phases=phases,
            kv=self.kv if is_apart else "none",
            routing=routing,
            rate=rate,
            num_requests=self.num_requests,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What a system decided.

    Attributes:
        run: its simulation.
        estimate: the part of requests in time that the planner expects; None if it says nothing.
    """

    run: Run
    estimate: float | None = None


System = Callable[[Deployment, Goal, float], Chosen]


def ours(deployment: Deployment, goal: Goal, rate: float) -> Chosen:
    """Phases by the planner's choice for the latencies, pipelines by the service's router."""
    choice = choose_phases(deployment.table(goal, rate))
    return Chosen(run=deployment.run(choice.phases, rate), estimate=choice.attainment)


def colocated(deployment: Deployment, goal: Goal, rate: float) -> Chosen:
    """All pipelines serve both phases."""
    table = deployment.table(goal, rate)
    phases = colocation(table)
    estimate = attained(table, phases).attainment
    return Chosen(run=deployment.run(phases, rate), estimate=estimate)


def round_robin(deployment: Deployment, goal: Goal, rate: float) -> Chosen:
    """Our phases, with requests dealt in turn to those who begin them and to those who go on."""
    phases = choose_phases(deployment.table(goal, rate)).phases
    return Chosen(run=deployment.run(phases, rate, "round-robin"))


def parted(phases: Phases) -> System:
    """The system that has given phases always."""

    def chosen(deployment: Deployment, goal: Goal, rate: float) -> Chosen:
        estimate = attained(deployment.table(goal, rate), phases).attainment
        return Chosen(run=deployment.run(phases, rate), estimate=estimate)

    return chosen


SYSTEMS: dict[str, System] = {"colocated": colocated, "round robin": round_robin, "ours": ours}


async def alone(setting: Setting, serve: Serve) -> Latencies:
    """The latencies of a mean request that is alone, by simulation."""
    both: Phase = "both"
    phases = (both,) * len(setting.made()[1].pipelines)
    found = await serve(Run(setting=setting, phases=phases, is_alone=True))
    ttfts = [each.ttft_s for each in found.times if each.ttft_s is not None]
    tpots = [each.tpot_s for each in found.times if each.tpot_s is not None]
    return Latencies(ttft_s=min(ttfts), tpot_s=min(tpots))


async def least_scale(
    deployment: Deployment,
    system: System,
    rate: float,
    scales: Sequence[float],
    latencies: Latencies,
    serve: Serve,
) -> float:
    """The least scale at which a system, which knows it, serves `WELL` in time.

    What it decides is asked at some scales, and holds up to the next of them; infinite beyond.
    """
    for scale, after in zip(scales, (*scales[1:], inf), strict=True):
        chosen = system(deployment, latencies.goal(scale), rate)
        least = max(
            scale if scale > scales[0] else 0.0, latencies.least_scale(await serve(chosen.run))
        )
        if least < after:
            return least
    return inf
