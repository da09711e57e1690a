"""The parts of one process's kernel, connected: what frames mean, and what cells owe to whom.

It never starts or ends an actor.
"""

import asyncio
import logging

from actors.kernel.cell import Cell, End
from actors.kernel.dead_letters import DeadLetter, DeadLetters
from actors.kernel.envelope import Envelope, Key
from actors.kernel.errors import ActorError, ActorStopped, MailboxFull, Rejected, RemoteFault
from actors.kernel.links import Links, StartsTask
from actors.kernel.outcomes import outcome_from_wire
from actors.kernel.post import Post
from actors.kernel.ref import ANY, Ref
from actors.kernel.registry import Registry
from actors.kernel.supervision import DownReason
from actors.kernel.watching import Watching
from actors.kernel.wire import (
    WIRE,
    Ask,
    CancelAsk,
    Fault,
    Gone,
    Refused,
    Reply,
    Tell,
    Unwatch,
    Watch,
)
from transport.codec import Codec, Message
from transport.endpoint import Endpoint, PeerLost, Received
from transport.errors import DecodeError, Unreachable

_log = logging.getLogger(__name__)


class Switchboard:
    """Everything between an endpoint and the cells of a process."""

    def __init__(self, endpoint: Endpoint, codec: Codec, start_task: StartsTask) -> None:
        here = endpoint.identity
        self.dead_letters = DeadLetters()
        self.registry = Registry(here.address, here.incarnation)
        self.links = Links(endpoint, start_task)
        self.post = Post(endpoint, self.links, self.registry, self.dead_letters)
        self.watching = Watching(endpoint, self.links, self.registry, self.post)
        self._endpoint = endpoint
        self._codec = codec
        self._loop = asyncio.get_running_loop()

    # --- what cells need: a `Registrar`

    def answer(self, ask: Key, outcome: Message | Exception) -> None:
        """Give an ask its outcome."""
        self.post.answer(ask, outcome)

    def tell_gone(self, watch: Key, reason: DownReason, text: str) -> None:
        """Tell whoever opened a watch that the watched actor is gone."""
        self.watching.tell_gone(watch, reason, text)

    def bury(self, reason: DeadLetter, detail: object = "") -> None:
        """Count a message that nobody handles."""
        self.dead_letters.bury(reason, detail)

    def left(self, cell: Cell, end: End) -> None:
        """A cell has ended: nothing reaches it any more, and it watches nobody."""
        self.registry.remove(cell, end)
        self.watching.forget(cell.ref)

    # --- what the endpoint brings

    def on_event(self, event: Received | PeerLost) -> None:
        """Take a frame, or the news that a process is gone."""
        if isinstance(event, PeerLost):
            self._on_lost(event)
        else:
            self._on_frame(event)

    def _on_lost(self, lost: PeerLost) -> None:
        peer = lost.peer
        _log.info("peer lost name=%s address=%s reason=%s", peer.name, peer.address, lost.error)
        self.links.lose(peer)
        error = Unreachable(
            f"{peer.name} at {peer.address} was lost: {lost.error}; the ask may have run"
        )
        self.post.asks.lose_peer(peer, error)
        self.watching.watches.lose_peer(peer, lost.error)
        for cell in self.registry:
            cell.lose_peer(peer)

    def _on_frame(self, received: Received) -> None:
        self.links.heard_from(received.peer)
        try:
            is_kept = self._take(received, WIRE.decode(received.frame.head))
        except DecodeError as error:
            _log.warning("malformed frame peer=%s error=%s", received.peer.address, error)
            self.bury(DeadLetter.MALFORMED, error)
            is_kept = False
        if not is_kept:
            received.release()

    def _take(self, received: Received, wire: Message) -> bool:
        """Act on what a frame says; True if it went into a mailbox, which releases it later."""
        peer = received.peer
        match wire:
            case Tell():
                return self._on_tell(received, wire)
            case Ask():
                return self._on_ask(received, wire)
            case Reply() | Fault() | Refused():
                self.post.settle(peer, wire.id, outcome_from_wire(wire, self._codec))
            case Gone():
                self.watching.watches.end(peer, wire.id, wire.reason, wire.text)
            case Watch():
                self.watching.watched_from((peer, wire.id), wire.to, wire.generation)
            case Unwatch():
                self.watching.unwatched_from((peer, wire.id), wire.to)
            case CancelAsk():
                self._on_cancel((peer, wire.id), wire.to)
        return False

    def _on_tell(self, received: Received, wire: Tell) -> bool:
        envelope = self._envelope(received, wire)
        try:
            self.registry.find_here(wire.to, wire.generation).accept(envelope)
        except ActorStopped as error:
            self.bury(DeadLetter.STOPPED, error)
        except MailboxFull as error:
            self.bury(DeadLetter.MAILBOX_FULL, error)
        else:
            return True
        return False

    def _on_ask(self, received: Received, wire: Ask) -> bool:
        ask = (received.peer, wire.id)
        try:
            envelope = self._envelope(received, wire)
            envelope.ask = ask
            envelope.deadline = self._loop.time() + wire.remaining_ms / 1000
            self.registry.find_here(wire.to, wire.generation).accept(envelope)
        except DecodeError as error:
            self.answer(ask, RemoteFault(type(error).__name__, str(error), ""))
            raise
        except MailboxFull as error:
            self.answer(ask, Rejected(f"{wire.to!r} takes no more for now: {error}"))
        except ActorError as error:  # stopped or draining
            self.answer(ask, error)
        else:
            return True
        return False

    def _envelope(self, received: Received, wire: Tell | Ask) -> Envelope:
        frame, peer = received.frame, received.peer
        sender = None
        if wire.sender:
            sender = Ref(peer.address, peer.incarnation, wire.sender, wire.sender_generation)
        message = self._codec.decode(wire.body)
        return Envelope(
            message,
            sender,
            frame.buffers,
            received.lane,
            frame.num_bytes,
            release=received.release,
        )

    def _on_cancel(self, ask: Key, name: str) -> None:
        try:
            self.registry.find_here(name, ANY).cancel_ask(ask)
        except ActorStopped:
            return  # its end has answered the ask
