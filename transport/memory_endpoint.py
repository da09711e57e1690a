"""Endpoints that talk inside one process, over a wire with seeded faults: what simulation runs on.

A `MemoryNetwork` stands for all there is between some processes. It keeps the promises of
`transport.endpoint` over a `Wire` that delays, loses, doubles and reorders, and lets a test or a
simulation cut the wire between two processes or kill one. All time is the running loop's, no task
is started, and an idle network sets no timers.
"""

import asyncio
import logging
import random
from collections.abc import Mapping

from transport.endpoint import EndpointStatistics, Peer
from transport.errors import (
    CannotListen,
    EndpointClosed,
    PeerGone,
    TransportError,
    Unreachable,
)
from transport.handshake import Introduction
from transport.settings import EndpointSettings
from transport.shared_endpoint import SharedEndpoint
from transport.wire_memory import Delay, Wire
from transport.wire_memory_door import Door
from transport.wire_memory_link import Host, Link

_log = logging.getLogger(__name__)

SCHEME = "memory://"


class MemoryNetwork:
    """All processes by name, and the wire between them.

    Args:
        rng: the source of all chance.
        delay_s: how long a packet takes: evenly from a range, or whatever a function says.
        loss: the share of packets that are lost; they are sent again.
        duplication: the share that arrives twice.
        settings: bounds and clocks of every endpoint that is opened without its own.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        delay_s: tuple[float, float] | Delay = (0.0, 0.001),
        loss: float = 0.0,
        duplication: float = 0.0,
        settings: EndpointSettings | None = None,
    ) -> None:
        self.settings = settings or EndpointSettings()
        self.wire = Wire(
            rng, delay_s=delay_s, loss=loss, duplication=duplication, settings=self.settings
        )
        self._endpoints: dict[str, MemoryEndpoint] = {}
        self._num_lives = 0

    async def open(
        self,
        name: str,
        *,
        traits: Mapping[str, str] | None = None,
        version: str = "",
        token: bytes = b"",
        settings: EndpointSettings | None = None,
    ) -> "MemoryEndpoint":
        """Begin a life of the process `name`, at `memory://name`, until its `aclose`.

        Raises:
            CannotListen: it lives already.
        """
        if name in self._endpoints:
            raise CannotListen(f"{SCHEME}{name}: a process listens there already")
        self._num_lives += 1
        introduction = Introduction(
            Peer(SCHEME + name, name, self._num_lives),
            settings or self.settings,
            token=token,
            version=version,
            traits=traits or {},
        )
        endpoint = self._endpoints[name] = MemoryEndpoint(self, introduction)
        return endpoint

    def partition(self, one: str, other: str) -> None:
        """Let nothing through between two processes; after the peer timeout they lose each other.

        Nothing happens to those that are connected if it is healed before.
        """
        self.wire.cut(one, other)
        for link in self._links_between(one, other):
            link.miss()

    def heal(self, one: str, other: str) -> None:
        """Undo `partition`."""
        self.wire.mend(one, other)
        for link in self._links_between(one, other):
            link.found()

    def kill(self, name: str) -> None:
        """End a process without a goodbye; its own endpoint is closed, the others miss it."""
        endpoint = self._endpoints.get(name)
        if endpoint is not None:
            endpoint.die()

    def _links_between(self, one: str, other: str) -> list[Link]:
        return [
            link
            for here, there in ((one, other), (other, one))
            if (endpoint := self._endpoints.get(here)) is not None
            for link in endpoint.door.all_links()
            if link.name == there and link.peer is not None
        ]

    # --- for the endpoints

    def door_of(self, name: str) -> Door | None:
        """The door of the process of that name, while it lives."""
        endpoint = self._endpoints.get(name)
        return endpoint.door if endpoint is not None else None

    def is_alive(self, endpoint: "MemoryEndpoint") -> bool:
        """Whether that life of a process is its present one."""
        return self._endpoints.get(endpoint.identity.name) is endpoint

    def forget(self, name: str) -> None:
        """That process listens no more."""
        del self._endpoints[name]


class MemoryEndpoint(SharedEndpoint):
    """One process's door on a `MemoryNetwork`, which opens it."""

    def __init__(self, network: MemoryNetwork, introduction: Introduction) -> None:
        super().__init__(introduction)
        self._network = network
        self._none_left: asyncio.Event | None = None
        host = Host(
            self.identity.name,
            introduction.settings,
            self._counters,
            network.wire,
            self._inbox.put,
            self._on_lost,
        )
        self.door = Door(host, introduction, network)

    # --- connecting

    async def connect(self, address: str, *, timeout_s: float) -> Peer:
        """Shake hands with the process at `address`, or return the peer already there."""
        if self._closed is not None:
            raise self._closed
        name = address.removeprefix(SCHEME)
        if name in self.door.links:
            return self.door.links[name].opened.result()
        link = self.door.dials.get(name) or self.door.dial(name)
        link.num_waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(link.opened)
        except TimeoutError:
            raise Unreachable(f"nobody answered at {address} within {timeout_s:g} s") from None
        except PeerGone as error:
            raise Unreachable(str(error)) from None
        finally:
            link.num_waiting -= 1
            if not link.num_waiting and not link.opened.done():
                self._on_lost(link, Unreachable(f"nobody answered at {address} in time"))

    def _find_link(self, peer: Peer) -> Link | None:
        link = self.door.links.get(peer.name)
        return link if link is not None and link.peer == peer else None

    # --- ends

    def hang_up(self, peer: Peer, reason: str) -> None:
        """Lose a peer now, as after silence; one that is not connected is no error."""
        if (link := self._find_link(peer)) is not None:
            self._on_lost(link, PeerGone(f"{peer.name} at {peer.address}: {reason}"))

    def _on_lost(self, link: Link, error: TransportError) -> None:
        peer = link.peer
        self.door.forget(link)
        if peer is not None and isinstance(error, PeerGone):
            self._inbox.lose(peer, error)
        link.end(error, "it hung up")
        if not self.door.links and self._none_left is not None:
            self._none_left.set()

    async def aclose(self, *, grace_s: float = 0.5) -> None:
        """Tell the peers goodbye, deliver what is queued for at most `grace_s`, and close."""
        if self._closed is not None:
            return
        closed = self._closed = EndpointClosed("this endpoint was closed")
        self.door.is_open = False
        for dial in tuple(self.door.dials.values()):
            self._on_lost(dial, closed)
        try:
            async with asyncio.timeout(grace_s):
                await self._take_leave()
        except TimeoutError:
            _log.debug(
                "closed before every peer answered goodbye num_peers=%d", len(self.door.links)
            )
        finally:
            self._shut(closed, "closed")

    async def _take_leave(self) -> None:
        """Say goodbye behind the last frame of every lane, and wait until every peer heard it."""
        self._none_left = asyncio.Event()
        for link in self.door.links.values():
            link.say_goodbye()
        if self.door.links:
            await self._none_left.wait()

    def die(self) -> None:
        """End as a killed process does: nobody is told."""
        closed = self._closed = EndpointClosed(f"{self.identity.name} was killed")
        for link in self.door.all_links():
            link.is_killed = True
        self._shut(closed, "")

    def _shut(self, closed: EndpointClosed, farewell: str) -> None:
        if not self._network.is_alive(self):
            return  # killed while it was closing
        self._network.forget(self.identity.name)
        for link in self.door.all_links():
            self.door.forget(link)
            link.end(closed, farewell)
        self._inbox.close(closed)
        if self._none_left is not None:
            self._none_left.set()

    def statistics(self) -> EndpointStatistics:
        """Counters since the endpoint opened."""
        windows = [window for link in self.door.links.values() for window in link.windows]
        return self._counters.snapshot(len(self.door.links), windows)
