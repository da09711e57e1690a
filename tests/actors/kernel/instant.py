"""A wire without credit, and without delay unless asked for, for tests that tamper with it.

What a real endpoint does is the transport's own tests' affair; this one raises what a test tells
it to.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from transport.endpoint import EndpointStatistics, Lane, Peer, PeerLost, Received
from transport.errors import EndpointClosed, PeerGone, TransportError, Unreachable
from transport.frame import Frame

Delay: TypeAlias = Callable[[], float]

STRANGER = Peer("instant://stranger", "stranger", 99)
"""A peer that no network here knows."""


class Events:
    """What an endpoint heard, until it is received or subscribed to."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Received | PeerLost | EndpointClosed] = asyncio.Queue()
        self._on_event: Callable[[Received | PeerLost], None] | None = None

    def subscribe(self, on_event: Callable[[Received | PeerLost], None]) -> None:
        self._on_event = on_event
        for _ in range(self._queue.qsize()):
            self.put_nowait(self._queue.get_nowait())

    def put_nowait(self, event: Received | PeerLost | EndpointClosed) -> None:
        if self._on_event is None or isinstance(event, EndpointClosed):
            self._queue.put_nowait(event)
        else:  # never within the call that sent it
            asyncio.get_running_loop().call_soon(self._on_event, event)

    async def get(self) -> Received | PeerLost | EndpointClosed:
        return await self._queue.get()


@dataclass
class InstantEndpoint:
    """One process's door.

    `refusal` is raised by every send from now on, each of `refusals` by one; who connects is told
    `told_after_s` after it has.
    """

    network: "InstantNetwork"
    identity: Peer
    events: Events = field(default_factory=Events)
    sent: list[tuple[Peer, Frame, Lane]] = field(default_factory=list)
    refusal: TransportError | None = None
    refusals: list[TransportError] = field(default_factory=list)
    told_after_s: float = 0.0
    num_received: int = 0
    num_released: int = 0

    async def connect(self, address: str, *, timeout_s: float) -> Peer:
        endpoint = self.network.at(address)
        await asyncio.sleep(0.01 if endpoint else timeout_s)
        if endpoint is None:
            raise Unreachable(f"nobody at {address}")
        await asyncio.sleep(self.told_after_s)
        return endpoint.identity

    def send_nowait(self, peer: Peer, frame: Frame, lane: Lane = Lane.DATA) -> None:
        if self.refusal is not None:
            raise self.refusal
        if self.refusals:
            raise self.refusals.pop()
        endpoint = self.network.at(peer.address)
        if endpoint is None or endpoint.identity != peer:
            raise PeerGone(f"{peer.address} is gone")
        self.sent.append((peer, frame, lane))
        self.network.carry(self.identity, endpoint, frame, lane)

    def take(self, peer: Peer, frame: Frame, lane: Lane) -> None:
        """Let a frame arrive."""
        self.num_received += 1
        self.events.put_nowait(Received(peer, lane, frame, self._release))

    def _release(self) -> None:
        self.num_released += 1

    async def send(
        self, peer: Peer, frame: Frame, lane: Lane = Lane.DATA, *, timeout_s: float
    ) -> None:
        raise NotImplementedError

    async def receive(self) -> Received | PeerLost:
        event = await self.events.get()
        if isinstance(event, EndpointClosed):
            raise event
        return event

    def subscribe(self, on_event: Callable[[Received | PeerLost], None]) -> None:
        self.events.subscribe(on_event)

    async def aclose(self, *, grace_s: float = 0.5) -> None:
        raise NotImplementedError

    def statistics(self) -> EndpointStatistics:
        raise NotImplementedError


class InstantNetwork:
    """All processes by name; a name that comes again is a new life at the same address."""

    def __init__(self) -> None:
        self.endpoints: dict[str, InstantEndpoint] = {}
        self.delay: Delay | None = None
        self._num_lives = 0
        self._arrivals: dict[tuple[str, str, Lane], float] = {}

    def open(self, name: str) -> InstantEndpoint:
        """Begin a life of a process."""
        self._num_lives += 1
        identity = Peer(f"instant://{name}", name, self._num_lives)
        endpoint = self.endpoints[name] = InstantEndpoint(self, identity)
        return endpoint

    def at(self, address: str) -> InstantEndpoint | None:
        """Who listens at an address."""
        return self.endpoints.get(address.removeprefix("instant://").removesuffix("/"))

    def carry(self, sender: Peer, to: InstantEndpoint, frame: Frame, lane: Lane) -> None:
        """Let a frame arrive, now or after a delay; never before an earlier one of its lane."""
        if self.delay is None:
            to.take(sender, frame, lane)
            return
        loop, way = asyncio.get_running_loop(), (sender.address, to.identity.address, lane)
        arrival = max(loop.time() + self.delay(), self._arrivals.get(way, 0.0))
        self._arrivals[way] = arrival
        loop.call_at(arrival, to.take, sender, frame, lane)

    def lose(self, name: str) -> None:
        """End a life of a process, without a word to its own system; the others notice."""
        lost = self.endpoints.pop(name, None)
        if lost is None:
            return
        for endpoint in self.endpoints.values():
            error = PeerGone(f"{name} fell silent")
            endpoint.events.put_nowait(PeerLost(lost.identity, error))
