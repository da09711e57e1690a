"""An endpoint over ZeroMQ and TCP: one `Door` for what comes in, a `Link` per peer for what goes.

After a handshake the other end dials back before it welcomes, so that each end of a conversation
has a link whose connections tell when the peer is gone, and whoever is welcomed can be answered.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import zmq

from transport.endpoint import EndpointStatistics, Peer
from transport.errors import (
    CannotListen,
    EndpointClosed,
    HandshakeRefused,
    PeerGone,
    TransportError,
    Unreachable,
)
from transport.handshake import Introduction
from transport.security import KeyPair
from transport.settings import EndpointSettings
from transport.shared_endpoint import SharedEndpoint
from transport.zmq_curve import CurveGuard
from transport.zmq_door import Door, DoorEvents, Visitor
from transport.zmq_guard import Guard, PlainGuard
from transport.zmq_link import Link
from transport.zmq_socket import Context, new_socket

_log = logging.getLogger(__name__)

WILDCARDS = frozenset({"", "*", "0.0.0.0", "::"})


class ZmqEndpoint(SharedEndpoint):
    """One process's door over TCP; made by `opened`."""

    def __init__(
        self,
        context: Context,
        router: "zmq.Socket[bytes]",
        introduction: Introduction,
        guard: Guard,
    ) -> None:
        super().__init__(introduction)
        self._context = context
        self._guard = guard
        self._dialled: dict[str, Link] = {}
        self._links: dict[Peer, Link] = {}
        self._none_left: asyncio.Event | None = None
        events = DoorEvents(
            self._on_visitor, self._inbox.put, self._on_goodbye, self._on_misconduct
        )
        self._door = Door(router, introduction, guard, self._counters, events)

    @classmethod
    @asynccontextmanager
    async def opened(
        cls,
        *,
        name: str,
        host: str = "127.0.0.1",
        port: int = 0,
        token: bytes = b"",
        package_version: str = "",
        traits: Mapping[str, str] | None = None,
        settings: EndpointSettings | None = None,
        keys: KeyPair | None = None,
        trusted_keys: Collection[bytes] = (),
    ) -> "AsyncIterator[ZmqEndpoint]":
        """Listen at `host:port` (0 takes a free port) until the block ends.

        Peers dial back to `host`, so it must be an address of this machine that they reach, not a
        wildcard.

        Args:
            name: what peers call this process.
            host: the address of this machine to listen at.
            port: its TCP port.
            token: the secret that all processes of a cluster share.
            package_version: refused where it differs.
            traits: further facts that must not differ between two processes that both state them.
            settings: bounds and clocks.
            keys: ours; every connection is then encrypted and both ends authenticated, and our
                address carries the public key. Without them all is plaintext.
            trusted_keys: public keys of processes that are admitted without proving themselves
                first, such as the coordinator's.

        Raises:
            CannotListen: the address is taken, not ours or a wildcard.
        """
        settings = settings or EndpointSettings()
        context: Context = zmq.Context()
        guard: Guard = PlainGuard()
        try:
            if keys is not None:
                guard = CurveGuard(context, keys, trusted_keys, settings)
            router = _listen(context, host, port, settings, guard)
            address = guard.address_of(router.getsockopt_string(zmq.LAST_ENDPOINT))
            identity = Peer(address, name, secrets.randbits(62) | 1)
            introduction = Introduction(
                identity, settings, token=token, version=package_version, traits=traits or {}
            )
            endpoint = cls(context, router, introduction, guard)
            try:
                yield endpoint
            finally:
                await endpoint.aclose()
        finally:
            guard.close()
            context.destroy()

    # --- connecting

    async def connect(self, address: str, *, timeout_s: float) -> Peer:
        """Shake hands with the process at `address`, or return the peer already there."""
        if self._closed is not None:
            raise self._closed
        if (reason := self._guard.why_not_dial(address)) is not None:
            raise HandshakeRefused(f"{address} was not dialled: {reason}")
        link = self._dialled.get(address) or self._dial(address)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._connected(link)
        except TimeoutError:
            trouble = f"; {link.trouble}" if link.trouble else ""
            raise Unreachable(
                f"nobody answered at {address} within {timeout_s:g} s{trouble}"
            ) from None
        except PeerGone as error:
            raise Unreachable(str(error)) from None

    async def _connected(self, link: Link) -> Peer:
        with self._waiting_for(link):
            peer = await asyncio.shield(link.known)
            if (known := self._find_link(peer)) is None:
                raise PeerGone(f"{peer.name} at {link.address} was lost")
            with self._waiting_for(known):
                return await asyncio.shield(known.opened)

    @contextmanager
    def _waiting_for(self, link: Link) -> Iterator[None]:
        link.num_waiting += 1
        try:
            yield
        finally:
            self._wait_no_more(link)

    def _wait_no_more(self, link: Link) -> None:
        link.num_waiting -= 1
        if not link.num_waiting and not link.opened.done():
            self._on_lost(link, Unreachable(f"nobody answered at {link.address} in time"))

    def _dial(self, address: str) -> Link:
        link = self._dialled[address] = Link(
            address,
            self._context,
            self._introduction,
            self._guard,
            self._counters,
            claim=self._claim,
            on_lost=self._on_lost,
        )
        return link

    def _claim(self, link: Link, peer: Peer) -> bool:
        # A process may be dialled by several addresses, and may have dialled us meanwhile.
        first = self._links.setdefault(peer, link)
        self._dialled[link.address] = self._dialled[peer.address] = first
        return first is link

    def _find_link(self, peer: Peer) -> Link | None:
        return self._links.get(peer)

    # --- who comes

    def _on_visitor(self, visitor: Visitor) -> None:
        """Somebody proved itself: welcome it once we have a link to it as well."""
        peer = visitor.peer
        for former in [other for other in self._links if other.address == peer.address]:
            if former != peer:
                self._on_lost(self._links[former], PeerGone(f"{former.name} was started anew"))
        link = self._links.get(peer) or self._dialled.get(peer.address) or self._dial(peer.address)
        if not link.opened.done():
            self._hold(link)
        link.known.add_done_callback(lambda known: self._on_dialled_back(visitor, known))

    def _hold(self, link: Link) -> None:
        """Keep dialling for as long as a handshake may take."""
        link.num_waiting += 1
        timeout_s = self._introduction.settings.handshake_timeout_s
        asyncio.get_running_loop().call_later(timeout_s, self._wait_no_more, link)

    def _on_dialled_back(self, visitor: Visitor, known: "asyncio.Future[Peer]") -> None:
        if self._closed is not None:
            return
        error = known.exception()
        if error is not None:
            self._door.refuse(visitor, f"{self.identity.address} cannot answer us: {error}")
        elif known.result() != visitor.peer:
            self._door.refuse(visitor, f"{known.result().name} is at {visitor.peer.address} now")
        else:
            self._door.welcome(visitor)

    # --- ends

    def _on_goodbye(self, visitor: Visitor) -> None:
        self._lose_visitor(visitor, "closed")

    def _on_misconduct(self, visitor: Visitor, reason: str) -> None:
        self._lose_visitor(visitor, f"hung up on: {reason}")

    def hang_up(self, peer: Peer, reason: str) -> None:
        """Lose a peer now, as after silence; one that is not connected is no error."""
        if (link := self._links.get(peer)) is not None:
            self._on_lost(link, PeerGone(f"{peer.name} at {link.address}: {reason}"))

    def _lose_visitor(self, visitor: Visitor, reason: str) -> None:
        link = self._links.get(visitor.peer)
        self._door.show_out(visitor.peer, reason)
        if link is not None:
            self._on_lost(link, PeerGone(f"{visitor.peer.name} at {link.address}: {reason}"))

    def _on_lost(self, link: Link, error: TransportError) -> None:
        peer = link.peer
        self._dialled = {at: other for at, other in self._dialled.items() if other is not link}
        if peer is not None and self._links.get(peer) is link:
            self._door.drain()  # what it sent before it went is taken still
        if peer is not None and self._links.get(peer) is link:  # its goodbye was not among that
            del self._links[peer]
            was_visitor = self._door.show_out(peer, "the connection the other way broke")
            if was_visitor or link.opened.done():
                gone = error if isinstance(error, PeerGone) else PeerGone(str(error))
                self._inbox.lose(peer, gone)
        link.close(error)
        if not self._links and self._none_left is not None:
            self._none_left.set()

    async def aclose(self, *, grace_s: float = 0.5) -> None:
        """Tell the peers goodbye, deliver what is queued for at most `grace_s`, and close."""
        if self._closed is not None:
            return
        closed = self._closed = EndpointClosed("this endpoint was closed")
        try:
            async with asyncio.timeout(grace_s):
                await self._take_leave()
        except TimeoutError:
            _log.debug("closed before every peer answered goodbye num_peers=%d", len(self._links))
        finally:
            for link in {*self._links.values(), *self._dialled.values()}:
                link.close(closed)
            self._links.clear()
            self._dialled.clear()
            self._door.close()
            self._inbox.close(closed)

    async def _take_leave(self) -> None:
        """Say goodbye behind the last frame of every lane, and wait until every peer heard it."""
        self._none_left = asyncio.Event()
        for link in self._links.values():
            link.say_goodbye()
        if self._links:
            await self._none_left.wait()

    def statistics(self) -> EndpointStatistics:
        """Counters since the endpoint opened."""
        windows = [window for link in self._links.values() for window in link.windows]
        return self._counters.snapshot(len(self._links), windows)


def _listen(
    context: Context, host: str, port: int, settings: EndpointSettings, guard: Guard
) -> "zmq.Socket[bytes]":
    if host in WILDCARDS:
        raise CannotListen(f"{host}:{port}: peers dial back here, so give one address, not all")
    router = new_socket(context, zmq.ROUTER, settings)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    router.setsockopt(zmq.IPV6, ":" in host)
    guard.guard_door(router)
    address = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
    try:
        router.bind(address)
    except zmq.ZMQError as error:
        raise CannotListen(f"{address}: {error.strerror}") from None
    return router
