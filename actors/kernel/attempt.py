"""Runs what an actor does and makes a value of its failure: the kernel's broad `except`s."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from actors.kernel.errors import ActorFailed

_T = TypeVar("_T")


async def attempt(work: Awaitable[None]) -> Exception | None:
    """The failure of what an actor does, whatever it is; a kill passes through."""
    try:
        await work
    except Exception as error:  # noqa: BLE001  the loop of all actors, whatever they do
        return _sole(error)
    except asyncio.CancelledError as cancelled:
        if _is_being_killed():
            raise
        failed = ActorFailed("something it waited for was cancelled")
        failed.__cause__ = cancelled
        return failed
    return None


def attempt_now(work: Callable[[_T], object], argument: _T) -> Exception | None:
    """`attempt` of what does not wait."""
    try:
        work(argument)
    except Exception as error:  # noqa: BLE001  the same, in a callback of the event loop's
        return error
    return None


def _sole(error: Exception) -> Exception:
    """The failure itself, where a task group wrapped just one."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _is_being_killed() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
