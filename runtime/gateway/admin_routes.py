"""The operator's half of the HTTP endpoint: each order of `orders`, put to an `Operator`.

An order takes a while, and is answered with what became of it: 200 with a report where it was done,
409 with the same report where it was not. It never knows a pipeline.
"""

from dataclasses import asdict
from typing import Any

from aiohttp import web

from runtime.gateway.body import read_object
from runtime.gateway.errors import ApiError, refused
from runtime.gateway.operator import FlipWish, LinkFault, Operator, PlanWish
from runtime.gateway.orders import NEEDED, ORDERS
from runtime.reports import ChangeReport

BODY_TIMEOUT_S = 30.0
DRAIN_DEADLINE_S = 30.0


class AdminRoutes:
    """`/admin/...` over an `Operator`."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def routes(self) -> list[web.RouteDef]:
        """What an application adds."""
        return [
            web.get("/admin/plan", self.present_plan),
            web.post("/admin/plan", self.change_plan),
            web.get("/admin/steps", self.measured_steps),
            web.post("/admin/drain", self.drain),
            web.post("/admin/flip", self.flip),
            web.post("/admin/move", self.move),
            web.post("/admin/kill", self.kill),
            web.get("/admin/fault", self.fault_targets),
            web.post("/admin/fault", self.fault),
            web.get("/admin/requests", self.requests),
        ]

    async def change_plan(self, request: web.Request) -> web.Response:
        """`POST /admin/plan`."""
        fields = await _fields(request)
        ways = [name for name in ("layers", "stages", "plan") if name in fields]
        if len(ways) != 1:
            found = " and ".join(ways) or "none"
            raise ApiError(400, f"expected one of layers, stages and plan, got {found}")
        return _answer(await self._operator.change_plan(PlanWish(**fields)))

    async def present_plan(self, request: web.Request) -> web.Response:
        """`GET /admin/plan`."""
        return web.json_response(await self._operator.present_plan())

    async def measured_steps(self, request: web.Request) -> web.Response:
        """`GET /admin/steps`."""
        return web.json_response(await self._operator.measured_steps())

    async def drain(self, request: web.Request) -> web.Response:
        """`POST /admin/drain`."""
        fields = {"deadline_s": DRAIN_DEADLINE_S} | await _fields(request)
        return _answer(await self._operator.drain(**fields))

    async def flip(self, request: web.Request) -> web.Response:
        """`POST /admin/flip`."""
        fields = await _fields(request)
        return _answer(await self._operator.flip(FlipWish(**fields)))

    async def move(self, request: web.Request) -> web.Response:
        """`POST /admin/move`."""
        fields = await _fields(request)
        return _answer(await self._operator.move(**fields))

    async def kill(self, request: web.Request) -> web.Response:
        """`POST /admin/kill`."""
        await self._operator.kill(**await _fields(request))
        return web.json_response({"done": True})

    async def fault(self, request: web.Request) -> web.Response:
        """`POST /admin/fault`."""
        fields = await _fields(request)
        for name in ("latency_s", "bytes_per_s") if fields["kind"] == "partition" else ():
            if name in fields:
                raise refused(name, "nothing beside a partition, which lets nothing through", name)
        await self._operator.fault(LinkFault(**fields))
        return web.json_response({"done": True})

    async def fault_targets(self, request: web.Request) -> web.Response:
        """`GET /admin/fault`."""
        return web.json_response({"targets": await self._operator.fault_targets()})

    async def requests(self, request: web.Request) -> web.Response:
        """`GET /admin/requests`."""
        return web.json_response({"requests": self._operator.requests()})


def _answer(report: ChangeReport) -> web.Response:
    return web.json_response(asdict(report), status=200 if report.done else 409)


async def _fields(http: web.Request) -> dict[str, Any]:
    """The body's fields, each read by its reader; a null is left out, an unknown name refused."""
    body, readers = await read_object(http, BODY_TIMEOUT_S), ORDERS[http.path]
    for name in body:
        if name not in readers:
            raise refused(name, f"one of {', '.join(readers)}", body[name])
    found = {name: readers[name](name, v) for name, v in body.items() if v is not None}
    for name in NEEDED[http.path]:
        if name not in found:
            raise ApiError(400, f"{name}: this field is required", param=name)
    return found
