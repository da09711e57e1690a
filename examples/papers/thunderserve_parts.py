"""ThunderServe's comparisons, each as tables: which runs it takes, and what is read off them.

Latencies count in multiples of those of a mean request that is alone.
"""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from rich.console import RenderableType
from rich.table import Table

from examples.papers.thunderserve_effort import Effort, Part
from examples.papers.thunderserve_judged import Judged, all_of, judged, table_of
from examples.papers.thunderserve_plot import Curve, save_curves
from examples.papers.thunderserve_runs import Setting
from examples.papers.thunderserve_scenarios import GBPS, KINDS, means
from examples.papers.thunderserve_shifts import flips, shift
from examples.papers.thunderserve_systems import (
    SYSTEMS,
    Deployment,
    Latencies,
    System,
    alone,
    colocated,
    ours,
    parted,
)
from examples.papers.thunderserve_workers import Serve
from scheduling.kv_transport import Encoding
from scheduling.phases.bound import Phases

PUBLISHED_TOKENS = {"together": 1610.0, "40 Gbps": 3292.0, "5 Gbps": 2196.0}
TOGETHER: Phases = ("both", "both", "both")
APART: Phases = ("prefill", "prefill", "decode")
"""The paper's roles: A40 have the arithmetic, 3090Ti the bandwidth."""
ENCODINGS: tuple[Encoding, ...] = ("none", "int4")


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
        found = await all_of(
            judged(deployment, system, rate, effort.scales, latencies, serve)
            for _, deployment, system in rows
            for rate in rates
        )
        yield table_of(f"{kind} on 4 A40 and 4 3090Ti", [row[0] for row in rows], rates, found)
        yield _tokens(rates[-1], [row[0] for row in rows], found[len(rates) - 1 :: len(rates)])


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
        found = await all_of(
            judged(deployment, system, rate, effort.scales, latencies, serve)
            for system in systems.values()
            for rate in rates
        )
        yield table_of(f"{kind} on {num} equal pipelines", list(systems), rates, found)
        for at, rate in enumerate(rates):
            split_found = dict(zip(systems, found[at :: len(rates)], strict=True))
            best = min(list(split_found)[: num - 1], key=lambda name: split_found[name].well_at)
            yield f"best split of {kind} at {rate:g} requests/s: {best}"


def _split(givers: int, num: int) -> Phases:
    return tuple("prefill" if i < givers else "decode" for i in range(num))


async def curves(effort: Effort, serve: Serve, plot: Path | None) -> AsyncIterator[RenderableType]:
    """Part of the requests in time against the scale of latencies, for each system."""
    found, off = [], []
    for kind in KINDS:
        deployment, rate = effort.deployment(Setting(kind=kind)), effort.rates[kind][:2][-1]
        latencies = await alone(deployment.setting, serve)
        drawn = await all_of(
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
    served = await all_of(serve(each.run) for each in chosen)
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
        found = await all_of(
            judged(effort.deployment(setting), system, rate, effort.scales, latencies, serve)
            for setting in settings
            for system in systems.values()
        )
        names = [
            f"arithmetic x{flops:g}, bandwidth x{num_bytes:g}: {name}"
            for flops, num_bytes in constants
            for name in systems
        ]
        yield table_of(f"{kind}, constants a fifth up and down", names, (rate,), found)


PARTS: dict[str, Part] = {
    "machines": machines,
    "split": split,
    "flips": flips,
    "shift": shift,
    "curves": curves,
    "sweep": sweep,
}
