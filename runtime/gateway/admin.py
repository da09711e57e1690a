"""The operator's endpoints, wherever they are served: status, metrics, events, orders, the page."""

from typing import Any

from aiohttp import web

from runtime.dashboard.feed import Feed
from runtime.dashboard.files import page_routes
from runtime.dashboard.live import LiveRoutes
from runtime.gateway.admin_routes import AdminRoutes
from runtime.gateway.admission import Admission
from runtime.gateway.backend import Backend
from runtime.gateway.operator import Operator
from runtime.gateway.recording import RecordingOperator
from runtime.gateway.watching import WatchRoutes
from runtime.telemetry.telemetry import Telemetry


def admin_routes(
    backend: Backend,
    admission: Admission,
    telemetry: Telemetry,
    operator: Operator | None,
    write_timeout_s: float,
    version: str = "",
) -> list[web.RouteDef]:
    """What an application adds; with an `operator` the service can be changed as well."""
    recording = None if operator is None else RecordingOperator(operator, telemetry)
    feed = Feed(backend, telemetry, recording, lambda: admission.num_waiting, version)
    routes = [
        *page_routes(),
        *LiveRoutes(feed, telemetry.events, write_timeout_s).routes(),
        web.get("/admin/status", StatusRoute(backend, admission).status),
        *WatchRoutes(telemetry, write_timeout_s).routes(),
    ]
    if recording is not None:
        routes += AdminRoutes(recording).routes()
    return routes


class StatusRoute:
    """How a service stands: what the backend says, and who waits in the gateway."""

    def __init__(self, backend: Backend, admission: Admission) -> None:
        self._backend = backend
        self._admission = admission

    async def status(self, request: web.Request) -> web.Response:
        """`GET /admin/status`."""
        status = await self._backend.status()
        if (waiting := self._admission.num_waiting) and "requests" in status:
            requests: dict[str, Any] = status["requests"]
            status["requests"] = requests | {"waiting": requests["waiting"] + waiting}
        return web.json_response(status)
