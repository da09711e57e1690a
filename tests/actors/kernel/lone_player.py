"""A process with one player, for tests that kill it; run it by its module name."""

import asyncio
import random
import sys

import msgspec

from actors.kernel.system import ActorSystem
from tests.actors.kernel.cast import CODEC, Player
from transport.zmq_endpoint import ZmqEndpoint


async def main() -> None:
    """Say where the player is, and play until standard input ends."""
    async with (
        ZmqEndpoint.opened(name="lone") as endpoint,
        ActorSystem(endpoint, CODEC, rng=random.Random(0)) as system,
    ):
        ref = system.spawn(Player(), name="player")
        sys.stdout.write(msgspec.json.encode(ref).decode() + "\n")
        sys.stdout.flush()
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
        await ended.wait()
        asyncio.get_running_loop().remove_reader(sys.stdin)


if __name__ == "__main__":
    asyncio.run(main())
