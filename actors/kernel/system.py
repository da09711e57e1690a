"""One process's actors: started, reachable, supervised, and stopped in order.

`ActorSystem` is the root of the supervision tree and the only thing of the kernel that a process
opens. A failure that no supervisor below it took care of makes its `async with` raise.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Self

from actors.kernel.actor import Actor, ActorSource, Context
from actors.kernel.cell import Cell
from actors.kernel.envelope import Envelope
from actors.kernel.errors import ActorStopped, MailboxFull
from actors.kernel.mailbox import MailboxLimits
from actors.kernel.ref import ANY, Ref
from actors.kernel.statistics import SystemStatistics
from actors.kernel.supervision import Supervision
from actors.kernel.switchboard import Switchboard
from actors.kernel.tree import Tree
from transport.codec import Codec, Message
from transport.endpoint import Endpoint, Lane, Peer, PeerLost, Received
from transport.errors import EndpointClosed
from transport.frame import Buffer

_log = logging.getLogger(__name__)


class ActorSystem:
    """The actors of one process.

    Use it as `async with ActorSystem(endpoint, codec, rng=rng) as system`. Leaving the block stops
    all actors, the last one started first. The endpoint stays its owner's, to be closed
    afterwards.

    Args:
        endpoint: the process's door; the system is its one receiver.
        codec: knows every message that these actors exchange with other processes.
        rng: the source of all chance.
        mailbox_limits: bounds of each lane of each mailbox.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        codec: Codec,
        *,
        rng: random.Random,
        mailbox_limits: MailboxLimits | None = None,
    ) -> None:
        self._rng = rng
        self._endpoint = endpoint
        self._codec = codec
        self._limits = mailbox_limits or MailboxLimits()
        self._failure: Exception | None = None
        self._has_cancelled_owner = False
        self._stopped = asyncio.Event()
        self._owner: asyncio.Task[Any] | None = None
        self._board: Switchboard
        self._tree: Tree
        self._running: AbstractAsyncContextManager[None]

    # --- the life of a system

    async def __aenter__(self) -> Self:
        self._owner = asyncio.current_task()
        self._running = self._run()
        await self._running.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        is_our_cancel = self._take_back_cancel(error)
        await self._running.__aexit__(None, None, None)
        if self._failure is not None and (error is None or is_our_cancel):
            raise self._failure

    def _take_back_cancel(self, error: BaseException | None) -> bool:
        """Undo the cancellation by which a failure ended the body; True if nothing else did."""
        if self._owner is None or not self._has_cancelled_owner:
            return False
        num_others = self._owner.uncancel()
        return isinstance(error, asyncio.CancelledError) and num_others == 0

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            board = self._board = Switchboard(self._endpoint, self._codec, tasks.create_task)
            self._tree = Tree(board, tasks, self._rng, self._limits, self._prepare, self._fail)
            reader = tasks.create_task(self._read())
            try:
                yield
            finally:
                await self.stop()
                self._board.links.close()
                reader.cancel()

    async def _read(self) -> None:
        self._endpoint.subscribe(self._on_event)
        try:
            await self._endpoint.receive()
        except EndpointClosed as error:
            self._fail(error)

    def _on_event(self, event: Received | PeerLost) -> None:
        is_handled = False
        try:
            self._board.on_event(event)
            is_handled = True
        finally:
            if not is_handled:  # a bug of the kernel's own: nobody is to go on as if it were heard
                self._fail(RuntimeError(f"an event could not be handled: {event!r:.200}"))

    def _prepare(self, actor: Actor, cell: Cell) -> None:
        actor.context = Context(cell, self, self._tree)

    def _fail(self, error: Exception) -> None:
        _log.error("actor system fails error=%s", error)
        if self._failure is not None:
            return
        self._failure = error
        if not self._tree.is_stopping and self._owner is not None:
            self._has_cancelled_owner = True
            self._owner.cancel()

    async def stop(self) -> None:
        """Stop all actors, the last one started first; for use outside of actors."""
        try:
            await self._tree.stop()
        finally:  # also when whoever stops us does not wait for the graces
            self._board.post.asks.fail_all(ActorStopped("the actor system has stopped"))
            self._stopped.set()

    async def wait_stopped(self) -> None:
        """Wait until all actors have been stopped."""
        await self._stopped.wait()

    # --- actors

    def spawn(
        self, actor: ActorSource, *, name: str, supervision: Supervision | None = None
    ) -> Ref:
        """Start an actor, supervised by the root.

        Args:
            actor: what makes the actor; an actor itself lives only once, so it cannot be restarted.
            name: how others find it; of one living actor at a time.
            supervision: what follows its end; by default its failure is its supervisor's.

        Raises:
            NameTaken: a living actor has that name.
            ValueError: the name is empty or too long, or the actor could not be restarted.
            ActorStopped: the system, or the supervisor, is stopping.
        """
        return self._tree.spawn(self._tree, actor, name, supervision)

    async def drain(self, name: str, timeout_s: float) -> bool:
        """Let an actor refuse new asks, finish what it took, and stop.

        Returns:
            Whether it was done in time; if not, it was stopped all the same.

        Raises:
            ActorStopped: there is no such actor.
        """
        return await self._tree.child(name).drain(timeout_s)

    # --- messages

    async def connect(self, address: str, *, timeout_s: float) -> Peer:
        """Connect to another process; without this, the first message to it does.

        Raises:
            Unreachable: nobody answered within `timeout_s`.
            HandshakeRefused: it answered and refused us; the text says why.
        """
        return await self._board.links.connect(address, timeout_s)

    def local_ref(self, name: str) -> Ref:
        """The ref of whichever actor has a name in this process, now or later."""
        return self._board.registry.ref(name)

    def ref(self, address: str, name: str, *, incarnation: int = ANY) -> Ref:
        """The ref of whichever actor has a name in another process."""
        return Ref(address, incarnation, name)

    def tell(
        self,
        ref: Ref,
        message: Message,
        *,
        buffers: Sequence[Buffer] = (),
        lane: Lane = Lane.DATA,
        sender: Ref | None = None,
    ) -> None:
        """Send a message that expects no reply, at most once; never waits.

        Whatever cannot be delivered is counted as a dead letter.

        Raises:
            MailboxFull: the actor is on this process and its mailbox is full.
            FrameTooLarge: message and buffers are over the transport's bounds.
        """
        self._board.post.tell(ref, message, buffers=buffers, lane=lane, sender=sender)

    async def ask(
        self,
        ref: Ref,
        message: Message,
        *,
        timeout_s: float,
        buffers: Sequence[Buffer] = (),
        lane: Lane = Lane.CONTROL,
        sender: Ref | None = None,
    ) -> Message:
        """Send a message and wait for its reply, `Ack` if the actor had nothing to say.

        Raises:
            RemoteFault: the actor failed while it handled the message.
            ActorStopped: there is no such actor, or it ended first.
            Rejected: it takes no more for now (`Draining`: it ends); nothing was run.
            Unreachable: its process is out of reach; it may have run.
            AskTimeout: no reply in time; it may have run.
        """
        return await self._board.post.ask(
            ref, message, timeout_s=timeout_s, buffers=buffers, lane=lane, sender=sender
        )

    def watch(self, watcher: Ref, ref: Ref) -> None:
        """Have an actor of this process told by one `Down` when another is gone."""
        self._board.watching.watch(watcher, ref)

    def unwatch(self, watcher: Ref, ref: Ref) -> None:
        """End a watch without a `Down`."""
        self._board.watching.unwatch(watcher, ref)

    def remind(self, ref: Ref, delay_s: float, message: Message) -> asyncio.TimerHandle:
        """Tell an actor of this process something after a delay, as if it had itself."""
        envelope = Envelope(message, ref, (), Lane.DATA)
        return asyncio.get_running_loop().call_later(delay_s, self._deliver_reminder, ref, envelope)

    def _deliver_reminder(self, ref: Ref, envelope: Envelope) -> None:
        try:
            self._board.post.deliver(ref, envelope)
        except MailboxFull:
            _log.warning("reminder lost actor=%s reason=mailbox full", ref)

    def statistics(self) -> SystemStatistics:
        """How the actors stand now."""
        return SystemStatistics(
            actors=self._tree.statistics(),
            dead_letters=self._board.dead_letters.counts(),
            num_asks_pending=len(self._board.post.asks),
            num_watches=len(self._board.watching.watches),
        )
