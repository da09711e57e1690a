"""Listening and stopping: the life of the HTTP endpoint."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

SHUTDOWN_TIMEOUT_S = 1.0
MAX_REASON = 200
FULL_BODY = (
    b'{"error": {"message": "too many connections are open", "type": "server_error", '
    b'"param": null, "code": "too_many_connections"}}'
)
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
) % (len(FULL_BODY), FULL_BODY)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What connections may cost.

    Attributes:
        idle_timeout_s: seconds for the head of a request to be whole, the first as any other.
        max_connections: open at a time; those beyond are told so and closed.
    """

    idle_timeout_s: float = 75.0
    max_connections: int = 4096


@asynccontextmanager
async def serving(
    app: web.Application,
    host: str,
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    limits: ConnectionLimits | None = None,
) -> AsyncIterator[int]:
    """Answer requests at `host:port` until the block ends; gives the port, chosen where it was 0.

    A client that goes away cancels its handler, which frees what the request holds. At the end
    handlers still at work are cancelled after a grace.
    """
    limits = limits or ConnectionLimits()
    logging.getLogger("aiohttp.server").addFilter(malformed_in_one_line)
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        auto_decompress=False,  # compressed bodies are refused, so none is ever inflated
        keepalive_timeout=limits.idle_timeout_s,
        shutdown_timeout=SHUTDOWN_TIMEOUT_S,
    )
    await runner.setup()
    try:
        assert runner.server is not None
        accept = _bounded(runner.server, limits.max_connections)
        server = await asyncio.get_running_loop().create_server(accept, host, port, ssl=tls)
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            server.close()
    finally:
        await runner.cleanup()


def malformed_in_one_line(record: logging.LogRecord) -> bool:
    """Bytes that are no HTTP are no fault of ours: no traceback for every stranger's; all pass."""
    fault = record.exc_info[1] if record.exc_info else None
    if isinstance(fault, HttpProcessingError):
        record.exc_info = record.exc_text = None
        record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
        reason = " ".join(fault.message.split())[:MAX_REASON]
        record.msg, record.args = "malformed request reason=%s", (ascii(reason),)
    return True


def _bounded(server: web.Server, max_connections: int) -> Callable[[], asyncio.Protocol]:
    def accept() -> asyncio.Protocol:
        return server() if len(server.connections) < max_connections else _TurnedAway()

    return accept


class _TurnedAway(asyncio.Protocol):
    """Tells one client too many that it is one, and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(FULL)
        transport.close()
