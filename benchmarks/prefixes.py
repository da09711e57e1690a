"""Time to the first token where requests begin with the same system prompt, shared or not.

    python -m benchmarks.prefixes
    python -m benchmarks.prefixes --common 512 --own 32 --rounds 40

Two services of one model stand side by side, one with `serving.prefix_sharing` and one without it.
In each round both get the same prompt, one after the other, whoever goes first in turns: the common
tokens, and a few of its own. The ratio is the median of the rounds' own ratios, so that a slow
moment hits both sides of it. The first prompts, which put the beginning there, are not counted.
"""

import argparse
import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.load import Target, send_burst
from benchmarks.machine import describe_machine
from benchmarks.prompts import make_prompts
from benchmarks.service import get_json, running_service

VOCAB = 256
"""Ids that every model has; of the demo model, bytes."""
NUM_WARM_UP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Tokens that all prompts have in common, tokens of each one's own, and how many rounds."""

    common: int
    own: int
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Seconds to the first token of one prompt."""

    shared_s: float
    alone_s: float

    @property
    def ratio(self) -> float:
        """The sharing service's time by the other's."""
        return self.shared_s / self.alone_s


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    options = _parser().parse_args(arguments)
    wish = Wish(common=options.common, own=options.own, rounds=options.rounds)
    with ExitStack() as running:
        shared, alone = (
            running.enter_context(running_service(*_arguments(options, is_on=is_on)))
            for is_on in (True, False)
        )
        rounds = asyncio.run(measure(wish, *(_target(url, options) for url in (shared, alone))))
        found = get_json(f"{shared}/admin/status")["prefix"]
    Console().print(table_of(wish, rounds, found["hits"] / max(1, found["queries"])))
    Console().print(describe_machine())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.prefixes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", default="demo", help="a checkpoint (default: the demo model)")
    add("--stages", type=int, default=2, help="stages of each pipeline (default 2)")
    add("--common", type=int, default=512, help="tokens that prompts have in common (default 512)")
    add("--own", type=int, default=16, help="tokens of each prompt's own (default 16)")
    add("--rounds", type=int, default=30, help="prompts (default 30)")
    return parser


def _arguments(options: argparse.Namespace, *, is_on: bool) -> list[str]:
    num_blocks = 8 * -(-(options.common + options.own) // 16)
    return [
        *("--model", options.model, "--stages", str(options.stages)),
        *("--set", f"serving.prefix_sharing={'true' if is_on else 'false'}"),
        *("--set", f"kv.num_blocks={max(256, num_blocks)}"),
        *("--set", "cluster.spares=0"),
    ]


def _target(url: str, options: argparse.Namespace) -> Target:
    return Target(url=url, model=options.model, new=1, vocab=VOCAB)


async def measure(wish: Wish, shared: Target, alone: Target) -> list[Round]:
    """Both services' times, prompt by prompt."""
    rounds = []
    for number, prompt in enumerate(prompts_of(wish)):
        is_even = number % 2 == 0
        first, second = (shared, alone) if is_even else (alone, shared)
        times = [(await send_burst(target, [prompt])).first_s[0] for target in (first, second)]
        shared_s, alone_s = times if is_even else reversed(times)
        rounds.append(Round(shared_s=shared_s, alone_s=alone_s))
    return rounds[NUM_WARM_UP:]


def prompts_of(wish: Wish) -> list[list[int]]:
    """Prompts with the same beginning and an end of their own, those of the warm-up first."""
    [common] = make_prompts(1, wish.common, VOCAB, 0)
    own = make_prompts(NUM_WARM_UP + wish.rounds, wish.own, VOCAB, 1)
    return [[*common, *end] for end in own]


def table_of(wish: Wish, rounds: Sequence[Round], found: float) -> Table:
    """The medians, their ratio with its spread, and the share of tokens that was found."""
    title = f"time to first token, {wish.common} tokens in common and {wish.own} of its own"
    table = Table(title=title, box=None)
    for heading in ("sharing, ms", "not sharing, ms", "ratio", "of the rounds", "tokens found"):
        table.add_column(heading, justify="right")
    ratios = [round_.ratio for round_ in rounds]
    table.add_row(
        f"{1e3 * median(round_.shared_s for round_ in rounds):.1f}",
        f"{1e3 * median(round_.alone_s for round_ in rounds):.1f}",
        f"{median(ratios):.3f}×",
        f"{min(ratios):.3f}–{max(ratios):.3f}",
        f"{found:.1%}",
    )
    return table


if __name__ == "__main__":
    main()
