"""What an actor does beside its messages: tasks in a group of its own, which end with it."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from actors.kernel.asks import DEADLINE
from actors.kernel.errors import ActorStopped

_T = TypeVar("_T")


class SideTasks:
    """The tasks of one start of one actor; `on_done` is called whenever one ends."""

    def __init__(self, on_done: Callable[[], None]) -> None:
        self._on_done = on_done
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[asyncio.Task[Any], None] = {}

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
        context = contextvars.copy_context()
        context.run(DEADLINE.set, None)
        task = self._group.create_task(work, context=context)
        self._tasks[task] = None
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        del self._tasks[task]
        self._on_done()

    def close(self) -> None:
        """Cancel what runs, in the order of its start, which the group would not keep."""
        self._group = None
        for task in self._tasks:
            task.cancel()
