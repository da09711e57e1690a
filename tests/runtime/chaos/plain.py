"""A service that sends, byte for byte, what a test has written down."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
from aiohttp import web

from runtime.chaos.site import Site
from runtime.gateway.server import serving

PATIENCE_S = 20.0
End = Literal["end", "cut", "open"]


@dataclass(frozen=True)
class Sent:
    """One answer: its status, its bytes, and whether it then ends, is cut, or stays open."""

    data: bytes
    end: End = "end"
    status: int = 200


@dataclass
class PlainService:
    """Answers the first request with the first answer, and so on; the last one serves for good."""

    answers: list[Sent]
    health: list[tuple[int, Any]] = field(default_factory=lambda: [(200, {})])
    other: Any = None
    bodies: list[dict[str, Any]] = field(default_factory=list)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        sent = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        response = web.StreamResponse(status=sent.status)
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(sent.data)
        if sent.end == "cut":
            assert request.transport is not None
            request.transport.close()
        elif sent.end == "open":
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.Event().wait()
        return response

    async def tell_health(self, request: web.Request) -> web.Response:
        status, body = self.health.pop(0) if len(self.health) > 1 else self.health[0]
        return web.json_response(body, status=status)

    async def tell(self, request: web.Request) -> web.Response:
        if isinstance(self.other, bytes):
            return web.Response(body=self.other)
        return web.json_response(self.other)


@asynccontextmanager
async def plain(service: PlainService) -> AsyncIterator[Site]:
    app = web.Application()
    app.add_routes(
        [
            web.post("/v1/completions", service.complete),
            web.get("/health", service.tell_health),
            web.get("/{other:.*}", service.tell),
        ]
    )
    async with serving(app, "127.0.0.1", 0) as port, aiohttp.ClientSession() as session:
        yield Site(session, f"http://127.0.0.1:{port}/")


def chunk(text: str, reason: str | None = None) -> bytes:
    return event({"choices": [{"text": text, "finish_reason": reason}], "usage": None})


def event(data: Any) -> bytes:
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


def usage(num_tokens: int) -> bytes:
    return event({"choices": [], "usage": {"completion_tokens": num_tokens}})


DONE = event(b"[DONE]")
WHOLE = chunk("one ") + chunk("two") + chunk("", "length") + usage(2) + DONE
