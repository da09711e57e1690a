"""Who waits for a step learns whether it was run, and never too soon."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import pytest

from actors.step_marks import MAX_REMEMBERED, StepMarks

_T = TypeVar("_T")


async def soon(answer: Awaitable[_T]) -> _T:
    async with asyncio.timeout(1):
        return await answer


async def test_a_step_is_reached_when_it_was_run_and_by_all_who_wait() -> None:
    marks = StepMarks()
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(marks.reached(1, 5)) for _ in range(2)]
        await asyncio.sleep(0)
        marks.mark(1, 4)
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        marks.mark(1, 5)
    assert [task.result() for task in waiting] == [True, True]
    assert await soon(marks.reached(1, 5))


@pytest.mark.parametrize("later", [(1, 6), (2, 0)])
async def test_a_step_that_a_later_one_came_instead_of_is_never_reached(
    later: tuple[int, int],
) -> None:
    marks = StepMarks()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(marks.reached(1, 5))
        await asyncio.sleep(0)
        marks.mark(*later)
    assert waiting.result() is False
    assert not await soon(marks.reached(1, 5))


async def test_one_who_gives_up_keeps_no_other_from_hearing_of_it() -> None:
    marks = StepMarks()
    async with asyncio.TaskGroup() as group:
        impatient, patient = (group.create_task(marks.reached(1, 1)) for _ in range(2))
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.sleep(0)
        marks.mark(1, 1)
    assert impatient.cancelled()
    assert patient.result()


async def test_what_was_run_long_ago_is_forgotten() -> None:
    marks = StepMarks()
    for step in range(MAX_REMEMBERED + 1):
        marks.mark(1, step)
    assert not await soon(marks.reached(1, 0))
    assert await soon(marks.reached(1, 1))
