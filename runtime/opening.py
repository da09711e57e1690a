"""How every process of a service opens its door: a ZeroMQ endpoint and an actor system on it."""

import random
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from actors.kernel.system import ActorSystem
from actors.messages import ALL_MESSAGES, DisturbLinks
from runtime import fault_actor
from runtime.join_token import JoinToken
from runtime.version import package_version
from transport.codec import Codec
from transport.faulty_endpoint import FaultyEndpoint
from transport.security import KeyPair
from transport.zmq_endpoint import ZmqEndpoint


@asynccontextmanager
async def open_system(
    name: str,
    host: str,
    port: int,
    token: str,
    faults: Iterable[DisturbLinks] | None = None,
    *,
    keys: KeyPair | None = None,
    model_hash: str = "",
) -> AsyncIterator[ActorSystem]:
    """An actor system that speaks the cluster's protocol at `host:port` (0 takes a free port).

    Where the token carries the coordinator's key, every link is encrypted.

    Args:
        name: what others call this process.
        host: the address it listens at.
        port: its TCP port.
        token: the cluster's join token.
        faults: disturb its links from the beginning; None means that nothing may ever do so.
        keys: our key pair in an encrypted cluster; a fresh one if it need not be known beforehand.
        model_hash: of the model that this process knows of; others that know another are refused.
    """
    join = JoinToken.parse(token)
    async with AsyncExitStack() as stack:
        inner = await stack.enter_async_context(
            ZmqEndpoint.opened(
                name=name,
                host=host,
                port=port,
                token=join.secret.encode(),
                package_version=package_version(),
                traits={"model": model_hash} if model_hash else {},
                keys=None if join.key is None else keys or KeyPair.fresh(),
                trusted_keys=() if join.key is None else (join.key,),
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
