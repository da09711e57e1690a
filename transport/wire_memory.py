"""A wire inside one process: it delays, loses, doubles, reorders and can be cut, by one seed.

All chance comes from an injected source and all time from the running loop, so on virtual time one
seed gives one trace. A packet that is kept is put on the wire again until a copy of it was taken,
as a sender without an acknowledgement would; the other end sorts the copies out by their numbers.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Generic, Protocol, TypeAlias, TypeVar

import msgspec

from transport.settings import EndpointSettings

_T = TypeVar("_T")

Delay: TypeAlias = Callable[[str, str, int], float]
"""Seconds that a packet is under way: `delay(sender, receiver, num_bytes)`."""

RETRIES = 16
"""How often a packet is sent again before its sender gives its peer up."""


class Keeper(Protocol):
    """Who wants a packet to get there."""

    @property
    def cares(self) -> bool:
        """Whether it is still worth sending again."""
        ...

    def on_silence(self) -> None:
        """No copy of a packet was taken for the time of all retries."""
        ...


class Packet(msgspec.Struct, eq=False):
    """Something under way between two processes; without a keeper it may get lost.

    `deliver` is called where a copy arrives and tells whether it was taken.
    """

    sender: str
    receiver: str
    num_bytes: int
    deliver: Callable[[], bool]
    keeper: Keeper | None = None
    num_retries: int = 0


class Wire:
    """What is between the processes of one network."""

    def __init__(
        self,
        rng: random.Random,
        *,
        delay_s: tuple[float, float] | Delay,
        loss: float,
        duplication: float,
        settings: EndpointSettings,
    ) -> None:
        for name, share in (("loss", loss), ("duplication", duplication)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name}: expected a share from 0 to 1, got {share!r}")
        self.loss = loss
        self.duplication = duplication
        self.retry_s = settings.peer_timeout_s / RETRIES
        self._rng = rng
        self._delay = delay_s if callable(delay_s) else _evenly(rng, *delay_s)
        self._cuts: set[frozenset[str]] = set()

    def cut(self, one: str, other: str) -> None:
        """Let nothing through between two processes."""
        self._cuts.add(frozenset((one, other)))

    def mend(self, one: str, other: str) -> None:
        """Undo `cut`."""
        self._cuts.discard(frozenset((one, other)))

    def carry(self, packet: Packet) -> None:
        """Put a packet out."""
        if (self._cuts and self._is_cut(packet)) or (self.loss and self._happens(self.loss)):
            self._on_lost(packet)
            return
        loop = asyncio.get_running_loop()
        loop.call_later(self._delay_s(packet), self._arrive, packet)
        if self.duplication and self._happens(self.duplication):
            loop.call_later(self._delay_s(packet), self._arrive_again, packet)

    def _is_cut(self, packet: Packet) -> bool:
        return frozenset((packet.sender, packet.receiver)) in self._cuts

    def _happens(self, share: float) -> bool:
        return self._rng.random() < share

    def _delay_s(self, packet: Packet) -> float:
        return self._delay(packet.sender, packet.receiver, packet.num_bytes)

    def _arrive(self, packet: Packet) -> None:
        if (self._cuts and self._is_cut(packet)) or not packet.deliver():
            self._on_lost(packet)

    def _arrive_again(self, packet: Packet) -> None:
        if not self._is_cut(packet):
            packet.deliver()

    def _on_lost(self, packet: Packet) -> None:
        keeper = packet.keeper
        if keeper is None or not keeper.cares:
            return
        if packet.num_retries >= RETRIES:
            keeper.on_silence()
            return
        packet.num_retries += 1
        asyncio.get_running_loop().call_later(self.retry_s, self._carry_again, packet)

    def _carry_again(self, packet: Packet) -> None:
        if packet.keeper is not None and packet.keeper.cares:
            self.carry(packet)


def _evenly(rng: random.Random, low: float, high: float) -> Delay:
    if not 0 <= low <= high:
        raise ValueError(f"delay_s: expected 0 <= low <= high, got {low!r}, {high!r}")
    return lambda sender, receiver, num_bytes: rng.uniform(low, high)


class InOrder(Generic[_T]):
    """Takes numbered things however often and in any order; gives each of them once, in order."""

    __slots__ = ("_early", "_next")

    def __init__(self) -> None:
        self._next = 0
        self._early: dict[int, _T] = {}

    def __len__(self) -> int:
        """How many came before their turn and wait for it."""
        return len(self._early)

    def take(self, number: int, thing: _T) -> list[_T]:
        """Those whose turn has come."""
        if number == self._next and not self._early:
            self._next += 1
            return [thing]
        if number >= self._next:
            self._early[number] = thing
        ready = []
        while self._next in self._early:
            ready.append(self._early.pop(self._next))
            self._next += 1
        return ready
