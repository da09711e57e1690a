"""What has come in and waits for its one consumer, lowest lane first.

It holds no more than the receive windows of all peers grant.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from transport.endpoint import Lane, Peer, PeerLost, Received
from transport.errors import PeerGone, TransportError


class Inbox:
    """The queues behind an endpoint's `receive`, one a lane."""

    def __init__(self) -> None:
        self._lanes: tuple[deque[Received | PeerLost], ...] = tuple(deque() for _ in Lane)
        self._waiter: asyncio.Future[None] | None = None
        self._closed: TransportError | None = None
        self._on_event: Callable[[Received | PeerLost], None] | None = None

    def put(self, received: Received) -> None:
        """Add a frame."""
        if self._on_event is not None:
            self._on_event(received)
            return
        self._lanes[received.lane].append(received)
        self._wake()

    def lose(self, peer: Peer, error: PeerGone) -> None:
        """Add the news that a peer is gone, behind every frame that it sent.

        They all go to the control lane: should the peer come back, nothing of its new connection
        may overtake the end of the old one, whatever its lane.
        """
        if self._on_event is not None:
            self._on_event(PeerLost(peer, error))
            return
        control = self._lanes[Lane.CONTROL]
        for queue in self._lanes[Lane.DATA :]:
            control.extend(event for event in queue if event.peer == peer)
            others = [event for event in queue if event.peer != peer]
            queue.clear()
            queue.extend(others)
        control.append(PeerLost(peer, error))
        self._wake()

    def close(self, error: TransportError) -> None:
        """Drop all that waits; from now on `receive` raises `error`."""
        self._closed = error
        for queue in self._lanes:
            queue.clear()
        self._wake()

    def subscribe(self, on_event: Callable[[Received | PeerLost], None]) -> None:
        """Hand over what waits, lowest lane first, and from now on whatever comes."""
        while (event := self._next()) is not None:
            on_event(event)
        self._on_event = on_event

    async def receive(self) -> Received | PeerLost:
        """The next event; does not suspend where one is there already."""
        while True:
            if (event := self._next()) is not None:
                return event
            if self._closed is not None:
                raise self._closed
            await self._wait()

    def _next(self) -> Received | PeerLost | None:
        for queue in self._lanes:
            if queue:
                return queue.popleft()
        return None

    async def _wait(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            raise RuntimeError("an endpoint has one consumer at a time")
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
