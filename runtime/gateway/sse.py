"""Answers on their way to one client: bounded, and never a polite end to a broken one."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiohttp import web

from runtime.gateway.errors import ApiError

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


class ClientGone(Exception):
    """The client left, or took nothing for as long as it may; its connection is cut."""


async def send_whole(request: web.Request, data: dict[str, Any], timeout_s: float) -> web.Response:
    """Send an answer in one piece; raises `ClientGone`."""
    response = web.json_response(data)
    async with _writing(request, timeout_s):
        await response.prepare(request)
        await response.write_eof()
    return response


class EventStream:
    """Server-sent events.

    The headers go out with the first event, or when they are sent for their own sake: until then an
    error can still be a plain answer.
    Several choices may send at once; each event goes out whole. All raise `ClientGone`.
    """

    def __init__(self, request: web.Request, timeout_s: float) -> None:
        self.response = web.StreamResponse(headers=HEADERS)
        self._request = request
        self._timeout_s = timeout_s
        self._turn = asyncio.Lock()
        self.num_writes = 0

    @property
    def is_open(self) -> bool:
        """Whether anything has gone out."""
        return self.response.prepared

    async def open(self) -> None:
        """Send the headers, and a line that clients skip."""
        await self._write(": waiting\n\n")

    async def send_named(self, name: str, data: dict[str, Any], event_id: int) -> None:
        """Send one object with a name, and the number that a client comes back with."""
        await self._write(f"id: {event_id}\nevent: {name}\ndata: {_json(data)}\n\n")

    async def send(self, data: dict[str, Any]) -> None:
        """Send one object."""
        await self._write(f"data: {_json(data)}\n\n")

    async def comment(self, text: str) -> None:
        """Send a line that clients skip and people read; before the first event nobody would."""
        if self.is_open:
            await self._write(f": {' '.join(text.split())}\n\n")

    async def finish(self) -> None:
        """Send the mark of a whole answer, and end."""
        await self._write("data: [DONE]\n\n")
        async with _writing(self._request, self._timeout_s):
            await self.response.write_eof()

    async def fail(self, error: ApiError) -> None:
        """Send an error event and cut the connection, so that no client takes it for success."""
        with suppress(ClientGone):
            await self._write(f"event: error\ndata: {_json(error.body())}\n\n")
        if self._request.transport is not None:
            # What is buffered still goes out, if the client takes it; the last chunk never does.
            self._request.transport.close()
            asyncio.get_running_loop().call_later(self._timeout_s, _abort, self._request)

    async def _write(self, text: str) -> None:
        async with _writing(self._request, self._timeout_s), self._turn:
            if not self.is_open:
                self.response.enable_chunked_encoding()
                await self.response.prepare(self._request)
            self.num_writes += 1
            await self.response.write(text.encode())


@asynccontextmanager
async def _writing(request: web.Request, timeout_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        _abort(request)
        raise ClientGone(f"nothing was read for {timeout_s:g} s") from None
    except ConnectionError as error:
        raise ClientGone(str(error)) from None


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))
