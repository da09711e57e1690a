"""Turns: as many as there are, urgent ones first, and none lost with who does not wait any more."""

import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.kernel.virtual_time import run
from actors.turns import Turns


async def hold(turns: Turns, name: str, order: list[str], *, urgent: bool = False) -> None:
    async with turns.taken(is_urgent=urgent):
        order.append(name)
        await asyncio.sleep(1)


def test_urgent_turns_come_first_and_the_others_in_their_order() -> None:
    async def main(rng: random.Random) -> None:
        turns, order = Turns(1), list[str]()
        async with asyncio.TaskGroup() as group:
            for name, urgent in (("a", False), ("b", False), ("c", True), ("d", False)):
                group.create_task(hold(turns, name, order, urgent=urgent))
                await asyncio.sleep(0.1)
            assert turns.num_free == 0
        assert order == ["a", "c", "b", "d"]
        assert turns.num_free == 1

    run(main, seed=0)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3), st.lists(st.tuples(st.booleans(), st.floats(0.05, 3)), max_size=12))
def test_no_turn_is_lost_or_doubled_however_many_stop_waiting(
    limit: int, wishes: list[tuple[bool, float]]
) -> None:
    async def main(rng: random.Random) -> None:
        turns, num_held, most = Turns(limit), 0, 0

        async def wait(urgent: bool, patience_s: float) -> None:
            nonlocal num_held, most
            try:
                async with asyncio.timeout(patience_s), turns.taken(is_urgent=urgent):
                    num_held += 1
                    most = max(most, num_held)
                    try:
                        await asyncio.sleep(0.5)
                    finally:
                        num_held -= 1
            except TimeoutError:
                pass

        async with asyncio.TaskGroup() as group:
            for urgent, patience_s in wishes:
                group.create_task(wait(urgent, patience_s))
        assert most <= limit
        assert turns.num_free == limit

    run(main, seed=0)
