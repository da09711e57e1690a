"""Pages of other origins: none may use the service, but for those that are listed.

Source: the Fetch standard, CORS protocol.
"""

from collections.abc import Sequence

from aiohttp import web

from runtime.gateway.faults import Handler

METHODS = "GET, POST"
HEADERS = "authorization, content-type"
EXPOSED = "retry-after, x-request-id"
MAX_AGE_S = 600


class Cors:
    """Answers the browser's questions for the origins in a list; without any, nothing is said."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = frozenset(origins)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a browser that asks first; let all else through."""
        asks = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        if not (asks and self._allows(request)):
            return await handler(request)
        headers = {
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": HEADERS,
            "Access-Control-Max-Age": str(MAX_AGE_S),
        }
        return web.Response(status=204, headers=headers)

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """A signal's receiver: let the pages of a listed origin read an answer."""
        if self._allows(request):
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Expose-Headers"] = EXPOSED
            response.headers.add("Vary", "Origin")

    def _allows(self, request: web.Request) -> bool:
        return request.headers.get("Origin") in self._origins
