"""How every process of a service opens its door: a ZeroMQ endpoint and an actor system on it."""

import random
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from actors.kernel.system import ActorSystem
from actors.messages import ALL_MESSAGES, DisturbLinks
from runtime import fault_actor
from runtime.version import package_version
from transport.codec import Codec
from transport.faulty_endpoint import FaultyEndpoint
from transport.zmq_endpoint import ZmqEndpoint


@asynccontextmanager
async def open_system(
    name: str,
    host: str,
    port: int,
    token: str,
    faults: Iterable[DisturbLinks] | None = None,
) -> AsyncIterator[ActorSystem]:
    """An actor system that speaks the cluster's protocol at `host:port` (0 takes a free port).

    With `faults`, even none, its links can be disturbed on purpose; those given do so at once.
    """
    async with AsyncExitStack() as stack:
        inner = await stack.enter_async_context(
            ZmqEndpoint.opened(
                name=name,
                host=host,
                port=port,
                token=token.encode(),
                package_version=package_version(),
            )
        )
        codec, rng = Codec(ALL_MESSAGES), random.Random()
        if faults is None:
            yield await stack.enter_async_context(ActorSystem(inner, codec, rng=rng))
            return
        endpoint = await stack.enter_async_context(FaultyEndpoint.opened(inner))
        for fault in faults:
            endpoint.disturb(fault_actor.to_disturbance(fault))
        system = await stack.enter_async_context(ActorSystem(endpoint, codec, rng=rng))
        system.spawn(fault_actor.FaultActor(endpoint), name=fault_actor.NAME)
        yield system
