"""How much of the time a stage's tensor thread has nothing to do while requests are under way."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.checkpoint import bench_checkpoint
from benchmarks.load import Target, keep_busy
from benchmarks.service import get_json, running_service, stages_of
from benchmarks.threads import busiest, thread_times

TARGET = 0.10
PROMPT_TOKENS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLoad:
    """One stage over a window of time.

    Attributes:
        ran: share of the window that its tensor thread was on a core.
        queued: share that it had work and waited for a core, which others had.
        others: cores that the process's other threads used.
    """

    stage: int
    ran: float
    queued: float
    others: float

    @property
    def idle(self) -> float:
        """Share of the window without work."""
        return max(0.0, 1.0 - self.ran - self.queued)


def print_idle(concurrency: int, new: int, seconds: float) -> None:
    """Keep a service of two stages busy for a while, and print what its stages did."""
    with running_service("--model", str(bench_checkpoint()), "--stages", "2") as url:
        name = get_json(f"{url}/v1/models")["data"][0]["id"]
        loads = asyncio.run(
            _loads_under(Target(url=url, model=name, new=new), concurrency, seconds)
        )
    Console().print(table_of(loads, f"{concurrency} requests at all times, {seconds:.0f} s"))


async def _loads_under(target: Target, concurrency: int, seconds: float) -> list[StageLoad]:
    """The loads of the middle of the time, when every request is under way."""
    async with asyncio.TaskGroup() as group:
        group.create_task(keep_busy(target, concurrency, PROMPT_TOKENS, seconds))
        await asyncio.sleep(seconds / 4)
        with watched_stages(stages_of(target.url)) as loads:
            await asyncio.sleep(seconds / 2)
    return loads


def table_of(loads: list[StageLoad], what: str) -> Table:
    """What each stage's tensor thread did, beside the target."""
    table = Table(title=f"stages under load: {what}; shares of the time", box=None)
    for heading in ("stage", "computing", "queued", "idle", "other threads", "target"):
        table.add_column(heading, justify="right")
    for load in loads:
        shares = (f"{share:.1%}" for share in (load.ran, load.queued, load.idle, load.others))
        verdict = "met" if load.idle <= TARGET else "missed"
        table.add_row(str(load.stage), *shares, f"≤ {TARGET:.0%} {verdict}")
    return table


@contextmanager
def watched_stages(stages: list[dict[str, Any]]) -> Iterator[list[StageLoad]]:
    """The list fills with the stages' loads over the block, once the block ends."""
    loads: list[StageLoad] = []
    before = {stage["pid"]: thread_times(stage["pid"]) for stage in stages}
    began = time.perf_counter()
    yield loads
    window_s = time.perf_counter() - began
    for stage in stages:
        after = thread_times(stage["pid"])
        tensor = busiest(before[stage["pid"]], after)
        all_ran = sum(time.ran_s for time in after.values())
        all_ran -= sum(time.ran_s for time in before[stage["pid"]].values())
        loads.append(
            StageLoad(
                stage=stage["stage"],
                ran=tensor.ran_s / window_s,
                queued=tensor.queued_s / window_s,
                others=(all_ran - tensor.ran_s) / window_s,
            )
        )
