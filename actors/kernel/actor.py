"""What a developer writes against: `Actor`, and the `Context` through which it acts.

An actor's state is its own: one message is handled at a time, and everything else it does runs in
tasks that end with it. It never knows whether another actor is in this process or in another.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from actors.kernel.cell import Cell
from actors.kernel.envelope import Key
from actors.kernel.ref import Ref
from actors.kernel.supervision import DownReason, Supervision
from transport.codec import Message
from transport.endpoint import Lane
from transport.frame import Buffer

if TYPE_CHECKING:
    from actors.kernel.system import ActorSystem
    from actors.kernel.tree import Tree

_T = TypeVar("_T")


class Actor:
    """Base of every actor: override `receive`, and those of the hooks that are needed.

    Example:
        >>> import asyncio, random
        >>> from actors.kernel.system import ActorSystem
        >>> from transport.codec import Codec, Message
        >>> from transport.zmq_endpoint import ZmqEndpoint
        >>>
        >>> class Add(Message, tag="add"):
        ...     number: int
        >>>
        >>> class Total(Message, tag="total"):
        ...     number: int
        >>>
        >>> class Adder(Actor):
        ...     def __init__(self) -> None:
        ...         self.total = 0
        ...
        ...     async def receive(self, message, sender, buffers):
        ...         match message:
        ...             case Add():
        ...                 self.total += message.number
        ...                 return Total(self.total)
        >>>
        >>> async def main() -> None:
        ...     async with (
        ...         ZmqEndpoint.opened(name="here") as endpoint,
        ...         ActorSystem(endpoint, Codec([Add, Total]), rng=random.Random()) as system,
        ...     ):
        ...         adder = system.spawn(Adder(), name="adder")
        ...         system.tell(adder, Add(2), lane=Lane.CONTROL)
        ...         print(await system.ask(adder, Add(3), timeout_s=1.0))
        >>>
        >>> asyncio.run(main())
        Total(number=5)
    """

    context: "Context"
    """Set before `on_start`; how the actor reaches everything outside itself."""

    async def on_start(self) -> None:
        """Prepare; messages wait until this is done, and its failure is the actor's."""

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        """Handle one message.

        An exception that leaves this ends the actor, and its supervisor decides what follows.

        Returns:
            The reply, if the message was an ask; None replies `Ack`.
        """
        raise NotImplementedError

    def is_idle(self) -> bool:
        """Whether all work that was accepted is done; asked while the actor drains."""
        return True

    async def on_stop(self) -> None:
        """Release what is held; runs after any end but a kill, if `on_start` was done."""

    async def on_failure(self, error: Exception) -> None:
        """Take note of the failure that ended the actor; runs before `on_stop`."""


ActorSource: TypeAlias = Actor | Callable[[], Actor]
"""An actor, which lives once, or what makes a fresh one for every start."""


class LaterReply:
    """The reply to an ask that was put off.

    If it never comes, the asker learns the actor's end or its own deadline, whichever is first.
    """

    __slots__ = ("_cell", "_owed")

    def __init__(self, cell: Cell, owed: tuple[Key, asyncio.TimerHandle] | None) -> None:
        self._cell = cell
        self._owed = owed

    def reply(self, message: Message) -> None:
        """Answer the ask; the first call counts, and for a tell there is nobody to answer."""
        if self._owed is not None:
            ask, deadline = self._owed
            self._cell.settle(ask, message)
            deadline.cancel()
        self._owed = None


class Context:
    """One start of one actor, as the actor sees it."""

    def __init__(self, cell: Cell, system: "ActorSystem", tree: "Tree") -> None:
        self.rng = tree.rng
        """The actor's source of chance."""
        self._cell = cell
        self._system = system
        self._tree = tree
        self._loop = asyncio.get_running_loop()

    @property
    def self_ref(self) -> Ref:
        """This start of this actor."""
        return self._cell.ref

    def loop_time(self) -> float:
        """Seconds on the clock that all deadlines and delays are on."""
        return self._loop.time()

    def tell(
        self, ref: Ref, message: Message, *, buffers: Sequence[Buffer] = (), lane: Lane = Lane.DATA
    ) -> None:
        """Send a message from this actor, as `ActorSystem.tell` does."""
        self._system.tell(ref, message, buffers=buffers, lane=lane, sender=self._cell.ref)

    async def ask(
        self,
        ref: Ref,
        message: Message,
        *,
        timeout_s: float,
        buffers: Sequence[Buffer] = (),
        lane: Lane = Lane.CONTROL,
    ) -> Message:
        """Send a message from this actor and wait for its reply, as `ActorSystem.ask` does."""
        return await self._system.ask(
            ref, message, timeout_s=timeout_s, buffers=buffers, lane=lane, sender=self._cell.ref
        )

    def reply_later(self) -> LaterReply:
        """Put off the reply to the message being handled."""
        return LaterReply(self._cell, self._cell.put_off())

    def watch(self, ref: Ref) -> None:
        """Be told by a `Down` when an actor is gone."""
        self._system.watch(self._cell.ref, ref)

    def unwatch(self, ref: Ref) -> None:
        """Be told nothing of an actor any more."""
        self._system.unwatch(self._cell.ref, ref)

    def spawn(
        self, actor: ActorSource, *, name: str, supervision: Supervision | None = None
    ) -> Ref:
        """Start an actor that this one supervises, as `ActorSystem.spawn` does."""
        return self._tree.spawn(self._cell, actor, name, supervision)

    def start_task(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Run a coroutine beside the messages; it ends with the actor, which fails if it does."""
        return self._cell.tasks.start(work)

    def follow(self, future: "asyncio.Future[_T]", then: Callable[[_T], object]) -> None:
        """Call `then` with the result of a future: `start_task` for what only has to be awaited.

        The future is cancelled if the actor ends first; a failure of either is the actor's.
        """
        self._cell.tasks.follow(future, then)

    def schedule(self, delay_s: float, message: Message) -> asyncio.TimerHandle:
        """Tell this actor something after a delay; cancel the handle to keep it quiet."""
        return self._system.remind(self._cell.ref, delay_s, message)

    def stop(self) -> None:
        """End this actor, its work done, after the message being handled."""
        self._cell.request_stop(DownReason.NORMAL)
