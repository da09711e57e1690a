"""What one start of an actor owes to others: an outcome to each ask, a last word to each watcher.

Each debt is paid once, whatever ends the actor.
"""

from typing import Protocol

from actors.kernel.dead_letters import DeadLetter
from actors.kernel.envelope import Envelope, Key
from actors.kernel.supervision import DownReason
from transport.codec import Message
from transport.endpoint import Peer


class Courier(Protocol):
    """Carries what is owed to where it belongs, here or in another process."""

    def answer(self, ask: Key, outcome: Message | Exception) -> None:
        """Give an ask its outcome."""
        ...

    def tell_gone(self, watch: Key, reason: DownReason, text: str) -> None:
        """Tell whoever opened a watch that the watched actor is gone."""
        ...

    def bury(self, reason: DeadLetter, detail: object = "") -> None:
        """Count a message that nobody handles."""
        ...


class Obligations:
    """The asks an actor took and has not answered, and those who watch it."""

    def __init__(self, courier: Courier) -> None:
        self._courier = courier
        self._asks: dict[Key, Envelope] = {}
        self._watchers: dict[Key, None] = {}

    @property
    def num_asks(self) -> int:
        """Asks without an outcome: queued, being handled or put off."""
        return len(self._asks)

    def take(self, ask: Key, envelope: Envelope) -> None:
        """Owe an ask its outcome from now on."""
        self._asks[ask] = envelope

    def settle(self, ask: Key, outcome: Message | Exception) -> None:
        """Give an ask its outcome, unless nobody waits for it any more."""
        if ask in self._asks:
            self._courier.answer(ask, outcome)  # if it cannot be packed, one is still owed
            del self._asks[ask]
        else:
            self._courier.bury(DeadLetter.CANCELLED, ask)

    def forgive(self, ask: Key) -> Envelope | None:
        """Owe an ask nothing any more; None if nothing was owed."""
        return self._asks.pop(ask, None)

    def asks_of(self, peer: Peer) -> list[Key]:
        """The asks that came from one process."""
        return [ask for ask in self._asks if ask[0] == peer]

    def add_watcher(self, watch: Key) -> None:
        """Owe a watcher the news of the end."""
        self._watchers[watch] = None

    def drop_watcher(self, watch: Key) -> None:
        """Owe a watcher nothing any more."""
        self._watchers.pop(watch, None)

    def drop_watchers_of(self, peer: Peer) -> None:
        """Owe nothing to the watchers in a process that is gone."""
        for watch in [watch for watch in self._watchers if watch[0] == peer]:
            del self._watchers[watch]

    def settle_all(self, outcome: Exception, reason: DownReason, text: str) -> None:
        """Pay every debt: the actor has ended."""
        while self._asks:
            self.settle(next(iter(self._asks)), outcome)
        watchers, self._watchers = self._watchers, {}
        for watch in watchers:
            self._courier.tell_gone(watch, reason, text)
