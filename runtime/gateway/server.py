"""Listening and stopping: the life of the HTTP endpoint."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

SHUTDOWN_TIMEOUT_S = 1.0


@asynccontextmanager
async def serving(app: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Answer requests at `host:port` until the block ends; gives the port, chosen where it was 0.

    A client that goes away cancels its handler, which frees what the request holds. At the end
    handlers still at work are cancelled after a grace.
    """
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        auto_decompress=False,  # compressed bodies are refused, so none is ever inflated
        shutdown_timeout=SHUTDOWN_TIMEOUT_S,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
