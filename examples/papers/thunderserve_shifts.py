"""Requests that become others: how soon phases are chosen anew, and what a service makes of it.

Choosing is timed as it is, on 32 GPUs beside a full plan. Following is simulated, by the service's
own coordinator, in virtual time.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

from rich.console import RenderableType

from examples.papers.thunderserve_effort import Effort
from examples.papers.thunderserve_runs import Run, Served, Setting, Then
from examples.papers.thunderserve_scenarios import KINDS, pool_of_32
from examples.papers.thunderserve_workers import Serve
from runtime.simulation.times import attainment
from scheduling.goal import Goal
from scheduling.phases.choice import choose_phases
from scheduling.phases.table import table_of
from scheduling.phases.transfer import KvTransport
from scheduling.placement import Phase  # noqa: TC001  of a local variable
from scheduling.planner import plan
from scheduling.solvers.interface import Budget

PUBLISHED_FLIP_S, PUBLISHED_PLAN_S = 13.0, 157.0
SHIFT_TARGETS = 3.0, 0.1
"""Seconds to the first token and a token after it that are to be kept."""


async def flips(effort: Effort, serve: Serve, _: Path | None) -> AsyncIterator[RenderableType]:
    """How long flipping takes beside planning anew, and what it keeps, on 32 GPUs."""
    for old, new in (KINDS, KINDS[::-1]):
        yield await asyncio.to_thread(_chosen_anew, old, new, effort.plan_s)


def _chosen_anew(old: str, new: str, plan_s: float) -> str:
    goal = Goal(measure="slo", ttft_s=6.0, tpot_s=0.3)
    # what serves was planned for the load before, with the same latencies to keep
    before = pool_of_32(old).problem(goal, rate=3.0)
    served = plan(before, budget=Budget(seconds=plan_s, clock=time.monotonic)).solution.placement
    problem = pool_of_32(new).problem(goal, rate=3.0)
    start = time.perf_counter()
    table = table_of(problem, served, transport=KvTransport.of_bits(4))
    choice = choose_phases(table)
    flip_s = time.perf_counter() - start
    start = time.perf_counter()
    anew = plan(problem, budget=Budget(seconds=plan_s, clock=time.monotonic))
    took_s = time.perf_counter() - start
    other = table_of(problem, anew.solution.placement, transport=KvTransport.of_bits(4))
    return (
        f"{old} to {new}, {table.num_pipelines} pipelines: choosing flips {flip_s:.3f} s, a full "
        f"plan {took_s:.1f} s ({took_s / flip_s:.0f}x; published "
        f"{PUBLISHED_PLAN_S / PUBLISHED_FLIP_S:.0f}x); estimated in time "
        f"{choice.attainment:.1%} against {choose_phases(other).attainment:.1%}, all together "
        f"{choice.colocated:.1%}"
    )


async def shift(effort: Effort, serve: Serve, _: Path | None) -> AsyncIterator[RenderableType]:
    """Conversation becomes code while four equal pipelines serve: phases stay, or follow."""
    both: Phase = "both"
    for ttft_s, tpot_s in ((0.0, 0.0), SHIFT_TARGETS):
        run = Run(
            setting=Setting(kind="conversation", cluster="equal", num=4),
            phases=(both,) * 4,
            kv="int4",
            rate=2.0,
            num_requests=effort.num_shifting,
            then=Then(kind="code", rate=3.0, ttft_s=ttft_s, tpot_s=tpot_s),
        )
        yield _told_of_shift(await serve(run), follows=ttft_s > 0)


def _told_of_shift(served: Served, *, follows: bool) -> str:
    times, half = served.times, len(served.times) // 2
    thirds = [half + part * (len(times) - half) // 3 for part in range(4)]
    spans = [(0, half), *pairwise(thirds)]
    before, *after = (f"{attainment(times[a:b], *SHIFT_TARGETS):.1%}" for a, b in spans)
    flips = [flip for flip in served.flips if "ready serves" in flip.told]
    line = (
        f"phases {'follow' if follows else 'stay'}: in time before the change {before}, in the "
        f"thirds after it {', '.join(after)}; {served.num_handed_off} handed off"
    )
    if not flips:
        return f"{line}; no flip"
    begun_s = min(flip.at_s for flip in served.flips)
    return (
        f"{line}; first flip {begun_s - times[half].at_s:.0f} s after the change, all within "
        f"{flips[-1].at_s - begun_s:.2f} s, where coming up anew takes {served.up_s:.0f} s: "
        + ", ".join(flip.told for flip in flips)
    )
