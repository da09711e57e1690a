"""The loop's clock jumps, its order is fixed, and it refuses what it cannot foresee."""

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.kernel.virtual_time import MIN_SWEPT, Deadlock, VirtualTimeLoop, run

delays = st.integers(0, 5).map(lambda eighths: eighths / 8)


def test_an_hour_passes_without_waiting() -> None:
    async def main(rng: random.Random) -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    assert run(main, seed=0) == 3600


def test_days_pass_as_well() -> None:
    async def main(rng: random.Random) -> float:
        await asyncio.sleep(10 * 86400)
        return asyncio.get_running_loop().time()

    assert run(main, seed=0) == 10 * 86400


@settings(deadline=None)
@given(st.lists(delays, max_size=30))
def test_timers_run_by_time_and_ties_in_the_order_they_were_set(waits: list[float]) -> None:
    async def main(rng: random.Random) -> list[int]:
        ran: list[int] = []
        loop = asyncio.get_running_loop()
        for number, wait in enumerate(waits):
            loop.call_later(wait, ran.append, number)
        await asyncio.sleep(2)
        return ran

    assert run(main, seed=0) == sorted(range(len(waits)), key=lambda number: waits[number])


def test_timer_that_was_cancelled_does_not_run() -> None:
    async def main(rng: random.Random) -> list[str]:
        ran: list[str] = []
        loop = asyncio.get_running_loop()
        loop.call_later(1, ran.append, "cancelled").cancel()
        loop.call_later(1, ran.append, "kept")
        await asyncio.sleep(2)
        return ran

    assert run(main, seed=0) == ["kept"]


@settings(deadline=None, max_examples=10)
@given(st.lists(st.tuples(delays, st.booleans()), min_size=3 * MIN_SWEPT, max_size=4 * MIN_SWEPT))
def test_however_many_timers_are_cancelled_the_others_run_in_their_order(
    timers: list[tuple[float, bool]],
) -> None:
    async def main(rng: random.Random) -> list[int]:
        ran: list[int] = []
        loop = asyncio.get_running_loop()
        handles = [
            loop.call_later(wait, ran.append, number) for number, (wait, _) in enumerate(timers)
        ]
        for handle, (_, is_cancelled) in zip(handles, timers, strict=True):
            if is_cancelled:
                handle.cancel()
        await asyncio.sleep(2)
        for handle in handles:
            handle.cancel()
        await asyncio.sleep(0)
        return ran

    kept = [number for number, (_, is_cancelled) in enumerate(timers) if not is_cancelled]
    assert run(main, seed=0) == sorted(kept, key=lambda number: timers[number][0])


def test_timers_that_are_cancelled_at_once_take_no_room() -> None:
    async def main(rng: random.Random) -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        for _ in range(100 * MIN_SWEPT):
            loop.call_later(3600, print).cancel()
        return loop.num_timers

    assert run(main, seed=0) <= MIN_SWEPT + 1


def test_a_callback_that_was_cancelled_does_not_run() -> None:
    async def main(rng: random.Random) -> list[str]:
        ran: list[str] = []
        loop = asyncio.get_running_loop()
        loop.call_soon(ran.append, "cancelled").cancel()
        loop.call_soon(ran.append, "kept")
        await asyncio.sleep(0)
        return ran

    assert run(main, seed=0) == ["kept"]


def test_a_loop_that_is_closed_takes_nothing_more() -> None:
    loop = VirtualTimeLoop()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon(print)
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_later(1, print)


def test_deadline_ends_what_would_never_end() -> None:
    async def main(rng: random.Random) -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run(main, seed=0) == 5


def test_waiting_for_what_can_never_happen_is_an_error() -> None:
    async def main(rng: random.Random) -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match="nothing is ready to run"):
        run(main, seed=0)


def test_threads_are_refused() -> None:
    async def main(rng: random.Random) -> None:
        await asyncio.to_thread(print)

    with pytest.raises(RuntimeError, match="no threads"):
        run(main, seed=0)


def test_sockets_are_refused() -> None:
    async def main(rng: random.Random) -> None:
        await asyncio.open_connection("127.0.0.1", 1)

    with pytest.raises((RuntimeError, NotImplementedError)):
        run(main, seed=0)


def test_call_from_outside_the_loop_is_run() -> None:
    async def main(rng: random.Random) -> str:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon_threadsafe(future.set_result, "called")
        return str(await future)

    assert run(main, seed=0) == "called"


def test_failure_of_the_main_function_comes_out() -> None:
    async def main(rng: random.Random) -> None:
        raise ValueError("out")

    with pytest.raises(ValueError, match="out"):
        run(main, seed=0)


def test_tasks_that_are_left_are_cancelled() -> None:
    ends: list[str] = []

    async def linger() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ends.append("cancelled")

    async def main(rng: random.Random) -> asyncio.Task[None]:
        task = asyncio.ensure_future(linger())
        await asyncio.sleep(1)
        return task

    assert run(main, seed=0).cancelled()
    assert ends == ["cancelled"]


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_one_seed_gives_one_source_of_chance(seed: int) -> None:
    async def main(rng: random.Random) -> list[float]:
        return [rng.random() for _ in range(3)]

    assert run(main, seed=seed) == run(main, seed=seed)
    assert run(main, seed=seed) != run(main, seed=seed + 1)
