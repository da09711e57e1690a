"""What an actor does beside its messages: tasks in a group of its own, which end with it.

What is only waited for needs no task: a future is followed by a callback.
"""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Never, TypeVar

from actors.kernel.asks import DEADLINE
from actors.kernel.attempt import attempt_now
from actors.kernel.errors import ActorStopped

_T = TypeVar("_T")


class SideTasks:
    """The tasks of one start of one actor; `on_done` is called whenever one ends."""

    def __init__(self, on_done: Callable[[], None]) -> None:
        self._on_done = on_done
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[asyncio.Future[Any], None] = {}
        self._context = _without_deadline()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def is_open(self) -> bool:
        """Whether tasks can be started."""
        return self._group is not None

    def open(self, group: asyncio.TaskGroup) -> None:
        """Start tasks in this group from now on."""
        self._group = group

    def start(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Run a coroutine; it inherits no deadline, since it outlives the message being handled.

        Raises:
            ActorStopped: the actor has not begun or has ended.
        """
        if self._group is None:
            work.close()
            raise ActorStopped("the actor runs no tasks before its start or after its end")
        task = self._group.create_task(work, context=_without_deadline())
        self._tasks[task] = None
        task.add_done_callback(self._forget)
        return task

    def follow(self, future: "asyncio.Future[_T]", then: Callable[[_T], object]) -> None:
        """Call `then` with the result of a future, which is cancelled if the actor ends first.

        A failure of either is the actor's.

        Raises:
            ActorStopped: the actor has not begun or has ended.
        """
        if self._group is None:
            future.cancel()
            raise ActorStopped("the actor waits for nothing before its start or after its end")
        self._tasks[future] = None
        future.add_done_callback(partial(self._followed, then), context=self._context)

    def _followed(self, then: Callable[[_T], object], future: "asyncio.Future[_T]") -> None:
        self._forget(future)
        if self._group is None or future.cancelled():
            return
        error = future.exception() or attempt_now(then, future.result())
        if error is not None and self._group is not None:
            self.start(raise_(error))

    def _forget(self, task: asyncio.Future[Any]) -> None:
        del self._tasks[task]
        self._on_done()

    def close(self) -> None:
        """Cancel what runs, in the order of its start, which the group would not keep."""
        self._group = None
        for task in tuple(self._tasks):
            task.cancel()


async def raise_(error: BaseException) -> Never:
    """Fail with this."""
    raise error


def _without_deadline() -> contextvars.Context:
    context = contextvars.copy_context()
    context.run(DEADLINE.set, None)
    return context
