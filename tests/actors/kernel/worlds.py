"""Where a scenario runs: on one process's instant wire, on simulated networks, over ZeroMQ.

A scenario is an async test that takes a world. `simulated` runs it on virtual time, `everywhere`
on every kind of network there is.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import pytest

from actors.kernel.errors import ActorStopped
from actors.kernel.mailbox import MailboxLimits
from actors.kernel.system import ActorSystem
from actors.kernel.virtual_time import run
from tests.actors.kernel.cast import CODEC, Note
from tests.actors.kernel.instant import InstantNetwork
from transport.endpoint import Lane
from transport.memory_endpoint import MemoryNetwork
from transport.zmq_endpoint import ZmqEndpoint

SMALL = MailboxLimits(max_messages=8, max_bytes=1 << 20)
LARGE = MailboxLimits()


class World(Protocol):
    """Opens systems that can reach each other."""

    def open(
        self, name: str, limits: MailboxLimits = SMALL
    ) -> AbstractAsyncContextManager[ActorSystem]:
        """A process with its actors."""
        ...

    def pair(
        self, limits: MailboxLimits = SMALL
    ) -> AbstractAsyncContextManager[tuple[ActorSystem, ActorSystem]]:
        """A system to send from and one to receive in; on one process they are the same."""
        ...


class InstantWorld:
    """Processes on an instant wire that a test can cut, fill and look into."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.network = InstantNetwork()

    @asynccontextmanager
    async def open(self, name: str, limits: MailboxLimits = SMALL) -> AsyncIterator[ActorSystem]:
        endpoint = self.network.open(name)
        try:
            async with ActorSystem(endpoint, CODEC, rng=self.rng, mailbox_limits=limits) as system:
                yield system
        finally:
            self.network.lose(name)

    @asynccontextmanager
    async def pair(
        self, limits: MailboxLimits = SMALL
    ) -> AsyncIterator[tuple[ActorSystem, ActorSystem]]:
        async with self.open("near", limits) as near, self.open("far", limits) as far:
            yield near, far


class LocalWorld(InstantWorld):
    """One process that sends to itself."""

    @asynccontextmanager
    async def pair(
        self, limits: MailboxLimits = SMALL
    ) -> AsyncIterator[tuple[ActorSystem, ActorSystem]]:
        async with self.open("here", limits) as here:
            yield here, here


class MemoryWorld:
    """Processes on a network in memory, whose packets are delayed, lost and doubled."""

    def __init__(self, rng: random.Random, loss: float = 0.1, duplication: float = 0.1) -> None:
        self.rng = rng
        self.network = MemoryNetwork(rng, delay_s=(0.0, 0.005), loss=loss, duplication=duplication)

    @asynccontextmanager
    async def open(self, name: str, limits: MailboxLimits = SMALL) -> AsyncIterator[ActorSystem]:
        endpoint = await self.network.open(name)
        try:
            async with ActorSystem(endpoint, CODEC, rng=self.rng, mailbox_limits=limits) as system:
                yield system
        finally:
            await endpoint.aclose()

    @asynccontextmanager
    async def pair(
        self, limits: MailboxLimits = SMALL
    ) -> AsyncIterator[tuple[ActorSystem, ActorSystem]]:
        async with self.open("near", limits) as near, self.open("far", limits) as far:
            yield near, far


async def arrived(near: ActorSystem, far: ActorSystem) -> None:
    """Wait until all that one system sent another is in the mailboxes there.

    Frames of a lane keep their order: what was sent before a question is there before its answer.
    """
    await asyncio.sleep(0)  # tasks that are to send something were created before us
    for lane in (Lane.CONTROL, Lane.DATA):
        with pytest.raises(ActorStopped):
            await near.ask(far.local_ref("nobody"), Note(0), timeout_s=5, lane=lane)


class ZmqWorld:
    """Processes on loopback, in real time."""

    @asynccontextmanager
    async def open(self, name: str, limits: MailboxLimits = SMALL) -> AsyncIterator[ActorSystem]:
        async with (
            ZmqEndpoint.opened(name=name) as endpoint,
            ActorSystem(endpoint, CODEC, rng=random.Random(0), mailbox_limits=limits) as system,
        ):
            yield system

    @asynccontextmanager
    async def pair(
        self, limits: MailboxLimits = SMALL
    ) -> AsyncIterator[tuple[ActorSystem, ActorSystem]]:
        async with self.open("near", limits) as near, self.open("far", limits) as far:
            yield near, far


def _in_real_time(scenario: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario(ZmqWorld()))


def simulated(scenario: Callable[[InstantWorld], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a scenario on virtual time, on a wire it can tamper with."""

    def test() -> None:
        run(lambda rng: scenario(InstantWorld(rng)), seed=0)

    test.__name__ = scenario.__name__
    return test


def over_memory(
    loss: float = 0.1, duplication: float = 0.1
) -> Callable[[Callable[[MemoryWorld], Coroutine[Any, Any, None]]], Callable[[], None]]:
    """Run a scenario on virtual time, on a network in memory with these faults."""

    def decorate(
        scenario: Callable[[MemoryWorld], Coroutine[Any, Any, None]],
    ) -> Callable[[], None]:
        def test() -> None:
            run(lambda rng: scenario(MemoryWorld(rng, loss, duplication)), seed=0)

        test.__name__ = scenario.__name__
        return test

    return decorate


KINDS: dict[str, Callable[[Callable[[World], Coroutine[Any, Any, None]]], None]] = {
    "local": lambda scenario: run(lambda rng: scenario(LocalWorld(rng)), seed=0),
    "instant": lambda scenario: run(lambda rng: scenario(InstantWorld(rng)), seed=0),
    "memory": lambda scenario: run(lambda rng: scenario(MemoryWorld(rng)), seed=0),
    "zmq": _in_real_time,
}


def everywhere(scenario: Callable[[World], Coroutine[Any, Any, None]]) -> Callable[[str], None]:
    """Run a scenario on every kind of network."""

    @pytest.mark.parametrize("kind", KINDS)
    def test(kind: str) -> None:
        KINDS[kind](scenario)

    test.__name__ = scenario.__name__
    return test
