"""Listening and stopping: the life of the HTTP endpoint."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

SHUTDOWN_TIMEOUT_S = 1.0


@asynccontextmanager
async def serving(app: web.Application, host: str, port: int) -> AsyncIterator[None]:
    """Answer requests at `host:port` until the block ends.

    A client that goes away cancels its handler, which frees what the request holds. At the end
    handlers still at work are cancelled after a grace.
    """
    runner = web.AppRunner(
        app, handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield
    finally:
        await runner.cleanup()
