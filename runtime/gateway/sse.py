"""Server-sent events to one client: bounded, and never a polite end to a broken answer."""

import asyncio
import json
from typing import Any

from aiohttp import web

from runtime.gateway.errors import error_body

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


class SlowReader(Exception):
    """A client took nothing for as long as it may."""


class EventStream:
    """Writes events; a client that stops reading is dropped after `write_timeout_s`."""

    def __init__(self, request: web.Request, write_timeout_s: float) -> None:
        self._request = request
        self._response = web.StreamResponse(headers=HEADERS)
        self._write_timeout_s = write_timeout_s

    async def open(self) -> web.StreamResponse:
        """Send the headers."""
        self._response.enable_chunked_encoding()
        await self._response.prepare(self._request)
        return self._response

    async def send(self, data: dict[str, Any]) -> None:
        """Send one object."""
        await self._write(f"data: {_json(data)}\n\n")

    async def finish(self) -> None:
        """Send the mark of a whole answer, and end."""
        await self._write("data: [DONE]\n\n")
        await self._response.write_eof()

    async def fail(self, message: str, kind: str) -> None:
        """Send an error event and cut the connection, so that no client takes it for success."""
        body = error_body(message, "server_error", None, kind)
        await self._write(f"event: error\ndata: {_json(body)}\n\n")
        self._response.force_close()
        if self._request.transport is not None:
            self._request.transport.close()  # what is buffered still goes out, the last chunk not

    async def _write(self, text: str) -> None:
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await self._response.write(text.encode())
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise SlowReader(f"nothing was read for {self._write_timeout_s:g} s") from None


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))
