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
from dataclasses import dataclass

from transport.counters import Counters
from transport.credit import wait_sent
from transport.endpoint import EndpointStatistics, Lane, Peer, PeerLost, Received
from transport.errors import (
    CannotListen,
    EndpointClosed,
    HandshakeRefused,
    PeerGone,
    TransportError,
    Unreachable,
)
from transport.frame import Frame
from transport.handshake import DIALLER, WRONG_TOKEN, Hello, Introduction, read_hello
from transport.inbox import Inbox
from transport.settings import EndpointSettings
from transport.wire_memory import Delay, Packet, Wire
from transport.wire_memory_link import Conversation, Host, Link

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
        self._num_conversations = 0

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
            for link in endpoint.links
            if link.name == there
        ]

    # --- for the endpoints

    def at(self, name: str) -> "MemoryEndpoint | None":
        """The process of that name, while it lives."""
        return self._endpoints.get(name)

    def forget(self, name: str) -> None:
        """That process listens no more."""
        del self._endpoints[name]

    def converse(self) -> Conversation:
        """A new conversation; one that began later has a higher number."""
        self._num_conversations += 1
        return Conversation(self._num_conversations)


@dataclass(frozen=True, slots=True)
class _Call:
    """What a dialler says: who it is, and the proof that it knows the token."""

    hello: bytes
    proof: bytes


class MemoryEndpoint:
    """One process's door on a `MemoryNetwork`, which opens it."""

    def __init__(self, network: MemoryNetwork, introduction: Introduction) -> None:
        self._network = network
        self._introduction = introduction
        self._settings = introduction.settings
        self._inbox = Inbox()
        self._counters = Counters()
        self._links: dict[str, Link] = {}
        self._dials: dict[str, Link] = {}
        self._closed: EndpointClosed | None = None
        self._is_shut = False
        self._none_left: asyncio.Event | None = None
        self._host = Host(
            self.identity.name,
            self._settings,
            self._counters,
            network.wire,
            self._inbox.put,
            self._on_lost,
        )

    @property
    def identity(self) -> Peer:
        """Ourselves, as our peers know us."""
        return self._introduction.identity

    @property
    def links(self) -> tuple[Link, ...]:
        """All links, also those that are being dialled."""
        return (*self._links.values(), *self._dials.values())

    # --- connecting

    async def connect(self, address: str, *, timeout_s: float) -> Peer:
        """Shake hands with the process at `address`, or return the peer already there."""
        if self._closed is not None:
            raise self._closed
        name = address.removeprefix(SCHEME)
        if name in self._links:
            return self._links[name].opened.result()
        link = self._dials.get(name) or self._dial(name)
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

    def _dial(self, name: str) -> Link:
        if len(self._links) + len(self._dials) >= self._settings.max_peers:
            raise HandshakeRefused(f"{SCHEME}{name} was not dialled: {self._full()}")
        link = self._dials[name] = Link(self._host, self._network.converse(), name)
        hello = self._introduction.hello()
        self._call(link, _Call(hello, self._introduction.prove(DIALLER, hello, b"")))
        return link

    def _call(self, link: Link, call: _Call) -> None:
        """Call until there is an answer: calls and answers may get lost, or nobody be there yet."""
        if link.opened.done():
            return

        def deliver() -> bool:
            endpoint = self._network.at(link.name)
            if endpoint is not None:
                endpoint.on_call(self, link, call)
            return True

        self._throw(link.name, len(call.hello), deliver)
        loop = asyncio.get_running_loop()
        loop.call_later(self._network.wire.retry_s, self._call, link, call)

    def _throw(self, name: str, num_bytes: int, deliver: "_Deliver") -> None:
        self._network.wire.carry(Packet(self.identity.name, name, num_bytes, deliver))
