"""Runs schedules by their seeds: one in full view, or as many as fit into some minutes.

python -m tests.simulation.run --seed 7 --verbose
python -m tests.simulation.run --seeds 0:100000 --minutes 30
python -m tests.simulation.run --phased --seeds 0:60
"""

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.simulation.play import Outcome, play
from tests.simulation.schedules import Schedule, schedule_of

_console = Console(soft_wrap=True, highlight=False, markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; 1 if a schedule failed."""
    options = _parser().parse_args(arguments)
    if options.verbose:
        logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(name)s %(message)s")
    else:
        logging.getLogger().addHandler(logging.NullHandler())
    if options.seed is not None:
        return _one(options.seed, is_cut=options.cut, phased=options.phased)
    start, end = (int(part) for part in options.seeds.split(":"))
    return _many(range(start, end), options.minutes, phased=options.phased)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.run", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="run one schedule and print it")
    which.add_argument("--seeds", metavar="A:B", help="run these, as long as there is time")
    parser.add_argument("--minutes", type=float, default=1e9, help="how long for (default: all)")
    parser.add_argument("--phased", action="store_true", help="pipelines serve phases apart")
    parser.add_argument("--verbose", action="store_true", help="print the log as well")
    parser.add_argument("--cut", action="store_true", help="cut a failing schedule down")
    return parser


def _one(seed: int, *, is_cut: bool, phased: bool) -> int:
    schedule = schedule_of(seed, phased=phased)
    if is_cut:
        schedule = cut_down(schedule)
    outcome = play(schedule)
    _console.print(str(schedule))
    _console.print("\n".join(["", *outcome.trace, "", *outcome.problems]))
    _console.print(summary([outcome]))
    return bool(outcome.problems)


def _many(seeds: range, minutes: float, *, phased: bool) -> int:
    over_at = time.monotonic() + 60 * minutes
    outcomes = []
    with _progress() as progress:
        bar = progress.add_task("schedules", total=len(seeds), num_failed=0)
        for seed in seeds:
            if time.monotonic() >= over_at:
                break
            outcomes.append(outcome := play(schedule_of(seed, phased=phased)))
            if outcome.problems:
                progress.console.print(failure(outcome), markup=False, highlight=False)
            failed = sum(bool(outcome.problems) for outcome in outcomes)
            progress.update(bar, advance=1, num_failed=failed)
    _console.print(summary(outcomes))
    return any(outcome.problems for outcome in outcomes)


def _progress() -> Progress:
    failed = TextColumn("{task.fields[num_failed]} failed")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), failed)
    return Progress(*columns, TimeElapsedColumn(), console=_console)


def failure(outcome: Outcome) -> str:
    """What is wrong, and how to see it again."""
    return "\n".join([f"seed {outcome.schedule.seed}: {outcome.replay}", *outcome.problems])


def summary(outcomes: Sequence[Outcome]) -> str:
    """How many schedules ran, how many of them counted, and how requests ended."""
    ends = sum((outcome.ends for outcome in outcomes), Counter[str]())
    num_counted = sum(outcome.counts for outcome in outcomes)
    failed = [str(outcome.schedule.seed) for outcome in outcomes if outcome.problems]
    kinds = Counter(fault.what for outcome in outcomes for fault in outcome.schedule.faults)
    return (
        f"{len(outcomes)} schedules, {num_counted} of them with 4 or more requests under way at "
        f"every fault, {len(failed)} failed: {' '.join(failed) or 'none'}\n"
        f"requests: {_counts(ends)}\nfaults: {_counts(kinds)}; "
        f"changes made: {sum(outcome.num_done for outcome in outcomes)}; "
        f"requests handed off: {sum(outcome.num_handed_off for outcome in outcomes)}; "
        f"prompt tokens found: {sum(outcome.num_shared for outcome in outcomes)}; "
        f"blocks found at takers: {sum(outcome.num_present for outcome in outcomes)}"
    )


def _counts(counted: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counted.most_common())


def cut_down(schedule: Schedule) -> Schedule:
    """The schedule without whatever it fails without."""
    size = max(1, len(schedule.events) // 2)
    while True:
        for first in range(0, len(schedule.events), size):
            rest = schedule.events[:first] + schedule.events[first + size :]
            shorter = replace(schedule, events=rest)
            if play(shorter).problems:
                schedule = shorter
                break
        else:
            if size == 1:
                return schedule
            size //= 2


if __name__ == "__main__":
    sys.exit(main())
