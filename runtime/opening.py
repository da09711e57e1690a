"""How every process of a service opens its door: a ZeroMQ endpoint and an actor system on it."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from actors.kernel.system import ActorSystem
from actors.messages import ALL_MESSAGES
from runtime.join_token import JoinToken
from runtime.version import package_version
from transport.codec import Codec
from transport.security import KeyPair
from transport.zmq_endpoint import ZmqEndpoint


@asynccontextmanager
async def open_system(
    name: str,
    host: str,
    port: int,
    token: str,
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
        keys: our key pair in an encrypted cluster; a fresh one if it need not be known beforehand.
        model_hash: of the model that this process knows of; others that know another are refused.
    """
    join = JoinToken.parse(token)
    async with (
        ZmqEndpoint.opened(
            name=name,
            host=host,
            port=port,
            token=join.secret.encode(),
            package_version=package_version(),
            traits={"model": model_hash} if model_hash else {},
            keys=None if join.key is None else keys or KeyPair.fresh(),
            trusted_keys=() if join.key is None else (join.key,),
        ) as endpoint,
        ActorSystem(endpoint, Codec(ALL_MESSAGES), rng=random.Random()) as system,
    ):
        yield system
