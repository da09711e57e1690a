"""Endpoints of both kinds for the tests that hold for either, and what they do with them.

A scenario is an async test that takes a `Neighbourhood`. `everywhere` runs it over memory on
virtual time, the same behind faulty endpoints that are told of no fault, over memory on a real
loop with a wire that loses and doubles, over ZeroMQ, and over ZeroMQ with CURVE.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any, Protocol, TypeAlias, TypeVar

import pytest

from actors.kernel.virtual_time import run
from transport.endpoint import Endpoint, Lane, Peer, PeerLost, Received
from transport.errors import CannotListen
from transport.faulty_endpoint import FaultyEndpoint
from transport.frame import Frame
from transport.memory_endpoint import MemoryNetwork
from transport.security import KeyPair, with_key
from transport.settings import EndpointSettings
from transport.zmq_endpoint import ZmqEndpoint

SOON_S = 10.0
"""Longer than anything here takes, so that a test that hangs fails."""


class Neighbourhood(Protocol):
    """Opens endpoints that can reach each other, and closes them at the end."""

    async def open(
        self,
        name: str,
        *,
        settings: EndpointSettings | None = None,
        version: str = "1",
        token: bytes = b"secret",
        traits: Mapping[str, str] | None = None,
    ) -> Endpoint:
        """Begin a life of a process."""
        ...

    def address_of_nobody(self) -> str:
        """Where nobody listens."""
        ...


class MemoryNeighbourhood:
    """Processes on one memory network."""

    def __init__(self, rng: random.Random, *, loss: float = 0.0, duplication: float = 0.0) -> None:
        self._stack = AsyncExitStack()
        self.network = MemoryNetwork(rng, delay_s=(0.0, 0.005), loss=loss, duplication=duplication)

    async def open(
        self,
        name: str,
        *,
        settings: EndpointSettings | None = None,
        version: str = "1",
        token: bytes = b"secret",
        traits: Mapping[str, str] | None = None,
    ) -> Endpoint:
        endpoint = await self.network.open(
            name, settings=settings, version=version, token=token, traits=traits
        )
        self._stack.push_async_callback(endpoint.aclose)
        return endpoint

    def address_of_nobody(self) -> str:
        return "memory://nobody"

    async def aclose(self) -> None:
        await self._stack.aclose()


class FaultyNeighbourhood(MemoryNeighbourhood):
    """The same, where every process could disturb its links, and none does until it is told to."""

    async def open(
        self,
        name: str,
        *,
        settings: EndpointSettings | None = None,
        version: str = "1",
        token: bytes = b"secret",
        traits: Mapping[str, str] | None = None,
    ) -> FaultyEndpoint:
        inner = await self.network.open(
            name, settings=settings, version=version, token=token, traits=traits
        )
        endpoint = FaultyEndpoint(inner, settings or self.network.settings)
        self._stack.push_async_callback(endpoint.aclose)
        return endpoint


class ZmqNeighbourhood:
    """Processes on loopback; a name that opens again listens where it did, with the same key."""

    def __init__(self, *, is_encrypted: bool = False) -> None:
        self._stack = AsyncExitStack()
        self._ports: dict[str, int] = {}
        self._is_encrypted = is_encrypted
        self._keys: dict[str, KeyPair] = {}

    async def open(
        self,
        name: str,
        *,
        settings: EndpointSettings | None = None,
        version: str = "1",
        token: bytes = b"secret",
        traits: Mapping[str, str] | None = None,
    ) -> Endpoint:
        if self._is_encrypted:
            self._keys.setdefault(name, KeyPair.fresh())
        async with asyncio.timeout(SOON_S):
            while True:
                opened = ZmqEndpoint.opened(
                    name=name,
                    port=self._ports.get(name, 0),
                    token=token,
                    package_version=version,
                    traits=traits,
                    settings=settings,
                    keys=self._keys.get(name),
                )
                try:
                    endpoint = await self._stack.enter_async_context(opened)
                    break
                except CannotListen:  # its former life still lets go of the port
                    await asyncio.sleep(0.01)
        self._ports[name] = int(endpoint.identity.address.rpartition(":")[2])
        return endpoint

    def address_of_nobody(self) -> str:
        nobody = "tcp://127.0.0.1:1"
        return with_key(nobody, KeyPair.fresh().public) if self._is_encrypted else nobody

    async def aclose(self) -> None:
        await self._stack.aclose()


_W = TypeVar("_W", MemoryNeighbourhood, FaultyNeighbourhood, ZmqNeighbourhood)
Scenario: TypeAlias = Callable[[Neighbourhood], Coroutine[Any, Any, None]]


def _on_virtual_time(scenario: Scenario) -> None:
    run(lambda rng: lived(scenario, MemoryNeighbourhood(rng)), seed=0)


def _through_faulty_endpoints(scenario: Scenario) -> None:
    run(lambda rng: lived(scenario, FaultyNeighbourhood(rng)), seed=0)


def _on_a_bad_wire(scenario: Scenario) -> None:
    wire = MemoryNeighbourhood(random.Random(0), loss=0.2, duplication=0.2)
    asyncio.run(lived(scenario, wire))


def _on_loopback(scenario: Scenario) -> None:
    asyncio.run(lived(scenario, ZmqNeighbourhood()))


async def lived(scenario: Callable[[_W], Coroutine[Any, Any, None]], where: _W) -> None:
    """Run a scenario to its end, and fail if a callback did that nobody waits for."""
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, failure: failures.append(failure))
    try:
        await scenario(where)
    finally:
        await where.aclose()
    assert not failures, "a callback of an endpoint failed"


def _encrypted(scenario: Scenario) -> None:
    asyncio.run(lived(scenario, ZmqNeighbourhood(is_encrypted=True)))


KINDS = {
    "memory": _on_virtual_time,
    "faulty": _through_faulty_endpoints,
    "bad-wire": _on_a_bad_wire,
    "zmq": _on_loopback,
    "curve": _encrypted,
}


def everywhere(scenario: Scenario) -> Callable[[str], None]:
    """Run a scenario over every kind of endpoint."""

    @pytest.mark.parametrize("kind", KINDS)
    def test(kind: str) -> None:
        KINDS[kind](scenario)

    test.__name__ = scenario.__name__
    return test


def simulated(
    scenario: Callable[[MemoryNeighbourhood], Coroutine[Any, Any, None]],
) -> Callable[[], None]:
    """Run a scenario on virtual time, on a memory network whose wire it may spoil."""

    def test() -> None:
        run(lambda rng: lived(scenario, MemoryNeighbourhood(rng)), seed=0)

    test.__name__ = scenario.__name__
    return test


def disturbed(
    scenario: Callable[[FaultyNeighbourhood], Coroutine[Any, Any, None]],
) -> Callable[[], None]:
    """Run a scenario on virtual time, between processes that can disturb their links."""

    def test() -> None:
        run(lambda rng: lived(scenario, FaultyNeighbourhood(rng)), seed=0)

    test.__name__ = scenario.__name__
    return test


# --- what tests do with endpoints


async def next_event(endpoint: Endpoint) -> Received | PeerLost:
    async with asyncio.timeout(SOON_S):
        return await endpoint.receive()


async def next_frame(endpoint: Endpoint, *, release: bool = True) -> Received:
    event = await next_event(endpoint)
    assert isinstance(event, Received), event
    if release:
        event.release()
    return event


async def next_loss(endpoint: Endpoint) -> PeerLost:
    event = await next_event(endpoint)
    assert isinstance(event, PeerLost), event
    return event


async def heads(endpoint: Endpoint, num_frames: int) -> list[bytes]:
    """The heads of the next frames, in the order in which they come."""
    return [(await next_frame(endpoint)).frame.head for _ in range(num_frames)]


async def say(sender: Endpoint, peer: Peer, *words: bytes, lane: Lane = Lane.DATA) -> None:
    for word in words:
        await sender.send(peer, Frame(word), lane, timeout_s=SOON_S)


async def connected(
    where: Neighbourhood, settings: EndpointSettings | None = None
) -> tuple[Endpoint, Endpoint, Peer]:
    """Two processes, `near` and `far`, and the latter as a peer of the former."""
    near = await where.open("near", settings=settings)
    far = await where.open("far", settings=settings)
    return near, far, await near.connect(far.identity.address, timeout_s=SOON_S)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds that nothing tells of."""
    async with asyncio.timeout(SOON_S):
        while not condition():  # noqa: ASYNC110 - statistics set no events
            await asyncio.sleep(0.005)
