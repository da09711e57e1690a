"""A link's latency and rate are found by a few frames, whatever else is on the way."""

import asyncio
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.kernel.virtual_time import run
from transport.probe import (
    FRAME_TIMEOUT_S,
    LARGE_BYTES,
    MAX_PROBE_S,
    NUM_LARGE,
    NUM_SMALL,
    LinkMeasure,
    measure_of,
    probe,
)


def measured(frame_s: Callable[[int], float], sent: list[int] | None = None) -> LinkMeasure:
    """A link whose frames are answered after so many seconds."""

    async def main(rng: random.Random) -> LinkMeasure:
        async def send(num_bytes: int) -> None:
            if sent is not None:
                sent.append(num_bytes)
            await asyncio.sleep(frame_s(num_bytes))

        return await probe(send, asyncio.get_running_loop().time)

    return run(main, seed=0)


@given(st.floats(1e-5, 1.0), st.floats(1e6, 1e9))
def test_both_are_found_where_nothing_else_is_on_the_way(latency_s: float, rate: float) -> None:
    bytes_s = LARGE_BYTES / rate
    found = measured(lambda num_bytes: 2 * latency_s + num_bytes / rate)
    assert found.latency_s == pytest.approx(latency_s, rel=0.01, abs=1e-4)
    if bytes_s > 0.1 * latency_s * 2:
        assert found.bytes_per_s == pytest.approx(rate, rel=0.01)


@given(st.integers(0, 1 << 32))
def test_what_is_on_the_way_now_and_then_does_not_count(seed: int) -> None:
    rng = random.Random(seed)
    small, large = [0.0] + [0.3] * (NUM_SMALL - 1), [0.0] + [0.3] * (NUM_LARGE - 1)
    rng.shuffle(small)
    rng.shuffle(large)
    late = iter([*small, *large])
    found = measured(lambda num_bytes: 0.02 + num_bytes / 1e7 + next(late))
    assert found.latency_s == pytest.approx(0.01, rel=0.01)
    assert found.bytes_per_s == pytest.approx(1e7, rel=0.01)


@given(st.floats(0, 10), st.floats(0, 10))
def test_any_two_times_give_a_rate_that_planning_can_use(small_s: float, large_s: float) -> None:
    found = measure_of(small_s, large_s)
    assert 0 < found.bytes_per_s < 1e16
    assert found.latency_s >= 0


def test_few_frames_are_sent_one_after_another() -> None:
    sent: list[int] = []
    measured(lambda num_bytes: 0.01, sent)
    assert len(sent) == NUM_SMALL + NUM_LARGE
    assert sum(sent) < (NUM_LARGE + 1) * LARGE_BYTES


def test_a_frame_that_is_not_answered_ends_the_measurement_in_time() -> None:
    async def main(rng: random.Random) -> float:
        loop = asyncio.get_running_loop()

        async def send(num_bytes: int) -> None:
            await asyncio.sleep(10 * MAX_PROBE_S)

        with pytest.raises(TimeoutError):
            await probe(send, loop.time)
        return loop.time()

    assert run(main, seed=0) == pytest.approx(FRAME_TIMEOUT_S)
