"""Phases apart or together: ThunderServe's comparisons (arXiv 2502.09334) in our own simulator.

    python -m examples.papers.thunderserve [--part split ...] [--plot FILE.svg] [--quick]

Published: 1,610 tokens/s not disaggregated, 3,292 disaggregated over 40 Gbit/s, 2,196 with the plan
for 5 Gbit/s; latencies up to 2.5 times as tight, 1.5 times in the mean; flips in 13 s where a full
plan takes 157 s. Every figure here but the time that a choice takes is of `runtime.simulate`'s real
coordinator, router and pipelines, on devices and links that are emulated: one run for each system
and load, by whose requests' times all latencies are judged afterwards. Times are a roofline's, so
that ratios can be compared and no absolute figures.
"""

import argparse
import asyncio
import os
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from examples.papers.thunderserve_effort import EFFORT, QUICK
from examples.papers.thunderserve_parts import PARTS
from examples.papers.thunderserve_plot import check_plot
from examples.papers.thunderserve_workers import working

WIDTH = 130


def main(arguments: list[str] | None = None) -> None:
    """Print what was asked for, each part when it is known."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.plot:
        if "curves" not in (options.part or PARTS):
            parser.error(f"--plot draws the part curves, got {', '.join(options.part)}; add it")
        try:
            check_plot(options.plot)
        except ValueError as error:
            parser.error(str(error))
    asyncio.run(_main(options))


async def _main(options: argparse.Namespace) -> None:
    console = Console(width=WIDTH, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed} runs"))
    bar = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
    with bar:
        task = bar.add_task("simulating", total=None)
        async with working(options.jobs, lambda: bar.advance(task)) as workers:
            effort = QUICK if options.quick else EFFORT
            for name in options.part or PARTS:
                bar.update(task, description=name)
                async for shown in PARTS[name](effort, workers.serve, options.plot):
                    console.print(shown)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.papers.thunderserve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="of the comparisons; all")
    parser.add_argument("--plot", type=Path, help="the curves, as .svg or .png")
    parser.add_argument("--quick", action="store_true", help="few requests: a look, of no weight")
    parser.add_argument("--jobs", type=_count, default=_cores(), help="runs at a time (all cores)")
    return parser


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return value


if __name__ == "__main__":
    main()
