"""Requests on plain sockets, where a test sees the bytes and the end of them."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.runtime.gateway.scripted import PATIENCE_S, Client, ScriptedBackend, ScriptedStream

LAST_CHUNK = b"\r\n0\r\n\r\n"


@asynccontextmanager
async def posted(
    client: Client, path: str, body: dict[str, Any], *, receive_bytes: int | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A request on a plain socket of its own, where the end of the bytes can be seen."""
    plain = socket.socket()
    if receive_bytes is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    plain.setblocking(False)
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", client.port))
        # A buffer as small as can be: what the test does not read stays with the gateway.
        reader, writer = await asyncio.open_connection(sock=plain, limit=1024)
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
        writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + data)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


async def all_bytes(client: Client, path: str, body: dict[str, Any]) -> bytes:
    """Everything until the gateway cuts the connection."""
    async with posted(client, path, body | {"stream": True}) as (reader, _):
        return await reader.read()


async def wait_closed(stream: ScriptedStream) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await stream.closed.wait()


async def wait_began(backend: ScriptedBackend) -> ScriptedStream:
    async with asyncio.timeout(PATIENCE_S):
        await backend.submitted.wait()
        await backend.streams[0].began.wait()
    return backend.streams[0]
