"""How a service is watched over HTTP: `/metrics` for Prometheus, `/admin/events` for people."""

from aiohttp import web

from runtime.gateway.errors import ApiError
from runtime.gateway.faults import EVENTS
from runtime.gateway.sse import EventStream
from runtime.telemetry.events import Entry, EventLog
from runtime.telemetry.telemetry import Telemetry

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
DEFAULT_EVENTS, MAX_EVENTS = 256, 4096
KEEP_ALIVE_S = 15.0
"""How often a stream of events shows that it lives."""
MAX_WATCHERS = 64


class WatchRoutes:
    """Metrics and events of one service."""

    def __init__(self, telemetry: Telemetry, write_timeout_s: float) -> None:
        self._telemetry = telemetry
        self._write_timeout_s = write_timeout_s
        self._num_watchers = 0

    def routes(self) -> list[web.RouteDef]:
        """What an application adds."""
        return [web.get("/metrics", self.metrics), web.get("/admin/events", self.events)]

    async def metrics(self, request: web.Request) -> web.Response:
        """`GET /metrics`."""
        body = await self._telemetry.exposition()
        return web.Response(body=body, headers={"Content-Type": METRICS_TYPE})

    async def events(self, request: web.Request) -> web.StreamResponse:
        """`GET /admin/events`: those after `after`, or as they come where SSE is accepted.

        A browser that takes a stream up again asks as it did first, and says in `Last-Event-ID` how
        far it had come since.
        """
        after = max(
            query_number(request, "after", "0"),
            _number("Last-Event-ID", request.headers.get("Last-Event-ID", "0")),
        )
        if "text/event-stream" in request.headers.get("Accept", ""):
            if "limit" in request.query:
                raise ApiError(400, "limit: not of events that are streamed", param="limit")
            return await self._follow(request, after)
        limit = min(query_number(request, "limit", str(DEFAULT_EVENTS)), MAX_EVENTS)
        log = self._telemetry.events
        entries = log.after(after, limit)
        return web.json_response(
            {
                "events": [entry.body() for entry in entries],
                "missed": log.num_missed(after),
                "last_id": log.last_id,
            }
        )

    async def _follow(self, request: web.Request, after: int) -> web.StreamResponse:
        if self._num_watchers >= MAX_WATCHERS:
            message = f"{MAX_WATCHERS} streams of events are open; close one, or ask for JSON"
            raise ApiError(429, message, code="too_many_watchers", headers={"Retry-After": "5"})
        stream = request[EVENTS] = EventStream(request, self._write_timeout_s)
        self._num_watchers += 1
        try:
            await stream.open()
            await _send_all(stream, self._telemetry.events, after)
        finally:
            self._num_watchers -= 1
        return stream.response


async def _send_all(stream: EventStream, log: EventLog, after: int) -> None:
    """Send events until the client leaves, or the server ends, which cancels this."""
    while True:
        if missed := log.num_missed(after):
            await stream.comment(f"missed {missed}")
            after += missed
        for entry in log.after(after, MAX_EVENTS):
            await stream.send_named(entry.kind, _data(entry), entry.id)
            after = entry.id
        if not await log.wait_after(after, KEEP_ALIVE_S):
            await stream.comment("still here")


def _data(entry: Entry) -> dict[str, object]:
    return {"at": entry.at, **entry.facts}


def query_number(request: web.Request, name: str, default: str) -> int:
    """A whole number of the query; raises `ApiError` 400."""
    return _number(name, request.query.get(name, default))


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise ApiError(400, f"{name}: expected a whole number, got {text[:40]!r}", param=name)
    return int(text)
