"""What a hop through transport and actors costs beside a bare ZeroMQ hop, and whether stages idle.

    python -m benchmarks.hop
    python -m benchmarks.hop --encrypted [--bytes 4194304 --count 64]
    python -m benchmarks.hop --idle

Two processes over loopback, 16 KB a message, both kinds on the same event loops, taking turns.
The ratio is the median of the rounds' own ratios, so that a slow moment hits both sides of it.
`--encrypted` compares actors over CURVE with actors over plaintext instead.
`--idle` starts a service of two stages and measures the share of time in which neither stage's
tensor thread had work, under sixteen requests.
"""

import argparse
import asyncio
import cProfile
import os
import pstats
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.hop_ends import (
    ACK_EVERY,
    FAR_NAME,
    HOST,
    PING,
    STREAM,
    BareNear,
    NearActor,
    bare_socket,
)
from benchmarks.threads import process_time
from runtime.join_token import JoinToken
from runtime.opening import open_system
from transport.security import KeyPair

TIMEOUT_S = 600.0
TARGET = 1.5
PLAIN, CURVE, BARE = "actors", "actors over CURVE", "bare ZeroMQ"
ACTORS, ENCRYPTED = (PLAIN, BARE), (CURVE, PLAIN)
KINDS = {"ping-pong": PING, "streaming": STREAM}
Measure = Callable[[int, int], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class HopTimes:
    """What each round took, actors and bare sockets, of one kind of traffic."""

    ours: list["Cost"]
    bare: list["Cost"]

    @property
    def both(self) -> tuple[list["Cost"], list["Cost"]]:
        """Ours and the bare ones."""
        return self.ours, self.bare

    def ratio(self, what: str) -> float:
        """Median of the rounds' ratios."""
        pairs = zip(self.ours, self.bare, strict=True)
        ratios: list[float] = [getattr(o, what) / getattr(b, what) for o, b in pairs]
        return median(ratios)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One hop: microseconds by the clock, and of all threads of both processes on a core."""

    wall_us: float
    cpu_us: float


def main() -> None:
    """Measure, and print the table."""
    options = _parser().parse_args()
    if options.idle:
        from benchmarks.idle import print_idle

        print_idle(options.concurrency, options.new, options.seconds)
        return
    kinds = ENCRYPTED if options.encrypted else ACTORS
    found = asyncio.run(
        measure_hops(options.rounds, options.count, options.bytes, options.profile, kinds)
    )
    Console().print(table_of(found, options.bytes, kinds))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rounds", type=int, default=21, help="turns of each kind (default 21)")
    add("--count", type=int, default=960, help="messages of one turn (default 960)")
    add("--bytes", type=int, default=16 << 10, help="payload of a message (default 16384)")
    add("--profile", action="store_true", help="also print where our near end spends its time")
    add("--encrypted", action="store_true", help="actors over CURVE beside actors over plaintext")
    add("--idle", action="store_true", help="measure idle stages of a live service instead")
    add("--concurrency", type=int, default=16, help="requests at a time with --idle (default 16)")
    add("--seconds", type=float, default=40.0, help="how long, with --idle (default 40)")
    add("--new", type=int, default=96, help="tokens generated for each with --idle (default 96)")
    return parser


async def measure_hops(
    rounds: int,
    count: int,
    num_bytes: int,
    profile: bool = False,
    kinds: tuple[str, str] = ACTORS,
) -> dict[str, HopTimes]:
    """The times of each kind of traffic, both ways of sending it taking turns."""
    count = max(ACK_EVERY, count // ACK_EVERY * ACK_EVERY)
    async with asyncio.timeout(TIMEOUT_S), _both_ends(bytes(num_bytes)) as (ends, far):
        ours, bare = (ends[kind] for kind in kinds)
        found = {}
        for name, kind in KINDS.items():
            await _cost(ours, kind, count, far)
            await _cost(bare, kind, count, far)
            found[name] = HopTimes(ours=[], bare=[])
            for _ in range(rounds):
                found[name].ours.append(await _cost(ours, kind, count, far))
                found[name].bare.append(await _cost(bare, kind, count, far))
            if profile:
                await _profile(name, ours, kind, count)
        return found


async def _cost(measure: Measure, kind: int, count: int, far_pid: int) -> Cost:
    """The cost of one hop: half a round trip, or one message of a stream."""
    num_hops = count * (2 if kind == PING else 1)
    cpu_before, began = _cpu_s(far_pid), time.perf_counter()
    await measure(kind, count)
    wall_s, cpu_s = time.perf_counter() - began, _cpu_s(far_pid) - cpu_before
    return Cost(wall_us=1e6 * wall_s / num_hops, cpu_us=1e6 * cpu_s / num_hops)


def _cpu_s(far_pid: int) -> float:
    return process_time(os.getpid()).ran_s + process_time(far_pid).ran_s


async def _profile(name: str, measure: Measure, kind: int, count: int) -> None:
    profiler = cProfile.Profile()
    profiler.enable()
    await measure(kind, count)
    profiler.disable()
    sys.stderr.write(f"near end, {name}, {count} messages:\n")
    pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(24)


@asynccontextmanager
async def _both_ends(payload: bytes) -> AsyncIterator[tuple[dict[str, Measure], int]]:
    token = secrets.token_hex(16)
    keyed_token = JoinToken(token, KeyPair.fresh().public).text
    async with _far_process(token, keyed_token) as (address, keyed_address, bare_address, pid):
        with bare_socket() as socket:
            async with (
                _near_actor(token, address, payload) as actor,
                _near_actor(keyed_token, keyed_address, payload) as encrypted,
            ):
                socket.connect(bare_address)
                bare = BareNear(socket, payload)
                measures = (actor.measure, encrypted.measure, bare.measure)
                try:
                    yield dict(zip((PLAIN, CURVE, BARE), measures, strict=True)), pid
                finally:
                    bare.close()


@asynccontextmanager
async def _near_actor(token: str, address: str, payload: bytes) -> AsyncIterator[NearActor]:
    async with open_system("near", HOST, 0, token) as system:
        actor = NearActor(system.ref(address, FAR_NAME), payload)
        system.spawn(actor, name="near")
        await system.connect(address, timeout_s=TIMEOUT_S)
        yield actor


@asynccontextmanager
async def _far_process(token: str, keyed_token: str) -> AsyncIterator[tuple[str, str, str, int]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.hop_ends",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "HOP_TOKEN": token, "HOP_KEYED_TOKEN": keyed_token},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode().split()
        if len(line) != 3:
            raise SystemExit("the far process did not start")
        yield line[0], line[1], line[2], process.pid
    finally:
        process.stdin.close()
        async with asyncio.timeout(TIMEOUT_S):
            await process.wait()


def table_of(found: dict[str, HopTimes], num_bytes: int, kinds: tuple[str, str] = ACTORS) -> Table:
    """Medians of both and their ratio, beside the target of actors over bare sockets."""
    table = Table(title=f"one hop of {num_bytes} bytes between two processes, µs", box=None)
    table.add_column("traffic")
    for heading in (*kinds, "ratio", f"CPU {kinds[0]}", kinds[1], "ratio", "target"):
        table.add_column(heading, justify="right")
    for name, times in found.items():
        cells = []
        for what in ("wall_us", "cpu_us"):
            cells += [f"{median(getattr(c, what) for c in costs):.0f}" for costs in times.both]
            cells.append(f"{times.ratio(what):.2f}×")
        verdict = "met" if times.ratio("wall_us") <= TARGET else "missed"
        table.add_row(name, *cells, f"≤ {TARGET} {verdict}" if kinds == ACTORS else "none")
    return table


if __name__ == "__main__":
    main()
