"""Rounds of streams that a service is changed under: by an order, or by the loss of a stage.

The same prompts go out every round, and two rounds without a change come first: what the streams
say in the first is what all others must say; the second tells whether they say it twice at all.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from benchmarks.gaps import Differences, Steady, differences, longest_gap, steady_gaps
from benchmarks.load import Target
from benchmarks.machine import machine_time
from benchmarks.orders import (
    Change,
    Recovery,
    as_layers,
    epoch_of,
    get_status,
    layers_of,
    moved_by_one,
    order_layers,
    pid_of_stage,
    wait_quiet,
    wait_recovered,
)
from benchmarks.prompts import make_prompts
from benchmarks.streams import Streams, open_streams


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run does; times in seconds.

    Attributes:
        steady_s: how long the streams are watched before each change.
        tail_s: how long after it a gap still counts as the change's.
    """

    target: Target
    concurrency: int
    prompt: int
    rounds: int
    steady_s: float
    tail_s: float

    @property
    def prompts(self) -> list[list[int]]:
        """One prompt for each stream, the same in every round."""
        return make_prompts(self.concurrency, self.prompt, self.target.vocab)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbed:
    """A round with a change.

    Attributes:
        what: the change, in words.
        to_notice_s: from a kill until status showed the loss; 0 after an order.
        to_ready_s: from the order or kill until it was answered or status showed it mended.
    """

    what: str
    steady: Steady
    longest_s: float
    change: Change
    to_notice_s: float
    to_ready_s: float
    differences: Differences
    foreign_cores: float

    @property
    def gap_ratio(self) -> float:
        """The longest gap by the steady p99."""
        return self.longest_s / self.steady.p99_s

    @property
    def pause_steps(self) -> float:
        """The pause by the median time between two tokens."""
        return self.change.pause_s / self.steady.p50_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All rounds, and what differed between two rounds without a change."""

    rounds: tuple[Disturbed, ...]
    control: Differences


async def measure_swaps(url: str, plan: Plan) -> Results:
    """Move one layer from the first stage to the second and back, once a round."""
    reference, control = await _undisturbed(plan)
    there = layers_of(await get_status(url))
    ways = [moved_by_one(there), as_layers(there)]
    rounds = []
    for number in range(plan.rounds):
        rounds.append(await _swap_round(url, plan, ways[number % 2], reference))
        _report(number, rounds[-1])
    return Results(rounds=tuple(rounds), control=control)


async def measure_kills(url: str, plan: Plan) -> Results:
    """Kill the second stage's process once a round, a spare standing by."""
    reference, control = await _undisturbed(plan)
    rounds = []
    for number in range(plan.rounds):
        if not await wait_quiet():
            sys.stderr.write("the service did not come to rest; perhaps no spare stands by\n")
        rounds.append(await _kill_round(url, plan, reference))
        _report(number, rounds[-1])
    return Results(rounds=tuple(rounds), control=control)


async def _undisturbed(plan: Plan) -> tuple[list[list[str]], Differences]:
    await _whole_round(replace(plan, target=replace(plan.target, new=4)))  # first steps are slow
    reference = await _whole_round(plan)
    if reference.num_broken:
        raise RuntimeError(f"{reference.num_broken} streams broke without any change")
    again = await _whole_round(plan)
    return reference.words, _differences(again, reference.words)


async def _whole_round(plan: Plan) -> Streams:
    async with open_streams(plan.target, plan.prompts) as streams:
        pass
    return streams


async def _swap_round(url: str, plan: Plan, layers: str, reference: list[list[str]]) -> Disturbed:
    async with _watched(plan, reference) as watch:
        change = await order_layers(url, layers)
        watch.end(f"to {layers}", change)
    return watch.result()


async def _kill_round(url: str, plan: Plan, reference: list[list[str]]) -> Disturbed:
    status = await get_status(url)
    pid, epoch = pid_of_stage(status, 1), epoch_of(status)
    async with _watched(plan, reference) as watch:
        os.kill(pid, signal.SIGKILL)
        recovery = await wait_recovered(url, epoch)
        watch.end("kill -9", recovery.change, recovery)
    return watch.result()


class _Watch:
    """The streams of one round, and when its change began and ended."""

    def __init__(self, plan: Plan, streams: Streams, reference: list[list[str]]) -> None:
        self._plan, self._streams, self._reference = plan, streams, reference
        self._begun_at = self.changed_at = self._ended_at = self._seen_at = 0.0
        self._before = machine_time()
        self._what, self._change = "", Change(phases=())
        self._foreign_cores = 0.0

    async def watch_steady(self) -> None:
        """Let the streams run undisturbed for as long as is asked for."""
        self._begun_at = await self._streams.wait_begun()
        self._before = machine_time()
        await asyncio.sleep(self._plan.steady_s)
        self.changed_at = time.perf_counter()

    def end(self, what: str, change: Change, recovery: Recovery | None = None) -> None:
        """The change is over; raises `RuntimeError` if no stream outlived it."""
        self._ended_at = time.perf_counter() if recovery is None else recovery.ready_at
        self._seen_at = self.changed_at if recovery is None else recovery.seen_at
        self._what, self._change = what, change
        if not self._streams.num_live:
            raise RuntimeError("the streams ended before the change did: raise --new")

    async def watch_tail(self) -> None:
        """Let the streams run on for as long as a gap counts."""
        await asyncio.sleep(self._plan.tail_s)
        self._foreign_cores = machine_time().foreign_cores_since(self._before)

    def result(self) -> Disturbed:
        """What the round gave, once its streams have ended."""
        times = self._streams.times
        return Disturbed(
            what=self._what,
            steady=steady_gaps(times, self._begun_at, self.changed_at),
            longest_s=longest_gap(times, self.changed_at, self._ended_at + self._plan.tail_s),
            change=self._change,
            to_notice_s=self._seen_at - self.changed_at,
            to_ready_s=self._ended_at - self.changed_at,
            differences=_differences(self._streams, self._reference),
            foreign_cores=self._foreign_cores,
        )


@asynccontextmanager
async def _watched(plan: Plan, reference: list[list[str]]) -> AsyncIterator[_Watch]:
    """Streams in their steady state; the block changes the service, then they run to their end."""
    async with open_streams(plan.target, plan.prompts) as streams:
        watch = _Watch(plan, streams, reference)
        await watch.watch_steady()
        yield watch
        await watch.watch_tail()


def _differences(streams: Streams, reference: list[list[str]]) -> Differences:
    return differences(streams.words, reference) + Differences(broken=streams.num_broken)


def _report(number: int, round_: Disturbed) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stderr.write(
            f"round {number + 1}: {round_.what}: longest gap {1000 * round_.longest_s:.0f} ms, "
            f"steady p50 {1000 * round_.steady.p50_s:.0f} p99 {1000 * round_.steady.p99_s:.0f} "
            f"max {1000 * round_.steady.max_s:.0f} ms; {round_.differences}; "
            f"others used {round_.foreign_cores:.2f} cores\n"
        )
