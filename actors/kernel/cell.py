"""One start of one actor: its mailbox, its loop and its end, which is always told.

A cell lives in one task: `on_start`, then one message after another, then the end. Whatever ended
it, it closes the same way: what waits is refused, what was asked is answered, who watches is told.
What fails in between is a value from then on, an `End`.
"""

import asyncio
import enum
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from actors.kernel.asks import DEADLINE
from actors.kernel.attempt import attempt
from actors.kernel.dead_letters import DeadLetter
from actors.kernel.envelope import Ack, Envelope, Key
from actors.kernel.errors import ActorStopped, Draining
from actors.kernel.failures import describe, fault, one_line
from actors.kernel.mailbox import Mailbox
from actors.kernel.obligations import Courier, Obligations
from actors.kernel.ref import Ref
from actors.kernel.side_tasks import SideTasks, raise_
from actors.kernel.supervision import DownReason
from transport.codec import Message
from transport.endpoint import Peer
from transport.frame import Buffer

if TYPE_CHECKING:
    from actors.kernel.actor import Actor
    from actors.kernel.child import Child

_log = logging.getLogger(__name__)

Receive: TypeAlias = Callable[
    [Message, Ref | None, Sequence[Buffer]], Coroutine[Any, Any, Message | None]
]

MAX_MESSAGES_IN_A_ROW = 64
"""Handlers that never wait would keep everybody else on the loop from running."""


