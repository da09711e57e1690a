"""What a benchmark orders of a service, and what the service tells of how it went."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.machine import MachineTime, machine_time
from benchmarks.streams import open_session

ORDER_TIMEOUT_S = 300.0
POLL_S = 0.01
QUIET_CORES = 0.15
QUIET_WINDOW_S = 3.0
MAX_WINDOWS = 40
PAUSE_PHASES = ("pause", "delta", "rebuild", "commit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One phase of a change; seconds and bytes."""

    name: str
    seconds: float
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What the service told of a change; `recomputed` is a share of whole prefills."""

    phases: tuple[Phase, ...]
    noticed_s: float = 0.0
    recomputed: float = 0.0
    num_preempted: int = 0

    @property
    def pause_s(self) -> float:
        """How long no step was sent."""
        return sum(phase.seconds for phase in self.phases if phase.name in PAUSE_PHASES)

    def seconds(self, name: str) -> float:
        """What a phase took; 0 if the change had none of the name."""
        return sum(phase.seconds for phase in self.phases if phase.name == name)


def read_change(told: dict[str, Any]) -> Change:
    """From an answer of `/admin/plan`, or a pipeline's `last_change`."""
    return Change(
        phases=tuple(
            Phase(name=p["name"], seconds=p["seconds"], bytes=p["bytes"]) for p in told["phases"]
        ),
        noticed_s=told.get("noticed_s", 0.0),
        recomputed=told.get("recomputed", 0.0),
        num_preempted=told.get("preempted", 0),
    )


def moved_by_one(layers: list[tuple[int, int]]) -> str:
    """The same stages, the first with one layer less for the second: `0:7,7:12` is `0:6,6:12`."""
    if len(layers) < 2 or layers[0][1] - layers[0][0] < 2:
        raise ValueError(f"expected two stages, the first of two layers or more, got {layers}")
    (first, cut), (_, end), *rest = layers
    return as_layers([(first, cut - 1), (cut - 1, end), *rest])


def as_layers(layers: list[tuple[int, int]]) -> str:
    """As `--layers` and `/admin/plan` take them."""
    return ",".join(f"{start}:{end}" for start, end in layers)


def layers_of(status: dict[str, Any]) -> list[tuple[int, int]]:
    """The layers of the only pipeline's stages."""
    return [(start, end) for start, end in (s["layers"] for s in _pipeline(status)["stages"])]


async def order_layers(url: str, layers: str) -> Change:
    """Give the only pipeline other layers.

    Raises:
        RuntimeError: it was not done; the text says why.
    """
    async with (
        asyncio.timeout(ORDER_TIMEOUT_S),
        open_session() as session,
        session.post(f"{url}/admin/plan", json={"layers": layers}) as answer,
    ):
        told = await answer.json()
    if not told.get("done"):
        raise RuntimeError(f"layers {layers} were refused: {told}")
    return read_change(told)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """How a pipeline mended itself, and when status showed the loss and the mended pipeline."""

    change: Change
    seen_at: float
    ready_at: float


async def get_status(url: str) -> dict[str, Any]:
    """What `/admin/status` says."""
    async with open_session() as session, session.get(f"{url}/admin/status") as answer:
        found: dict[str, Any] = await answer.json()
    return found


async def wait_recovered(url: str, epoch: int) -> Recovery:
    """Look until the only pipeline is ready again at an epoch after this one."""
    seen_at = 0.0
    async with asyncio.timeout(ORDER_TIMEOUT_S):
        while True:
            pipeline, now = _pipeline(await get_status(url)), time.perf_counter()
            has_changed = (pipeline["last_change"] or {}).get("epoch", 0) > epoch
            if not seen_at and (pipeline["state"] != "ready" or has_changed):
                seen_at = now
            if has_changed and pipeline["state"] == "ready":
                change = read_change(pipeline["last_change"])
                return Recovery(change=change, seen_at=seen_at, ready_at=now)
            await asyncio.sleep(POLL_S)


def epoch_of(status: dict[str, Any]) -> int:
    """The epoch of the only pipeline."""
    epoch: int = _pipeline(status)["epoch"]
    return epoch


def pid_of_stage(status: dict[str, Any], stage: int) -> int:
    """The process of a stage of the only pipeline."""
    pid: int = _pipeline(status)["stages"][stage]["pid"]
    return pid


def _pipeline(status: dict[str, Any]) -> dict[str, Any]:
    [pipeline] = status["pipelines"]
    found: dict[str, Any] = pipeline
    return found


async def wait_quiet(
    look: Callable[[], MachineTime] = machine_time, window_s: float = QUIET_WINDOW_S
) -> bool:
    """Wait until our own processes have next to nothing to do, as when a spare is up.

    Nothing that can be asked tells of a spare; one that starts uses a whole core.
    """
    before = look()
    for _ in range(MAX_WINDOWS):
        await asyncio.sleep(window_s)
        after = look()
        cores = (after.ours_s - before.ours_s) / max(after.clock_s - before.clock_s, 1e-9)
        if cores <= QUIET_CORES:
            return True
        before = after
    return False
