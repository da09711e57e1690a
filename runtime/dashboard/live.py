"""`GET /admin/live`: one stream of server-sent events that a page is drawn from.

At most four messages a second and at least two: what happens in between is in the next one. A
reader who takes nothing for as long as it may is dropped; what it reads when it comes back is the
state then, not all that it missed.
"""

import asyncio

from aiohttp import web

from runtime.dashboard.feed import Feed, Told
from runtime.gateway.errors import ApiError
from runtime.gateway.faults import EVENTS
from runtime.gateway.sse import ClientGone, EventStream
from runtime.gateway.watching import query_number
from runtime.telemetry.events import EventLog

MIN_PERIOD_S = 0.25
MAX_PERIOD_S = 0.5
MAX_WATCHERS = 32
MAX_WRITE_S = 10.0
"""A page that reads nothing for so long has lost its connection."""


class LiveRoutes:
    """The live feed of one service."""

    def __init__(self, feed: Feed, events: EventLog, write_timeout_s: float) -> None:
        self._feed = feed
        self._events = events
        self._write_timeout_s = min(write_timeout_s, MAX_WRITE_S)
        self._num_watchers = 0

    def routes(self) -> list[web.RouteDef]:
        """What an application adds."""
        return [web.get("/admin/live", self.live)]

    async def live(self, request: web.Request) -> web.StreamResponse:
        """Send the state until the watcher leaves, or the server ends, which cancels this.

        `after` and `life` are the last event a watcher knows, and whose events these were.
        """
        if self._num_watchers >= MAX_WATCHERS:
            message = f"{MAX_WATCHERS} pages watch already; close one"
            raise ApiError(429, message, code="too_many_watchers", headers={"Retry-After": "5"})
        told = Told(event_id=self._first(request))
        stream = request[EVENTS] = EventStream(request, self._write_timeout_s)
        self._num_watchers += 1
        try:
            await stream.open()
            await self._feeding(stream, told)
        finally:
            self._num_watchers -= 1
        return stream.response

    def _first(self, request: web.Request) -> int:
        after = query_number(request, "after", "0")
        return after if request.query.get("life") == self._feed.life else 0

    async def _feeding(self, stream: EventStream, told: Told) -> None:
        """Send, and have what is sent kept fresh; raises `ClientGone`."""
        gone: ClientGone | None = None
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(self._feed.keep_fresh())
            try:
                await self._send_all(stream, told)
            except ClientGone as error:
                gone = error
            finally:
                asking.cancel()
        if gone is not None:
            raise gone

    async def _send_all(self, stream: EventStream, told: Told) -> None:
        while True:
            message = self._feed.message(told)
            await stream.send_named("state", message, told.event_id)
            await asyncio.sleep(MIN_PERIOD_S)
            await self._events.wait_after(told.event_id, MAX_PERIOD_S - MIN_PERIOD_S)
