"""Many streams at once: held for a while, and offered beyond what a service can do.

`python -m benchmarks.streams_load hold` keeps 500 streams of the demo model open for two minutes:
no stream may fail, memory must not grow, and all must be served alike. `… overload` first measures
what the service does at full load, then offers half of that, once, twice and four times as much, in
requests that come by chance: what comes whole must not become less where more is offered.
"""

import argparse
import asyncio
import importlib
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.clients import Tally, hold, offer
from benchmarks.fairness import growth, jain, spread
from benchmarks.load import Target
from benchmarks.residents import Residents, residents_of
from benchmarks.service import get_json, running_service

SAMPLE_S = 1.0
BLOCKS_OF_A_STREAM = 6
REPLAY_LOG_BYTES = 32 << 20
FACTORS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
MIN_JAIN = 0.95
MAX_GROWTH = 0.05
MAX_LOSS = 0.15
"""Of goodput, between offering all that the service can do and offering more: chance included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """One point of the overload curve; rates in requests and tokens per second."""

    factor: float
    offered_per_s: float
    whole_per_s: float
    goodput_tokens_per_s: float
    refused_per_s: float
    num_errors: int
    first_median_s: float


def service_arguments(stages: int, max_running: int, max_waiting: int) -> list[str]:
    """A service with places for so many.

    Memory that fills up once, of KV blocks and of the replay log, is given a bound that is reached
    early: what grows after that would grow for ever.
    """
    return [
        *("--model", "demo", "--stages", str(stages)),
        *("--set", f"serving.max_running={max_running}"),
        *("--set", f"serving.max_waiting={max_waiting}"),
        *("--set", f"kv.num_blocks={max_running * BLOCKS_OF_A_STREAM}"),
        *("--set", f"kv.replay_log_bytes={REPLAY_LOG_BYTES}"),
        *("--set", "cluster.spares=0"),
    ]


async def held(
    url: str, num_streams: int, seconds: float, new: int
) -> tuple[list[Tally], Residents]:
    """Hold streams open, and look at memory meanwhile."""
    residents = residents_of(url)
    async with asyncio.TaskGroup() as group:
        sampling = group.create_task(residents.keep_sampling(SAMPLE_S))
        tallies = await hold(Target(url=url, model="demo", new=new), num_streams, seconds)
        sampling.cancel()
    return tallies, residents


def report_of_hold(
    tallies: Sequence[Tally], residents: Residents, seconds: float
) -> dict[str, Any]:
    """The figures, plain enough for JSON."""
    tokens = [tally.num_tokens for tally in tallies]
    firsts = [first for tally in tallies for first in tally.first_s]
    return {
        "streams": len(tallies),
        "seconds": seconds,
        "tokens_per_s": sum(tokens) / seconds,
        "tokens_of_a_stream": asdict(spread(tokens)),
        "jain": jain(tokens),
        "first_token_s": asdict(spread(firsts or [0.0])),
        "whole": sum(tally.outcomes["whole"] for tally in tallies),
        "refused": sum(tally.outcomes["refused"] for tally in tallies),
        "errors": sum(tally.num_errors for tally in tallies),
        "memory": {
            name: {"last_bytes": found[-1], "growth": growth(found)}
            for name, found in residents.samples.items()
        },
    }


def faults_of_hold(report: dict[str, Any]) -> list[str]:
    """What is not as it should be."""
    found = [
        f"{name} grew by {memory['growth']:.1%} in the second half"
        for name, memory in report["memory"].items()
        if memory["growth"] > MAX_GROWTH
    ]
    if report["errors"] or report["refused"]:
        found.append(f"{report['errors']} streams failed, {report['refused']} were refused")
    if report["jain"] < MIN_JAIN:
        found.append(f"Jain's index is {report['jain']:.3f}, below {MIN_JAIN}")
    return found


async def overload(url: str, seconds: float, new: int, places: int, seed: int) -> list[Offered]:
    """The curve: goodput by what is offered."""
    target = Target(url=url, model="demo", new=new)
    full = await hold(target, places, seconds)
    capacity = sum(tally.whole_tokens for tally in full) / seconds / new
    rng, points = random.Random(seed), []
    for factor in FACTORS:
        tally = await offer(target, max(capacity * factor, 0.1), seconds, rng)
        points.append(_point(factor, tally, seconds))
        await _until_idle(url)
    return points


def _point(factor: float, tally: Tally, seconds: float) -> Offered:
    return Offered(
        factor=factor,
        offered_per_s=tally.num_offered / seconds,
        whole_per_s=tally.outcomes["whole"] / seconds,
        goodput_tokens_per_s=tally.whole_tokens / seconds,
        refused_per_s=tally.outcomes["refused"] / seconds,
        num_errors=tally.num_errors,
        first_median_s=spread(tally.first_s or [0.0]).middle,
    )


async def _until_idle(url: str) -> None:
    """Wait until nothing is left of the requests before."""
    async with asyncio.timeout(60):
        while get_json(f"{url}/admin/requests")["requests"]:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.1)


def faults_of_overload(points: Sequence[Offered]) -> list[str]:
    """What is not as it should be: past capacity, more asked for may not mean less done."""
    found = [f"{p.num_errors} errors at {p.factor:g}x" for p in points if p.num_errors]
    past = [point for point in points if point.factor >= 1]
    for before, after in pairwise(past):
        floor = (1 - MAX_LOSS) * before.goodput_tokens_per_s
        if after.goodput_tokens_per_s < floor:
            found.append(
                f"goodput fell from {before.goodput_tokens_per_s:.0f} tokens/s at "
                f"{before.factor:g}x to {after.goodput_tokens_per_s:.0f} at {after.factor:g}x"
            )
    return found


def draw(points: Sequence[Offered], path: Path) -> None:
    """The curve as a picture; its ending, svg or png, says of which kind.

    Raises:
        SystemExit: matplotlib, of the extra `plot`, is not installed.
    """
    try:
        figure_module = importlib.import_module("matplotlib.figure")
    except ModuleNotFoundError:
        raise SystemExit("--plot: matplotlib is needed: pip install 'remuda[plot]'") from None
    figure = figure_module.Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    offered = [point.offered_per_s for point in points]
    axes.plot(offered, [p.whole_per_s for p in points], marker="o", label="whole")
    axes.plot(offered, [p.refused_per_s for p in points], marker="s", label="refused (429)")
    axes.plot(offered, offered, linestyle=":", color="grey", label="offered")
    axes.set(xlabel="requests offered per second", ylabel="requests per second", ylim=(0, None))
    axes.legend()
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one of the two; 1 where something is not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams_load", description=__doc__)
    parser.add_argument("what", choices=["hold", "overload"])
    parser.add_argument("--streams", type=int, default=500, help="held open (default 500)")
    parser.add_argument("--seconds", type=float, default=120.0, help="of hold, or of each point")
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64, help="of an answer (default 64)")
    parser.add_argument("--places", type=int, default=32, help="requests at work, in overload")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--plot", type=Path, help="draw the curve of overload: FILE.svg or .png")
    options = parser.parse_args(arguments)
    report, faults = _hold(options) if options.what == "hold" else _overload(options)
    text = json.dumps(report, indent=1)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)
    print("\n".join(f"not as it should be: {fault}" for fault in faults) or "all as it should be")
    return 1 if faults else 0


def _hold(options: argparse.Namespace) -> tuple[Any, list[str]]:
    arguments = service_arguments(options.stages, options.streams, 64)
    with running_service(*arguments) as url:
        tallies, residents = asyncio.run(
            held(url, options.streams, options.seconds, options.tokens)
        )
    report = report_of_hold(tallies, residents, options.seconds)
    return report, faults_of_hold(report)


def _overload(options: argparse.Namespace) -> tuple[Any, list[str]]:
    arguments = service_arguments(options.stages, options.places, options.places)
    with running_service(*arguments) as url:
        points = asyncio.run(
            overload(url, options.seconds, options.tokens, options.places, options.seed)
        )
    if options.plot is not None:
        draw(points, options.plot)
    return [asdict(point) for point in points], faults_of_overload(points)


if __name__ == "__main__":
    sys.exit(main())
