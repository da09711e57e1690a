"""ThunderServe's comparisons, each as tables: which runs it takes, and what is read off them.

The one idea: who is in time is asked of a run's times afterwards. Latencies count in multiples of
those of a mean request that is alone. Of a system three figures are told at each load: the part of
requests in time at tight and at loose latencies, and the multiple at which 90 % are.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from rich.console import RenderableType
from rich.table import Table

from examples.papers.thunderserve_plot import Curve, save_curves
from examples.papers.thunderserve_runs import Run, Served, Setting, Then
from examples.papers.thunderserve_scenarios import GBPS, KINDS, means, pool_of_32
from examples.papers.thunderserve_systems import (
    SYSTEMS,
    WELL,
    Deployment,
    Latencies,
    System,
    alone,
    colocated,
    least_scale,
    ours,
    parted,
)
from examples.papers.thunderserve_workers import Serve
from runtime.simulation.times import attainment
from scheduling.goal import Goal
from scheduling.kv_transport import Encoding
from scheduling.phases.bound import Phases
from scheduling.phases.choice import choose_phases
from scheduling.phases.table import table_of
from scheduling.phases.transfer import KvTransport
from scheduling.placement import Phase  # noqa: TC001  of a local variable
from scheduling.planner import plan
from scheduling.solvers.interface import Budget

_T = TypeVar("_T")

PUBLISHED_TOKENS = {"together": 1610.0, "40 Gbps": 3292.0, "5 Gbps": 2196.0}
PUBLISHED_FLIP_S, PUBLISHED_PLAN_S = 13.0, 157.0
APART: Phases = ("prefill", "prefill", "decode")
"""The paper's roles: A40 have the arithmetic, 3090Ti the bandwidth."""
TIGHT, LOOSE = 2.5, 8.0
SHIFT_TARGETS = 3.0, 0.1
ENCODINGS: tuple[Encoding, ...] = ("none", "int4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is computed.

    Attributes:
        num_requests: in each run.
        scales: multiples of the latencies of a request alone.
        rates: requests a second on the two machines; the last is more than they serve.
        split_rates: on equal pipelines.
        num_equal: of those.
        num_shifting: requests of a run whose load changes.
        plan_s: for a full plan.
    """

    num_requests: int = 120
    scales: tuple[float, ...] = (1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
    rates: dict[str, tuple[float, ...]]
    split_rates: dict[str, tuple[float, ...]]
    num_equal: int = 6
    num_shifting: int = 400
    plan_s: float = 10.0

    def deployment(self, setting: Setting, kv: Encoding = "int4") -> Deployment:
        """A deployment that is looked at so long."""
        return Deployment(setting=setting, kv=kv, num_requests=self.num_requests)


EFFORT = Effort(
    rates={"conversation": (0.5, 1.0, 4.0), "code": (0.75, 1.5, 6.0)},
    split_rates={"conversation": (4.0, 8.0), "code": (3.0, 6.0)},
)
QUICK = Effort(
    num_requests=12,
    scales=(2.0, 8.0),
    rates={"conversation": (1.0,), "code": (1.5,)},
    split_rates={"conversation": (4.0,), "code": (3.0,)},
    num_equal=3,
    num_shifting=16,
    plan_s=0.5,
)
Part = Callable[[Effort, Serve, Path | None], AsyncIterator[RenderableType]]


async def machines(effort: Effort, serve: Serve, _: Path | None) -> AsyncIterator[RenderableType]:
    """The paper's eight GPUs: apart against together, over a fast and a slow line."""
    for kind in KINDS:
        rates, setting = effort.rates[kind], Setting(kind=kind)
        latencies = await alone(setting, serve)
        yield (
            f"{kind}: {means(setting.made()[0].workload)}; alone {latencies.ttft_s:.2f} s to the "
            f"first token and {1000 * latencies.tpot_s:.0f} ms a token after it"
        )
        rows: list[tuple[str, Deployment, System]] = [
            ("together", effort.deployment(setting), colocated)
        ]
        for line in GBPS:
            for kv in ENCODINGS:
                deployment = effort.deployment(Setting(kind=kind, line=line), kv)
                rows.append((f"apart, {line}, {kv}", deployment, parted(APART)))
            rows.append((f"ours, {line}, {kv}", deployment, ours))
        judged = await _all(
            _judged(deployment, system, rate, effort.scales, latencies, serve)
            for _, deployment, system in rows
            for rate in rates
        )
        yield _table(f"{kind} on 4 A40 and 4 3090Ti", [row[0] for row in rows], rates, judged)
        yield _tokens(rates[-1], [row[0] for row in rows], judged[len(rates) - 1 :: len(rates)])


def _tokens(rate: float, names: Sequence[str], judged: Sequence["Judged"]) -> str:
    """Tokens a second at a load of more than is served, as ratios beside the published ones."""
    base, told = judged[0].tokens_per_s, list[str]()
    for name, each in zip(names, judged, strict=True):
        if not name.startswith("ours"):
            line = next((line for line in GBPS if f", {line}" in name), "together")
            published = PUBLISHED_TOKENS[line] / PUBLISHED_TOKENS["together"]
            ratio = f"{each.tokens_per_s / base:.2f}x, published {published:.2f}x"
            told.append(f"{name} {each.tokens_per_s:.0f} ({ratio})")
    return f"tokens of prompts and answers a second at {rate:g} requests/s: " + "; ".join(told)


async def split(effort: Effort, serve: Serve, _: Path | None) -> AsyncIterator[RenderableType]:
    """Of equal pipelines, how many for prompts and how many for answers."""
    num = effort.num_equal
    for kind in KINDS:
        deployment = effort.deployment(Setting(kind=kind, cluster="equal", num=num))
        latencies, rates = await alone(deployment.setting, serve), effort.split_rates[kind]
        systems: dict[str, System] = {
            f"{givers}:{num - givers}": parted(_split(givers, num)) for givers in range(1, num)
        }
        systems |= {"together": colocated, "ours": ours}
        judged = await _all(
            _judged(deployment, system, rate, effort.scales, latencies, serve)
            for system in systems.values()
            for rate in rates
        )
        yield _table(f"{kind} on {num} equal pipelines", list(systems), rates, judged)
        for at, rate in enumerate(rates):
            found = dict(zip(systems, judged[at :: len(rates)], strict=True))
            best = min(list(found)[: num - 1], key=lambda name: found[name].well_at)
            yield f"best split of {kind} at {rate:g} requests/s: {best}"


def _split(givers: int, num: int) -> Phases:
    return tuple("prefill" if i < givers else "decode" for i in range(num))


async def curves(effort: Effort, serve: Serve, plot: Path | None) -> AsyncIterator[RenderableType]:
    """Part of the requests in time against the scale of latencies, for each system."""
    found, off = [], []
    for kind in KINDS:
        deployment, rate = effort.deployment(Setting(kind=kind)), effort.rates[kind][:2][-1]
        latencies = await alone(deployment.setting, serve)
        drawn = await _all(
            _curve(f"{kind}, {rate:g} requests/s", name, system, deployment, rate, latencies,
                   effort.scales, serve)
            for name, system in SYSTEMS.items()
        )  # fmt: skip
        table = Table(f"{drawn[0].panel}: % in time", box=None)
        for scale in effort.scales:
            table.add_column(f"{scale:g}x", justify="right")
        for curve in drawn:
            table.add_row(curve.name, *(f"{100 * part:.1f}" for part in curve.parts))
            pairs = zip(curve.parts, curve.estimates, strict=True)
            off += [abs(part - estimate) for part, estimate in pairs if estimate is not None]
        found += drawn
        yield table
    yield f"the planner's estimate is off by {100 * sum(off) / len(off):.1f} % of the requests"
    if plot is not None:
        save_curves(found, plot)
        yield f"drawn in {plot}"


async def _curve(
    panel: str,
    name: str,
    system: System,
    deployment: Deployment,
    rate: float,
    latencies: Latencies,
    scales: tuple[float, ...],
    serve: Serve,
) -> Curve:
    chosen = [system(deployment, latencies.goal(scale), rate) for scale in scales]
    served = await _all(serve(each.run) for each in chosen)
    pairs = zip(served, scales, strict=True)
    return Curve(
        panel=panel,
        name=name,
        scales=scales,
        parts=tuple(latencies.part(each, scale) for each, scale in pairs),
        estimates=tuple(each.estimate for each in chosen),
    )


async def sweep(effort: Effort, serve: Serve, _: Path | None) -> AsyncIterator[RenderableType]:
    """The same with the constants a fifth up and down."""
    constants = ((1.0, 1.0), (0.8, 1.0), (1.2, 1.0), (1.0, 0.8), (1.0, 1.2))
    systems: dict[str, System] = {"together": colocated, "apart": parted(APART), "ours": ours}
    for kind in KINDS:
        latencies = await alone(Setting(kind=kind), serve)
        rate = effort.rates[kind][:2][-1]
        settings = [Setting(kind=kind, flops=f, num_bytes=b) for f, b in constants]
        judged = await _all(
            _judged(effort.deployment(setting), system, rate, effort.scales, latencies, serve)
            for setting in settings
            for system in systems.values()
        )
        names = [
            f"arithmetic x{flops:g}, bandwidth x{num_bytes:g}: {name}"
            for flops, num_bytes in constants
            for name in systems
        ]
        yield _table(f"{kind}, constants a fifth up and down", names, (rate,), judged)


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


PARTS: dict[str, Part] = {
    "machines": machines,
    "split": split,
    "flips": flips,
    "shift": shift,
    "curves": curves,
    "sweep": sweep,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A system at a load.

    Attributes:
        parts: of the requests in time at `TIGHT` and at `LOOSE`.
        well_at: the least scale at which `WELL` of them are; infinite beyond those looked at.
        phases: at `TIGHT`.
        tokens_per_s: of prompts and answers.
    """

    parts: tuple[float, float]
    well_at: float
    phases: Phases
    tokens_per_s: float


async def _judged(
    deployment: Deployment,
    system: System,
    rate: float,
    scales: tuple[float, ...],
    latencies: Latencies,
    serve: Serve,
) -> Judged:
    chosen = [system(deployment, latencies.goal(scale), rate) for scale in (TIGHT, LOOSE)]
    tight, loose = await _all(serve(each.run) for each in chosen)
    return Judged(
        parts=(latencies.part(tight, TIGHT), latencies.part(loose, LOOSE)),
        well_at=await least_scale(deployment, system, rate, scales, latencies, serve),
        phases=chosen[0].run.phases,
        tokens_per_s=tight.tokens_per_s,
    )


def _table(
    title: str, names: Sequence[str], rates: Sequence[float], judged: Sequence[Judged]
) -> Table:
    """A row a system; three figures for each rate."""
    told = f"{title}: % in time at {TIGHT:g}x, at {LOOSE:g}x, {WELL:.0%} at, phases at {TIGHT:g}x"
    table = Table(told, box=None)
    for rate in rates:
        table.add_column(f"{rate:g}/s", justify="right")
    for at, name in enumerate(names):
        row = judged[at * len(rates) : (at + 1) * len(rates)]
        table.add_row(name, *(_cell(each) for each in row))
    return table


def _cell(judged: Judged) -> str:
    tight, loose = judged.parts
    letters = "".join(phase[0] for phase in judged.phases)
    return f"{100 * tight:.0f} {100 * loose:.0f} {judged.well_at:.3g}x {letters}"


async def _all(coroutines: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    async with asyncio.TaskGroup() as tasks:
        begun = [tasks.create_task(each) for each in coroutines]
    return [task.result() for task in begun]
