"""How every process of a service opens its door: a ZeroMQ endpoint and an actor system on it."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from actors.kernel.system import ActorSystem
from actors.messages import ALL_MESSAGES
from runtime.version import package_version
from transport.codec import Codec
from transport.zmq_endpoint import ZmqEndpoint


@asynccontextmanager
async def open_system(name: str, host: str, port: int, token: str) -> AsyncIterator[ActorSystem]:
    """An actor system that speaks the cluster's protocol at `host:port` (0 takes a free port)."""
    async with (
        ZmqEndpoint.opened(
            name=name, host=host, port=port, token=token.encode(), package_version=package_version()
        ) as endpoint,
        ActorSystem(endpoint, Codec(ALL_MESSAGES), rng=random.Random()) as system,
    ):
        yield system
