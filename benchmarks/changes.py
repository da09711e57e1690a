"""What streams see of a change of their pipeline: a new split under load, or a stage killed.

    python -m benchmarks.changes swap
    python -m benchmarks.changes kill --rounds 3

A service of two stages streams sixteen greedy completions of prompts of 128 tokens. In each round
all have their first token, run undisturbed for a while, and then the service is changed under them:

swap: one layer goes from the first stage to the second by `POST /admin/plan`, back in the next
round. kill: the second stage's process gets `kill -9`, and a spare takes its place. That status
shows the loss is seen by asking it again and again, so it is a little late.

A gap is the time between two pieces of a stream. Steady gaps are those between all streams' first
token and the change; the longest gap is any with a part between the order (or the kill) and two
seconds after it was answered (or status showed the pipeline mended). The streams' text is compared
with that of a round without a change. Two such rounds are made and compared as well: greedy tokens
of a random model can have ties that rounding decides, and a difference there is not the change's.
Progress goes to standard error, the tables to standard output.
"""

import argparse
import asyncio
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.changes_rounds import Disturbed, Plan, Results, measure_kills, measure_swaps
from benchmarks.checkpoint import VOCAB_SIZE, bench_checkpoint
from benchmarks.load import Target
from benchmarks.machine import describe_machine
from benchmarks.service import get_json, running_service

MAX_GAP_RATIO = 2.0
MAX_PAUSE_STEPS = 2.0
MAX_RECOMPUTED = 0.6
DEMO_VOCAB_SIZE = 2048
QUICK = {"concurrency": 4, "prompt": 24, "new": 250, "steady": 0.5, "tail": 0.3, "rounds": 2}
FULL = {"concurrency": 16, "prompt": 128, "new": 256, "steady": 5.0, "tail": 2.0, "rounds": 4}


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the tables."""
    options = read_options(arguments)
    console = Console()
    model = str(options.model or ("demo" if options.quick else bench_checkpoint()))
    with running_service("--model", model, *_launch_arguments(options)) as url:
        measure = measure_swaps if options.what == "swap" else measure_kills
        results = asyncio.run(measure(url, _plan(options, url)))
    console.print(gap_table(results, has_targets=options.what == "swap"))
    console.print(parts_table(results))
    console.print(f"tokens against an undisturbed round: {token_verdict(results)}")
    foreign_cores = max(round_.foreign_cores for round_ in results.rounds)
    console.print(f"{describe_machine()}; others used at most {foreign_cores:.2f} cores")


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    """What was asked for, `--quick` filled in."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.changes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("what", choices=("swap", "kill"), help="which change")
    add("--rounds", type=int, help="changes; the swap goes there and back (default 4)")
    add("--concurrency", type=int, help="streams at a time (default 16)")
    add("--prompt", type=int, help="tokens of each prompt (default 128)")
    add("--new", type=int, help="tokens generated for each; must outlast a round (default 256)")
    add("--steady", type=float, metavar="S", help="seconds before each change (default 5)")
    add("--tail", type=float, metavar="S", help="seconds after it that still count (default 2)")
    add("--model", type=Path, help="a checkpoint (default: a random Llama made for this)")
    add("--layers", default="", help="layers to begin with, as 0:7,7:12 (default: as measured)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="more settings for it")
    add("--quick", action="store_true", help="the demo model and few tokens: only to try it out")
    options = parser.parse_args(arguments)
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def _launch_arguments(options: argparse.Namespace) -> list[str]:
    split = ["--layers", options.layers] if options.layers else ["--stages", "2"]
    settings = [f"cluster.spares={int(options.what == 'kill')}", *options.set]
    return [*split, *(part for setting in settings for part in ("--set", setting))]


def _plan(options: argparse.Namespace, url: str) -> Plan:
    name = get_json(f"{url}/v1/models")["data"][0]["id"]
    vocab = DEMO_VOCAB_SIZE if options.quick and not options.model else VOCAB_SIZE
    return Plan(
        target=Target(url=url, model=name, new=options.new, vocab=vocab),
        concurrency=options.concurrency,
        prompt=options.prompt,
        rounds=options.rounds,
        steady_s=options.steady,
        tail_s=options.tail,
    )


def gap_table(results: Results, *, has_targets: bool) -> Table:
    """Gaps and pauses beside those of a steady stream: every round, the median and the worst."""
    table = Table(title="between two tokens, steady and around a change, ms", box=None)
    table.add_column("round")
    for heading in (
        "p50", "p99", "max", "longest", "÷ p99", "pause", "÷ p50", "answer",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for round_ in results.rounds:
        table.add_row(round_.what, *_cells(round_))
    gaps = [round_.gap_ratio for round_ in results.rounds]
    steps = [round_.pause_steps for round_ in results.rounds]
    for name, of in (("median", median), ("worst", max)):
        table.add_row(name, *[""] * 4, f"{of(gaps):.2f}×", "", f"{of(steps):.2f}×", "")
    if has_targets:
        gap = verdict(max(gaps), MAX_GAP_RATIO, "×")
        pause = verdict(max(steps), MAX_PAUSE_STEPS, "×")
        table.add_row("target", *[""] * 4, gap, "", pause, "")
    return table


def _cells(round_: Disturbed) -> list[str]:
    steady = round_.steady
    times = (steady.p50_s, steady.p99_s, steady.max_s, round_.longest_s)
    return [
        *(_ms(seconds) for seconds in times),
        f"{round_.gap_ratio:.2f}×",
        _ms(round_.change.pause_s),
        f"{round_.pause_steps:.2f}×",
        _ms(round_.to_ready_s),
    ]


def parts_table(results: Results) -> Table:
    """What each part of the changes took and moved, median and worst."""
    table = Table(title="parts of a change", box=None)
    table.add_column("part")
    for heading in ("median ms", "worst ms", "MB"):
        table.add_column(heading, justify="right")
    if any(round_.to_notice_s for round_ in results.rounds):
        table.add_row("kill until seen", *_spread([r.to_notice_s for r in results.rounds]), "")
        noticed = [r.change.noticed_s for r in results.rounds]
        table.add_row("first news until begun", *_spread(noticed), "")
    for name in dict.fromkeys(p.name for r in results.rounds for p in r.change.phases):
        seconds = [r.change.seconds(name) for r in results.rounds]
        moved = max(p.bytes for r in results.rounds for p in r.change.phases if p.name == name)
        table.add_row(name, *_spread(seconds), f"{moved / 1e6:.2f}" if moved else "")
    recomputed = max(r.change.recomputed for r in results.rounds)
    if recomputed:
        told = verdict(recomputed, MAX_RECOMPUTED)
        table.add_row(f"recomputed, of whole prefills: {recomputed:.2f} {told}")
    return table


def _spread(seconds: list[float]) -> list[str]:
    return [_ms(median(seconds)), _ms(max(seconds))]


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"


def verdict(found: float, at_most: float, unit: str = "") -> str:
    """Whether a target is met, in words."""
    return f"≤ {at_most:g}{unit} {'met' if found <= at_most else 'missed'}"


def token_verdict(results: Results) -> str:
    """What the worst round's streams said otherwise, and what two undisturbed ones did."""
    worst = max((round_.differences for round_ in results.rounds), key=lambda found: found.total)
    preempted = sum(round_.change.num_preempted for round_ in results.rounds)
    return (
        f"worst round {worst}, target 0 {'missed' if worst.total else 'met'}; "
        f"without a change {results.control}; {preempted} preempted"
    )


if __name__ == "__main__":
    main()
