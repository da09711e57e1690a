"""The post office of one process: carries each message to its actor, here or elsewhere.

Every rule of delivery stands here once, whether the actor is local or remote:

- A tell never waits and happens at most once, in order per sender, receiver and lane. What cannot
  be delivered is counted as a dead letter; the one error of the world that a tell raises is
  `MailboxFull`, of a mailbox on this process, where the sender can do something about it.
- An ask ends in exactly one of: reply, `RemoteFault`, `ActorStopped`, `Rejected` (full or
  draining), `Unreachable`, `AskTimeout`. Asks made while an ask is handled end no later than it
  does. An asker that is cancelled takes the ask back if it is still queued; a handler that began
  runs on, for nothing.
- A frame over the transport's bounds is a bug of the sender's, and raises `FrameTooLarge`; where
  that is a reply, the asker gets it as a `RemoteFault`.
"""

import asyncio
from collections.abc import Sequence

from actors.kernel.asks import DEADLINE, Asks, PendingAsk, refusal
from actors.kernel.dead_letters import DeadLetter, DeadLetters
from actors.kernel.envelope import Envelope, Key, buffers_bytes
from actors.kernel.errors import ActorStopped, AskTimeout, MailboxFull, RemoteFault
from actors.kernel.links import Links
from actors.kernel.outcomes import outcome_to_wire
from actors.kernel.ref import Ref
from actors.kernel.registry import Registry
from actors.kernel.wire import WIRE, Ask, CancelAsk, Tell, body_of
from transport.codec import Message
from transport.endpoint import Endpoint, Lane, Peer
from transport.errors import FrameTooLarge, SendQueueFull, TransportError
from transport.frame import Buffer, Frame


class Post:
    """Carries tells, asks and their outcomes."""

    def __init__(
        self, endpoint: Endpoint, links: Links, registry: Registry, dead_letters: DeadLetters
    ) -> None:
        self.asks = Asks()
        self._endpoint = endpoint
        self._links = links
        self._registry = registry
        self._dead_letters = dead_letters
        self._tells = _Tells(dead_letters)
        self._loop = asyncio.get_running_loop()

    # --- tell

    def tell(
        self,
        ref: Ref,
        message: Message,
        *,
        buffers: Sequence[Buffer] = (),
        lane: Lane = Lane.DATA,
        sender: Ref | None = None,
    ) -> None:
        """Send a message that expects no reply.

        Raises:
            MailboxFull: the actor is on this process and its mailbox is full.
            FrameTooLarge: message and buffers are over the transport's bounds.
        """
        if self._registry.is_here(ref):
            size = buffers_bytes(buffers)
            self.deliver(ref, Envelope(message, sender, buffers, lane, size))
            return
        name, generation = _signature(sender)
        head = WIRE.encode(Tell(ref.name, ref.generation, name, generation, body_of(message)))
        try:
            self._links.send(ref, Frame(head, buffers), lane, self._tells)
        except FrameTooLarge:
            raise
        except TransportError as error:
            self._tells.fail(error)

    def deliver(self, ref: Ref, envelope: Envelope, *, always: bool = False) -> None:
        """Put a tell into a mailbox of this process; raises `MailboxFull` as `tell` does."""
        try:
            self._registry.find(ref).accept(envelope, always=always)
        except MailboxFull:
            self._dead_letters.bury(DeadLetter.MAILBOX_FULL, ref)
            raise
        except ActorStopped:
            self._dead_letters.bury(DeadLetter.STOPPED, ref)

    # --- ask

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
        deadline = self._loop.time() + timeout_s
        inherited = DEADLINE.get()
        if inherited is not None:
            deadline = min(deadline, inherited)
        pending = self.asks.open(ref)
        try:
            self._send_ask(pending, message, buffers, lane, sender, deadline)
            outcome = await self._outcome(pending, lane, deadline)
        finally:
            self.asks.close(pending)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _send_ask(
        self,
        pending: PendingAsk,
        message: Message,
        buffers: Sequence[Buffer],
        lane: Lane,
        sender: Ref | None,
        deadline: float,
    ) -> None:
        ref = pending.ref
        remaining_ms = int((deadline - self._loop.time()) * 1000)
        if remaining_ms <= 0:
            raise AskTimeout(f"no time left to ask {ref}")
        try:
            if self._registry.is_here(ref):
                envelope = Envelope(message, sender, buffers, lane, buffers_bytes(buffers))
                envelope.ask, envelope.deadline = (None, pending.id), deadline
                self._registry.find(ref).accept(envelope)
                return
            names = (ref.name, ref.generation, *_signature(sender))
            head = WIRE.encode(Ask(*names, body_of(message), pending.id, remaining_ms))
            self._links.send(ref, Frame(head, buffers), lane, pending)
        except (MailboxFull, SendQueueFull) as full:
            raise refusal(ref, full) from full

    async def _outcome(
        self, pending: PendingAsk, lane: Lane, deadline: float
    ) -> Message | Exception:
        timer = self._loop.call_at(deadline, pending.expire)
        try:
            return await pending.future
        except asyncio.CancelledError:
            self._take_back(pending, lane)
            raise
        finally:
            timer.cancel()

    def _take_back(self, pending: PendingAsk, lane: Lane) -> None:
        """Have an ask not run; on its own lane, where this cannot overtake it."""
        ref = pending.ref
        try:
            if self._registry.is_here(ref):
                self._registry.find(ref).cancel_ask((None, pending.id))
            else:
                head = WIRE.encode(CancelAsk(ref.name, pending.id))
                self._links.send(ref, Frame(head), lane, self._tells)
        except (ActorStopped, TransportError):
            return  # whoever is gone will not run it

    def answer(self, ask: Key, outcome: Message | Exception) -> None:
        """Give an ask its outcome, wherever it came from."""
        peer, id_ = ask
        if peer is None:
            self.settle(None, id_, outcome)
            return
        frame = Frame(WIRE.encode(outcome_to_wire(id_, outcome)))
        try:
            self._endpoint.send_nowait(peer, frame, Lane.CONTROL)
        except TransportError as error:
            self._tells.fail(error)
            if isinstance(error, FrameTooLarge) and isinstance(outcome, Message):
                self.answer(ask, RemoteFault(type(error).__name__, f"its reply: {error}", ""))

    def settle(self, peer: Peer | None, id_: int, outcome: Message | Exception) -> None:
        """Hand an outcome to whoever asked on this process."""
        if not self.asks.settle(peer, id_, outcome):
            self._dead_letters.bury(DeadLetter.LATE_REPLY, id_)


class _Tells:
    """What becomes of a frame that nobody waits for."""

    def __init__(self, dead_letters: DeadLetters) -> None:
        self.peer: Peer | None = None
        self.is_over = False
        self._dead_letters = dead_letters

    def fail(self, error: Exception) -> None:
        self._dead_letters.bury(_why(error), error)


def _why(error: Exception) -> DeadLetter:
    if isinstance(error, SendQueueFull):
        return DeadLetter.QUEUE_FULL
    return DeadLetter.TOO_LARGE if isinstance(error, FrameTooLarge) else DeadLetter.UNREACHABLE


def _signature(sender: Ref | None) -> tuple[str, int]:
    return ("", 0) if sender is None else (sender.name, sender.generation)
