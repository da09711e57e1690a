"""Where a request's trace begins and ends: outside of everything that may go wrong in it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from runtime.telemetry.tracing.record import RequestTrace, Tracer

OPERATIONS: Mapping[str, str] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
}
"""What is traced, by path: the names are those of the semantic conventions."""
TRACE = web.RequestKey("trace", RequestTrace)
FAULT = web.RequestKey("fault", str)
"""Where the handler of faults leaves a word for what went wrong."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Traced:
    """A middleware that has a tracer take note of requests; `clock` is the loop's."""

    def __init__(self, tracer: Callable[[], Tracer], clock: Callable[[], float]) -> None:
        self._tracer, self._clock = tracer, clock

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let a request through, and note what became of it."""
        operation = OPERATIONS.get(request.path) if request.method == "POST" else None
        if operation is None:
            return await handler(request)
        tracer = self._tracer()
        trace = tracer.begin(request.headers, operation, request.path)
        if trace is None:
            return await handler(request)
        request[TRACE] = trace
        try:
            response = await handler(request)
            trace.status, trace.error = response.status, request.get(FAULT, "")
            return response
        except asyncio.CancelledError:
            trace.error = "client_gone"
            raise
        finally:
            trace.ended = self._clock()
            tracer.take(trace)
