"""What streams see of pipelines that change phases under load.

    python -m benchmarks.phases_flip

A service of two pipelines, one for prefill and one for decode, has a number of clients, each
of which sends its next request when its last has ended, so that hand-offs go on all the time. In
every round they run undisturbed for a while; then the pipelines swap their phases by one
`POST /admin/flip`. A stream without its end is lost. Steady gaps are those between two tokens of a
stream before the flip, hand-offs among them; the longest gap is any with a part between the order
and two seconds after its answer, and beside it stands the longest of as long a time before. The
flip is done when status shows the new phases.
"""

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.gaps import Steady, longest_gap, steady_gaps
from benchmarks.load import Target
from benchmarks.machine import describe_machine, machine_time
from benchmarks.orders import ORDER_TIMEOUT_S, get_status
from benchmarks.prompts import make_prompts
from benchmarks.service import get_json, running_service
from benchmarks.streams import Stream, open_session, open_streams

MAX_GAP_RATIO = 2.0
MAX_FLIP_S = 1.0
TAIL_S = 2.0
DEMO_VOCAB_SIZE = 2048
SERVICE = """
[[pipelines]]
phase = "prefill"
stages = [{ node = "local", layers = "0:12" }]

[[pipelines]]
phase = "decode"
stages = [{ node = "local", layers = "0:12" }]
"""
PHASES = ({"0": "decode", "1": "prefill"}, {"0": "prefill", "1": "decode"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """One round: gaps before and around the flip in seconds, and what it took until it showed.

    `longest_before_s` is of as long a time without a flip as `longest_s` is of one with it.
    """

    steady: Steady
    longest_before_s: float
    longest_s: float
    shown_s: float
    foreign_cores: float

    @property
    def gap_ratio(self) -> float:
        """The longest gap by the steady p99."""
        return self.longest_s / self.steady.p99_s


class Clients:
    """Clients that have one stream each, again and again, until they are told to end."""

    def __init__(self, target: Target, prompts: list[list[int]]) -> None:
        self._target, self._prompts = target, itertools.cycle(prompts)
        self._is_over = False
        self.streams: list[Stream] = []

    async def run(self) -> None:
        """One client."""
        while not self._is_over:
            async with open_streams(self._target, [next(self._prompts)]) as found:
                self.streams += found.all

    def end(self) -> None:
        """Let every client's stream be its last."""
        self._is_over = True

    @property
    def times(self) -> list[list[float]]:
        """When the pieces of each stream came."""
        return [stream.times for stream in self.streams]

    @property
    def num_lost(self) -> int:
        """Streams without their end, once all are over."""
        return sum(not stream.is_whole for stream in self.streams)


def main(arguments: list[str] | None = None) -> int:
    """Measure; 0 if no stream was lost, and gaps and flips are within their targets."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "service.toml"
        config.write_text(SERVICE, encoding="utf-8")
        with running_service(str(config), "--model", options.model) as url:
            flips, clients, num_handed_off = asyncio.run(measure(url, options))
    Console(width=100).print(table_of(flips))
    gaps, shown = max(flip.gap_ratio for flip in flips), max(flip.shown_s for flip in flips)
    checks = (
        (f"streams lost: {clients.num_lost} of {len(clients.streams)}", clients.num_lost == 0),
        (f"requests handed off: {num_handed_off}", num_handed_off > 0),
        (f"longest gap: {gaps:.2f}x p99, target {MAX_GAP_RATIO:g}x", gaps <= MAX_GAP_RATIO),
        (f"flip: {shown * 1000:.0f} ms, target {MAX_FLIP_S:g} s", shown <= MAX_FLIP_S),
    )
    for told, is_met in checks:
        sys.stdout.write(f"{told} {'ok' if is_met else 'MISSED'}\n")
    others = max(flip.foreign_cores for flip in flips)
    sys.stdout.write(f"{describe_machine()}; others used at most {others:.2f} cores\n")
    return int(not all(is_met for _, is_met in checks))


async def measure(url: str, options: argparse.Namespace) -> tuple[list[Flip], Clients, int]:
    """Flip there and back under load; the rounds, what the clients had, how many hand-offs."""
    name = get_json(f"{url}/v1/models")["data"][0]["id"]
    target = Target(url=url, model=name, new=options.new, vocab=DEMO_VOCAB_SIZE)
    async with asyncio.TaskGroup() as running:
        clients = Clients(target, make_prompts(256, options.prompt, target.vocab))
        for _ in range(options.concurrency):
            running.create_task(clients.run())
        await asyncio.sleep(options.steady)  # first steps are slow
        flips = [
            await one_flip(url, clients, options, PHASES[number % 2])
            for number in range(options.rounds)
        ]
        clients.end()
    pipelines = (await get_status(url))["pipelines"]
    return flips, clients, sum(pipeline["hand_offs"]["done"] for pipeline in pipelines)


async def one_flip(
    url: str, clients: Clients, options: argparse.Namespace, phases: dict[str, str]
) -> Flip:
    """Watch the streams for a while, flip, and watch them for a while longer."""
    before, begun_at = machine_time(), time.perf_counter()
    await asyncio.sleep(options.steady)
    async with _ordered(url, phases) as ordered_at:
        while not await _shows(url, phases):  # noqa: ASYNC110  of it there is no event over HTTP
            await asyncio.sleep(0.005)
        shown_at = time.perf_counter()
    await asyncio.sleep(TAIL_S)
    ended_at = shown_at + TAIL_S
    return Flip(
        steady=steady_gaps(clients.times, begun_at, ordered_at),
        longest_before_s=longest_gap(clients.times, 2 * ordered_at - ended_at, ordered_at),
        longest_s=longest_gap(clients.times, ordered_at, ended_at),
        shown_s=shown_at - ordered_at,
        foreign_cores=machine_time().foreign_cores_since(before),
    )


@asynccontextmanager
async def _ordered(url: str, phases: dict[str, str]) -> AsyncIterator[float]:
    """Order other phases; when that was. Raises `RuntimeError` if it was refused."""
    async with asyncio.timeout(ORDER_TIMEOUT_S), open_session() as session:
        ordered_at = time.perf_counter()
        async with session.post(f"{url}/admin/flip", json={"phases": phases}) as answer:
            told = await answer.json()
        if not told.get("done"):
            raise RuntimeError(f"phases {phases} were refused: {told}")
        yield ordered_at


async def _shows(url: str, phases: dict[str, str]) -> bool:
    told = (await get_status(url))["pipelines"]
    return {pipeline["id"]: pipeline["phase"] for pipeline in told} == phases


def table_of(flips: list[Flip]) -> Table:
    """A line for every round."""
    table = Table(title="between two tokens, before and around a flip, ms", box=None)
    for heading in (
        "round",
        "p50",
        "p99",
        "before",
        "÷ p99",
        "longest",
        "÷ p99",
        "flip shown after",
    ):
        table.add_column(heading, justify="right")
    for number, flip in enumerate(flips):
        steady = flip.steady
        cells = [f"{1000 * seconds:.1f}" for seconds in (steady.p50_s, steady.p99_s)]
        for longest_s in (flip.longest_before_s, flip.longest_s):
            cells += [f"{1000 * longest_s:.1f}", f"{longest_s / steady.p99_s:.2f}x"]
        cells.append(f"{1000 * flip.shown_s:.0f}")
        table.add_row(str(number + 1), *cells)
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.phases_flip",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--rounds", type=int, default=4, help="flips, there and back (default 4)")
    add("--concurrency", type=int, default=8, help="clients (default 8)")
    add("--prompt", type=int, default=128, help="tokens of each prompt (default 128)")
    add("--new", type=int, default=64, help="tokens generated for each (default 64)")
    add("--steady", type=float, default=5.0, metavar="S", help="before each flip (default 5)")
    add("--model", default="demo", help="a checkpoint (default: the demo model)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
