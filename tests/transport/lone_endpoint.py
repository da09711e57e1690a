"""A process with one endpoint, for tests that kill it; run it by its module name."""

import asyncio
import sys

from transport.endpoint import Received
from transport.zmq_endpoint import ZmqEndpoint


async def main() -> None:
    """Say where the endpoint is, and send back every frame that comes until all peers are lost."""
    async with ZmqEndpoint.opened(name="lone", token=b"secret", package_version="1") as endpoint:
        sys.stdout.write(endpoint.identity.address + "\n")
        sys.stdout.flush()
        while isinstance(event := await endpoint.receive(), Received):
            await endpoint.send(event.peer, event.frame, event.lane, timeout_s=10)
            event.release()


if __name__ == "__main__":
    asyncio.run(main())
