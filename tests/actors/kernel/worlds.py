"""Where a scenario runs: on one process's instant wire, on simulated networks, over ZeroMQ.

A scenario is an async test that takes a world. `simulated` runs it on virtual time, `everywhere`
on every kind of network there is.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import pytest

from actors.kernel.mailbox import MailboxLimits
from actors.kernel.system import ActorSystem
from actors.kernel.virtual_time import run
from tests.actors.kernel.cast import CODEC
from tests.actors.kernel.instant import InstantNetwork

SMALL = MailboxLimits(max_messages=8, max_bytes=1 << 20)
LARGE = MailboxLimits()


class World(Protocol):
    """Opens systems that can reach each other."""

    def open(
        self, name: str, limits: MailboxLimits = SMALL
    ) -> AbstractAsyncContextManager[ActorSystem]:
        """A process with its actors."""
        ...

    def pair(self) -> AbstractAsyncContextManager[tuple[ActorSystem, ActorSystem]]:
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
    async def pair(self) -> AsyncIterator[tuple[ActorSystem, ActorSystem]]:
        async with self.open("near") as near, self.open("far") as far:
            yield near, far


class LocalWorld(InstantWorld):
    """One process that sends to itself."""

    @asynccontextmanager
    async def pair(self) -> AsyncIterator[tuple[ActorSystem, ActorSystem]]:
        async with self.open("here") as here:
            yield here, here


def simulated(scenario: Callable[[InstantWorld], Awaitable[None]]) -> Callable[[], None]:
    """Run a scenario on virtual time, on a wire it can tamper with."""

    def test() -> None:
        run(lambda rng: scenario(InstantWorld(rng)), seed=0)

    test.__name__ = scenario.__name__
    return test


KINDS: dict[str, Callable[[Callable[[World], Awaitable[None]]], None]] = {
    "local": lambda scenario: run(lambda rng: scenario(LocalWorld(rng)), seed=0),
    "instant": lambda scenario: run(lambda rng: scenario(InstantWorld(rng)), seed=0),
}


def everywhere(scenario: Callable[[World], Awaitable[None]]) -> Callable[[str], None]:
    """Run a scenario on every kind of network."""

    @pytest.mark.parametrize("kind", KINDS)
    def test(kind: str) -> None:
        KINDS[kind](scenario)

    test.__name__ = scenario.__name__
    return test
