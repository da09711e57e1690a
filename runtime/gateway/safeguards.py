"""What stands between the clients and the service, as one record: who may, how much, who looks."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from runtime.gateway.access import Access, open_access
from runtime.gateway.admission import Room
from runtime.gateway.bounds import Bounds
from runtime.gateway.cors import Cors
from runtime.gateway.faults import answer_faults
from runtime.telemetry.telemetry import Telemetry
from runtime.telemetry.tracing.middleware import Traced


def _nobody_says() -> Room | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Safeguards:
    """The safeguards of one service; the defaults let everybody in and let nobody wait.

    Attributes:
        access: keys and quotas.
        bounds: of one request.
        telemetry: metrics and events; None makes one that knows only the gateway's own.
        room: how many requests the pipelines take; None where they are to decide themselves.
        cors_origins: whose pages may use the service.
    """

    access: Access | None = None
    bounds: Bounds = field(default_factory=Bounds)
    telemetry: Telemetry | None = None
    room: Callable[[], Room | None] = _nobody_says
    cors_origins: tuple[str, ...] = ()

    def whole(self, model: str) -> "WholeSafeguards":
        """With what was left out, for a model of that name; needs a running loop."""
        clock = asyncio.get_running_loop().time
        telemetry = self.telemetry or Telemetry(model, clock=clock, wall_clock=time.time)
        return WholeSafeguards(
            access=self.access or open_access(clock),
            bounds=self.bounds,
            telemetry=telemetry,
            room=self.room,
            cors=Cors(self.cors_origins),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeSafeguards:
    """`Safeguards` with nothing left out."""

    access: Access
    bounds: Bounds
    telemetry: Telemetry
    room: Callable[[], Room | None]
    cors: Cors

    def new_application(self, max_body_bytes: int) -> web.Application:
        """An application that lets nobody in whom these do not."""
        traced = Traced(lambda: self.telemetry.tracer, self.telemetry.requests.clock)
        middlewares = [
            traced.middleware,
            answer_faults,
            self.cors.middleware,
            self.access.middleware,
        ]
        app = web.Application(client_max_size=max_body_bytes, middlewares=middlewares)
        app.on_response_prepare.append(self.access.add_headers)
        app.on_response_prepare.append(self.cors.add_headers)
        return app
