"""How systems are judged on ThunderServe's set-ups, and the tables that tell of it.

The one idea: of a system three figures are told at each load, all of them read off its runs' times:
the part of requests in time at tight and at loose latencies, and the multiple at which 90 % are.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rich.table import Table

from examples.papers.thunderserve_systems import WELL, Deployment, Latencies, System, least_scale
from examples.papers.thunderserve_workers import Serve
from scheduling.phases.bound import Phases

_T = TypeVar("_T")

TIGHT, LOOSE = 2.5, 8.0


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


async def judged(
    deployment: Deployment,
    system: System,
    rate: float,
    scales: tuple[float, ...],
    latencies: Latencies,
    serve: Serve,
) -> Judged:
    """A system at a load, by as many runs as it decides differently at these scales."""
    chosen = [system(deployment, latencies.goal(scale), rate) for scale in (TIGHT, LOOSE)]
    tight, loose = await all_of(serve(each.run) for each in chosen)
    return Judged(
        parts=(latencies.part(tight, TIGHT), latencies.part(loose, LOOSE)),
        well_at=await least_scale(deployment, system, rate, scales, latencies, serve),
        phases=chosen[0].run.phases,
        tokens_per_s=tight.tokens_per_s,
    )


def table_of(
    title: str, names: Sequence[str], rates: Sequence[float], found: Sequence[Judged]
) -> Table:
    """A row a system; three figures and the phases at `TIGHT` for each rate."""
    told = f"{title}: % in time at {TIGHT:g}x, at {LOOSE:g}x, {WELL:.0%} at, phases at {TIGHT:g}x"
    table = Table(told, box=None)
    for rate in rates:
        table.add_column(f"{rate:g}/s", justify="right")
    for at, name in enumerate(names):
        row = found[at * len(rates) : (at + 1) * len(rates)]
        table.add_row(name, *(_cell(each) for each in row))
    return table


def _cell(found: Judged) -> str:
    tight, loose = found.parts
    letters = "".join(phase[0] for phase in found.phases)
    return f"{100 * tight:.0f} {100 * loose:.0f} {found.well_at:.3g}x {letters}"


async def all_of(coroutines: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Side by side, as many as there are workers."""
    async with asyncio.TaskGroup() as tasks:
        begun = [tasks.create_task(each) for each in coroutines]
    return [task.result() for task in begun]
