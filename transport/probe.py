"""How far away a process is, and how many bytes a second get there: measured by a few frames.

The one idea: a small frame tells the time that any frame takes, a large one what its bytes take
beyond that. The shortest time of a few counts, since whatever else is on the way only makes it
longer. It never knows what sends a frame, only that it was answered.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

SMALL_BYTES = 64
LARGE_BYTES = 1 << 20
NUM_SMALL, NUM_LARGE = 3, 2
FRAME_TIMEOUT_S = 10.0
MAX_PROBE_S = (NUM_SMALL + NUM_LARGE) * FRAME_TIMEOUT_S
_LEAST_PART = 0.05
"""Of a large frame's time that at least is counted as its bytes'; clocks and queues are noisy."""

SendFrame = Callable[[int], Awaitable[object]]
"""Sends a frame of so many bytes, and returns once its receipt was told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkMeasure:
    """What was measured of a link: seconds one way, and bytes a second."""

    latency_s: float
    bytes_per_s: float


async def probe(send: SendFrame, clock: Callable[[], float]) -> LinkMeasure:
    """Measure a link by frames that are sent one after another.

    Args:
        send: what sends one; its errors are the caller's.
        clock: seconds.

    Raises:
        TimeoutError: a frame was not answered within `FRAME_TIMEOUT_S`.
    """
    small_s = await _shortest(send, SMALL_BYTES, NUM_SMALL, clock)
    large_s = await _shortest(send, LARGE_BYTES, NUM_LARGE, clock)
    return measure_of(small_s, large_s)


def measure_of(small_s: float, large_s: float) -> LinkMeasure:
    """What the times until a small and a large frame are answered say of a link.

    Example:
        >>> measure_of(0.02, 0.02 + (1 << 20) / 1e8)
        LinkMeasure(latency_s=0.01, bytes_per_s=100000000.0)
    """
    bytes_s = max(large_s - small_s, large_s * _LEAST_PART, 1e-9)
    return LinkMeasure(latency_s=small_s / 2, bytes_per_s=round(LARGE_BYTES / bytes_s, 3))


async def _shortest(
    send: SendFrame, num_bytes: int, count: int, clock: Callable[[], float]
) -> float:
    times = []
    for _ in range(count):
        began = clock()
        async with asyncio.timeout(FRAME_TIMEOUT_S):
            await send(num_bytes)
        times.append(clock() - began)
    return min(times)
