"""The OpenAPI 3.1 document of a service, whole or of those paths that an application answers."""

import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from runtime.gateway.openapi.answers import SCHEMAS
from runtime.gateway.openapi.failures import responses
from runtime.gateway.openapi.operations import operations

OPENAPI = "3.1.0"
_ABOUT = (
    "OpenAI's API, and the operator's. A null says that a parameter was left out; what is not "
    "supported is refused by name. Without API keys in the configuration no request needs one."
)


def document(
    model: str, version: str, has: Callable[[str, str], bool] = lambda method, path: True
) -> dict[str, Any]:
    """The document of a service of that model and version.

    Args:
        model: the one name that requests may give.
        version: of the service.
        has: whether an operation, by method and path, belongs into it.
    """
    paths: dict[str, Any] = {}
    for operation in operations(model):
        if has(operation.method, operation.path):
            paths.setdefault(operation.path, {})[operation.method] = operation.json()
    return {
        "openapi": OPENAPI,
        "info": {"title": "Remuda", "version": version or "0", "description": _ABOUT},
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "responses": responses(),
            "securitySchemes": {"apiKey": {"type": "http", "scheme": "bearer"}},
        },
    }


def operations_of(app: web.Application) -> set[tuple[str, str]]:
    """Method and path of every route, as a document writes them."""
    return {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }


class DocumentRoute:
    """`/openapi.json` of the application it is part of: only of paths that are answered there."""

    def __init__(self, model: str, version: str) -> None:
        self._model, self._version = model, version
        self._written: dict[web.Application, bytes] = {}  # of the clients' port and the operator's

    def routes(self) -> list[web.RouteDef]:
        """What an application adds."""
        return [web.get("/openapi.json", self.document)]

    async def document(self, request: web.Request) -> web.Response:
        """`GET /openapi.json`."""
        if request.app not in self._written:
            self._written[request.app] = self._write(request.app)
        return web.Response(body=self._written[request.app], content_type="application/json")

    def _write(self, app: web.Application) -> bytes:
        known = operations_of(app)
        made = document(self._model, self._version, lambda *operation: operation in known)
        return json.dumps(made).encode()