class State(enum.StrEnum):
    """Where a start of an actor is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class End:
    """How a start of an actor ended; `error` is its failure if it failed."""

    reason: DownReason
    error: Exception | None = None

    @property
    def text(self) -> str:
        """What watchers and askers are told."""
        return "" if self.error is None else describe(self.error)


class Registrar(Courier, Protocol):
    """The courier, who also keeps the list of the living."""

    def left(self, cell: "Cell", end: End) -> None:
        """A cell has ended: nothing reaches it any more, and it watches nobody."""
        ...


class Cell:
    """One start of one actor."""

    def __init__(
        self, ref: Ref, make: "Callable[[Cell], Actor]", mailbox: Mailbox, registrar: Registrar
    ) -> None:
        self.ref = ref
        self.mailbox = mailbox
        self.state = State.STARTING
        self.children: dict[str, Child] = {}
        self.num_handled = 0
        self.current: Envelope | None = None
        self.obligations = Obligations(registrar)
        self._registrar = registrar
        self._loop = asyncio.get_running_loop()
        self._make = make
        self._actor: Actor | None = None
        self.tasks = SideTasks(self._on_less_to_do)
        self._has_started = False
        self._stop_reason: DownReason | None = None

    # --- what comes in

    def accept(self, envelope: Envelope, *, always: bool = False) -> None:
        """Put a message into the mailbox; with `always`, past its bounds.

        Raises:
            ActorStopped: the actor takes nothing more.
            Draining: the actor takes no more asks.
            MailboxFull: the mailbox holds all it may.
        """
        if self._stop_reason is not None or self.state is State.STOPPED:
            raise ActorStopped(f"actor {self.ref} has stopped")
        if self.state is State.DRAINING and envelope.ask is not None:
            raise Draining(f"actor {self.ref} is draining")
        self.mailbox.put(envelope, always=always)
        if envelope.ask is not None:
            self.obligations.take(envelope.ask, envelope)

    def cancel_ask(self, ask: Key) -> None:
        """Drop an ask if it is still queued; one that is being handled runs on, for nothing."""
        envelope = self.obligations.forgive(ask)
        if envelope is not None and self.mailbox.discard(envelope):
            self._drop(envelope, DeadLetter.CANCELLED)
        self._on_less_to_do()

    def lose_peer(self, peer: Peer) -> None:
        """A process is gone: cancel its asks and forget its watchers."""
        for ask in self.obligations.asks_of(peer):
            self.cancel_ask(ask)
        self.obligations.drop_watchers_of(peer)

    def _drop(self, envelope: Envelope, why: DeadLetter) -> None:
        envelope.release()
        self._registrar.bury(why, self.ref)

    # --- what it is told to do

    def settle(self, ask: Key, reply: Message) -> None:
        """Answer an ask whose reply was put off."""
        self.obligations.settle(ask, reply)
        self._on_less_to_do()

    def put_off(self) -> tuple[Key, asyncio.TimerHandle] | None:
        """Owe the reply to the message being handled until its deadline; None if it is no ask."""
        envelope, self.current = self.current, None
        if envelope is None or envelope.ask is None or envelope.deadline is None:
            return None
        timer = self._loop.call_at(envelope.deadline, self.cancel_ask, envelope.ask)
        return envelope.ask, timer

    def fail(self, error: Exception) -> None:
        """Fail with the failure of a child."""
        if self.tasks.is_open:
            self.tasks.start(raise_(error))

    def request_stop(self, reason: DownReason) -> None:
        """End once the message being handled is."""
        self._stop_reason = self._stop_reason or reason
        self.mailbox.wake()

    def _on_less_to_do(self) -> None:
        """A drain may have waited for just this."""
        if self.state is State.DRAINING:
            self.mailbox.wake()

    def request_drain(self) -> None:
        """Take no more asks, and end once all that was taken is done."""
        if self.state is not State.STOPPED:
            self.state = State.DRAINING
            self.mailbox.wake()

    # --- the life

    def create(self) -> "Actor":
        """Make the actor itself, unless that was done."""
        if self._actor is None:
            self._actor = self._make(self)
        return self._actor

    async def run(self) -> End:
        """Live until the end, and say how it came."""
        DEADLINE.set(None)
        end = End(DownReason.KILLED)
        try:
            error = await attempt(self._live())
            end = await self._wind_down(error)
        except asyncio.CancelledError:
            for child in reversed(self.children.values()):
                child.kill()
        finally:
            self._close(end)
        return end

    async def _live(self) -> None:
        async with asyncio.TaskGroup() as group:
            self.tasks.open(group)
            try:
                await self._start()
                await self._handle_all()
            finally:
                self.tasks.close()

    async def _start(self) -> None:
        await self.create().on_start()
        self._has_started = True
        if self.state is State.STARTING:
            self.state = State.READY

    async def _handle_all(self) -> None:
        receive = self.create().receive
        num_in_a_row = 0
        while not self._is_done():
            envelope = self.mailbox.get_nowait()
            if envelope is None:
                await self.mailbox.wait()
                num_in_a_row = 0
                continue
            await self._handle(envelope, receive)
            num_in_a_row += 1
            if num_in_a_row == MAX_MESSAGES_IN_A_ROW:
                await asyncio.sleep(0)
                num_in_a_row = 0

    def _is_done(self) -> bool:
        if self._stop_reason is None and self.state is State.DRAINING and self._is_idle():
            self._stop_reason = DownReason.SHUTDOWN
        return self._stop_reason is not None

    def _is_idle(self) -> bool:
        busy = len(self.mailbox) or len(self.tasks) or self.obligations.num_asks
        return not busy and self.create().is_idle()

    async def _handle(self, envelope: Envelope, receive: Receive) -> None:
        deadline = envelope.deadline
        if deadline is not None and self._loop.time() >= deadline:
            self._drop_expired(envelope)
            return
        envelope.release()
        DEADLINE.set(deadline)
        self.current = envelope
        reply = await receive(envelope.message, envelope.sender, envelope.buffers)
        self.num_handled += 1
        if envelope.ask is not None and self.current is envelope:
            self.obligations.settle(envelope.ask, Ack() if reply is None else reply)
        self.current = None

    def _drop_expired(self, envelope: Envelope) -> None:
        if envelope.ask is not None:
            self.obligations.forgive(envelope.ask)
        self._drop(envelope, DeadLetter.EXPIRED)

    # --- the end

    async def _wind_down(self, error: Exception | None) -> End:
        """End the children, then the actor; its failure answers the ask it was handling."""
        DEADLINE.set(None)  # the end outlives the ask that led to it
        self.state = State.STOPPED
        end = End(self._stop_reason or DownReason.NORMAL)
        if error is not None:
            end = End(DownReason.ERROR, error)
            self._blame(error)
        self._refuse_what_waits(end)
        for child in list(reversed(self.children.values())):
            await child.stop()
        actor = self._actor
        if actor is not None and error is not None:
            end = await self._call(actor.on_failure(error), end)
        if actor is not None and self._has_started:
            end = await self._call(actor.on_stop(), end)
        return end

    def _blame(self, error: Exception) -> None:
        self._log_failure("actor failed", error)
        if self.current is not None and self.current.ask is not None:
            self.obligations.settle(self.current.ask, fault(error))

    async def _call(self, hook: Awaitable[None], end: End) -> End:
        error = await attempt(hook)
        if error is None:
            return end
        self._log_failure("actor failed at its end", error)
        return End(DownReason.ERROR, end.error or error)

    def _log_failure(self, what: str, error: Exception) -> None:
        """Say it in one line: who takes care of it is told, and if nobody does, it is raised."""
        _log.warning("%s actor=%s error=%s", what, self.ref, one_line(error))
        _log.debug("%s actor=%s", what, self.ref, exc_info=error)

    def _refuse_what_waits(self, end: End) -> None:
        stopped = self._stopped(end)
        for envelope in self.mailbox.drain_nowait():
            self._drop(envelope, DeadLetter.STOPPED)
            if envelope.ask is not None:
                self.obligations.settle(envelope.ask, stopped)

    def _close(self, end: End) -> None:
        self.state = State.STOPPED
        self._refuse_what_waits(end)
        self._registrar.left(self, end)
        self.obligations.settle_all(self._stopped(end), end.reason, end.text)
        _log.debug("actor ended actor=%s reason=%s", self.ref, end.reason)

    def _stopped(self, end: End) -> ActorStopped:
        return ActorStopped(f"actor {self.ref} has stopped ({end.text or end.reason})")
