"""What has come in and waits for its one consumer, lowest lane first.

It holds no more than the receive windows of all peers grant.
"""

import asyncio
from collections import deque

from transport.endpoint import Lane, Peer, PeerLost, Received
from transport.errors import PeerGone, TransportError


class Inbox:
    """The queues behind an endpoint's `receive`, one a lane."""

    def __init__(self) -> None:
        self._lanes: tuple[deque[Received | PeerLost], ...] = tuple(deque() for _ in Lane)
        self._waiter: asyncio.Future[None] | None = None
        self._closed: TransportError | None = None

    def put(self, received: Received) -> None:
        """Add a frame."""
        self._lanes[received.lane].append(received)
        self._wake()

    def lose(self, peer: Peer, error: PeerGone) -> None:
        """Add the news that a peer is gone, behind every frame that it sent."""
        lanes = [
            lane
            for lane, queue in enumerate(self._lanes)
            if any(event.peer == peer for event in queue)
        ]
        self._lanes[max(lanes, default=Lane.CONTROL)].append(PeerLost(peer, error))
        self._wake()

    def close(self, error: TransportError) -> None:
        """Drop all that waits; from now on `receive` raises `error`."""
        self._closed = error
        for queue in self._lanes:
            queue.clear()
        self._wake()

    async def receive(self) -> Received | PeerLost:
        """The next event; does not suspend where one is there already."""
        while True:
            for queue in self._lanes:
                if queue:
                    return queue.popleft()
            if self._closed is not None:
                raise self._closed
            await self._wait()

    async def _wait(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            raise RuntimeError("an endpoint has one consumer at a time")
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
