"""What it costs to be ready for a loss: throughput with what recovery needs, beside without it.

    python -m benchmarks.overhead
    python -m benchmarks.overhead --rounds 8

Ready is how a service starts by default: every stage logs the hidden states it gives out, so that a
lost neighbour's KV can be computed again, and one spare worker stands by. Bare has neither
(`--set kv.replay_log_bytes=0 --set cluster.spares=0`). The journal cannot be turned off and is kept
by both; it is written when the plan changes, not when a token is made.

Only one service is up at a time: each round starts either, lets it come to rest (a spare that
starts uses a core), warms it up, and runs a few bursts of streamed requests over HTTP. Who goes
first alternates. A round's rate is the median of its bursts; the cost is the median, over the
rounds, of what the ready one lacks of the bare one's rate.
"""

import argparse
import asyncio
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.checkpoint import bench_checkpoint
from benchmarks.machine import describe_machine, machine_time
from benchmarks.orders import wait_quiet
from benchmarks.systems import Burst, Remuda

MAX_COST = 0.03
BARE = ("kv.replay_log_bytes=0", "cluster.spares=0")
READY = ("cluster.spares=1",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Output tokens per second of both, and the cores that others used at most."""

    ready: float
    bare: float
    foreign_cores: float

    @property
    def ratio(self) -> float:
        """The ready one's rate by the bare one's."""
        return self.ready / self.bare


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What to run: so many bursts a round."""

    model: str
    layers: str
    burst: Burst
    bursts: int
    rounds: int


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the table."""
    rounds = measure(_wish(_parser().parse_args(arguments)))
    console = Console()
    console.print(table_of(rounds))
    foreign_cores = max(round_.foreign_cores for round_ in rounds)
    console.print(f"{describe_machine()}; others used at most {foreign_cores:.2f} cores")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="starts of each service (default 5)")
    add("--bursts", type=int, default=3, help="bursts of each start (default 3)")
    add("--concurrency", type=int, default=16, help="requests of a burst (default 16)")
    add("--prompt", type=int, default=128, help="tokens of each prompt (default 128)")
    add("--new", type=int, default=64, help="tokens generated for each (default 64)")
    add("--model", type=Path, help="a checkpoint (default: a random Llama made for this)")
    add("--layers", default="0:7,7:12", help="layers, the same for both (default 0:7,7:12)")
    add("--quick", action="store_true", help="one round of one small burst: only to try it out")
    return parser


def _wish(options: argparse.Namespace) -> Wish:
    quick = options.quick
    return Wish(
        model=str(options.model or bench_checkpoint()),
        layers=options.layers,
        burst=Burst(
            count=4 if quick else options.concurrency,
            length=16 if quick else options.prompt,
            new=8 if quick else options.new,
            seed=0,
        ),
        bursts=1 if quick else options.bursts,
        rounds=1 if quick else options.rounds,
    )


def measure(wish: Wish) -> list[Round]:
    """The rates of both services, round by round."""
    rounds = []
    for number in range(wish.rounds):
        order = ("ready", "bare") if number % 2 == 0 else ("bare", "ready")
        rates, foreign_cores = {}, 0.0
        for which in order:
            rates[which], foreign = _one_service(wish, READY if which == "ready" else BARE)
            foreign_cores = max(foreign_cores, foreign)
        rounds.append(Round(ready=rates["ready"], bare=rates["bare"], foreign_cores=foreign_cores))
        sys.stderr.write(
            f"round {number + 1}: ready {rounds[-1].ready:.1f}, bare {rounds[-1].bare:.1f} "
            f"tokens/s, others used {foreign_cores:.2f} cores\n"
        )
    return rounds


def _one_service(wish: Wish, settings: tuple[str, ...]) -> tuple[float, float]:
    """The median rate of a fresh service, and what others used of the machine meanwhile."""
    sets = [part for setting in settings for part in ("--set", setting)]
    with Remuda(wish.model, ["--layers", wish.layers, *sets]) as service:
        asyncio.run(wait_quiet())
        service.run(wish.burst)  # memory is touched for the first time
        before = machine_time()
        rates = [service.run(replace(wish.burst, seed=n + 1)) for n in range(wish.bursts)]
        return median(rates), machine_time().foreign_cores_since(before)


def table_of(rounds: list[Round]) -> Table:
    """Both rates and their ratio round by round, the median with its spread, and the target."""
    table = Table(title="output tokens/s, end to end", box=None)
    table.add_column("round")
    for heading in ("log and spare", "neither", "ratio", "others' cores"):
        table.add_column(heading, justify="right")
    for number, round_ in enumerate(rounds, 1):
        rates = (f"{round_.ready:.1f}", f"{round_.bare:.1f}", f"{round_.ratio:.3f}×")
        table.add_row(str(number), *rates, f"{round_.foreign_cores:.2f}")
    ratios = [round_.ratio for round_ in rounds]
    ratio = median(ratios)
    table.add_row("median", "", "", f"{ratio:.3f}×", "")
    table.add_row("spread", "", "", f"{min(ratios):.3f}–{max(ratios):.3f}", "")
    is_met = ratio >= 1 - MAX_COST
    table.add_row("cost", "", "", f"{1 - ratio:.1%}, ≤ {MAX_COST:.0%} {_word(is_met)}", "")
    return table


def _word(is_met: bool) -> str:
    return "met" if is_met else "missed"


if __name__ == "__main__":
    main()
