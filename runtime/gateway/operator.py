"""The operator's half of the HTTP endpoint: change the plan, drain a node, move a request.

Each asks the service for something that takes a while, and answers with what became of it: 200 with
a report where it was done, 409 with the same report where it was not. It never knows a pipeline.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from aiohttp import web

from runtime.gateway.body import read_object
from runtime.gateway.errors import ApiError, refused
from runtime.gateway.values import Reader, boolean, integer, number, one_of, some_object, text
from runtime.reports import ChangeReport

BODY_TIMEOUT_S = 30.0
DRAIN_DEADLINE_S = 30.0
MAX_STAGES = 1024
MAX_NAME_CHARACTERS = 256
MAX_FAULT_S = 3600
MAX_LATENCY_S = 10
MAX_LAYERS_CHARACTERS = 8192
MAX_WEIGHT = 1e9
PHASES = ("both", "prefill", "decode")
_name = text(MAX_NAME_CHARACTERS)
_seconds = number(0, 86400, open_low=True)


def _are_phases(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and 1 <= len(value) <= MAX_STAGES
        and all(1 <= len(name) <= MAX_NAME_CHARACTERS for name in value)
        and all(phase in PHASES for phase in value.values())
    )


def _are_routes(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MAX_STAGES and all(map(_is_route, value))


def _is_route(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"prefill", "decode", "weight"}:
        return False
    ends = (value["prefill"], value["decode"])
    is_named = all(isinstance(n, str) and 1 <= len(n) <= MAX_NAME_CHARACTERS for n in ends)
    return is_named and type(value["weight"]) in (int, float) and 0 < value["weight"] <= MAX_WEIGHT


_NAME_SCHEMA = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARACTERS}

phases = Reader(
    f"an object of 1 to {MAX_STAGES} pipelines, each with {', '.join(PHASES)}",
    _are_phases,
    schema={
        "type": "object",
        "propertyNames": _NAME_SCHEMA,
        "additionalProperties": {"enum": list(PHASES)},
        "minProperties": 1,
        "maxProperties": MAX_STAGES,
    },
)
routes = Reader(
    f"a list of at most {MAX_STAGES} objects with prefill, decode and a weight above 0 up to "
    f"{MAX_WEIGHT:g}",
    _are_routes,
    lambda value: {(r["prefill"], r["decode"]): float(r["weight"]) for r in value},
    {
        "type": "array",
        "maxItems": MAX_STAGES,
        "items": {
            "type": "object",
            "properties": {
                "prefill": _NAME_SCHEMA,
                "decode": _NAME_SCHEMA,
                "weight": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_WEIGHT},
            },
            "required": ["prefill", "decode", "weight"],
            "additionalProperties": False,
        },
    },
)

ORDERS: Mapping[str, Mapping[str, Reader]] = {
    "/admin/plan": {
        "layers": text(MAX_LAYERS_CHARACTERS),
        "stages": integer(1, MAX_STAGES),
        "plan": some_object,
        "pipeline": _name,
        "dry_run": boolean,
    },
    "/admin/drain": {"node": _name, "deadline_s": _seconds},
    "/admin/flip": {"phases": phases, "routes": routes, "dry_run": boolean},
    "/admin/move": {"request": _name, "pipeline": _name},
    "/admin/kill": {"target": _name},
    "/admin/fault": {
        "kind": one_of("partition", "slow-link"),
        "a": _name,
        "b": _name,
        "for_s": number(0, MAX_FAULT_S, open_low=True),
        "latency_s": number(0, MAX_LATENCY_S),
        "bytes_per_s": number(1, 1e12),
    },
}
"""Every order and the fields of its body; a field that is not here is refused."""

NEEDED: Mapping[str, tuple[str, ...]] = {
    "/admin/plan": (),
    "/admin/drain": ("node",),
    "/admin/move": ("request", "pipeline"),
    "/admin/flip": ("phases",),
    "/admin/kill": ("target",),
    "/admin/fault": ("kind", "a", "b", "for_s"),
}
"""The fields without which an order is refused; of a plan there is one of three."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanWish:
    """Other stages for a pipeline: one of `layers`, `stages` and `plan` says which."""

    pipeline: str = ""
    layers: str = ""
    stages: int = 0
    plan: dict[str, Any] | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFault:
    """The links between two sets of processes are to be cut (`partition`) or slowed (`slow-link`).

    `a` and `b` are names out of `fault_targets`; how slow, where None, the service decides.
    """

    kind: str
    a: str
    b: str
    for_s: float
    latency_s: float | None = None
    bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipWish:
    """Other phases for some pipelines, by their ids.

    `routes` are weights above 0 by the ids of where requests begin and of where they go on.
    """

    phases: Mapping[str, str]
    routes: Mapping[tuple[str, str], float] = field(default_factory=dict)
    dry_run: bool = False


class Unavailable(Exception):
    """Nobody can decide on a change now; the text says why."""


class Unsupported(Exception):
    """This service cannot do that at all; the text says why."""


class Operator(Protocol):
    """What an operator can ask of a service; all raise `Unavailable`."""

    async def change_plan(self, wish: PlanWish) -> ChangeReport:
        """Give a pipeline other stages while it serves."""
        ...

    async def present_plan(self) -> dict[str, Any]:
        """The plan that serves, as `change_plan` takes it.

        Its key `planner`, if it is there, says what is predicted of it and what is proposed.
        """
        ...

    async def measured_steps(self) -> dict[str, Any]:
        """What the last steps of each stage asked of it, and how long they took."""
        ...

    async def drain(self, node: str, deadline_s: float) -> ChangeReport:
        """Move everything off a node."""
        ...

    async def move(self, request: str, pipeline: str) -> ChangeReport:
        """Move a running request to another pipeline."""
        ...

    async def flip(self, wish: FlipWish) -> ChangeReport:
        """Have pipelines serve other phases, without touching a stage."""
        ...

    async def fault(self, fault: LinkFault) -> None:
        """Disturb a link for a while; returns when it is whole again.

        Raises:
            ApiError: there are no such links.
            Unsupported: links of this service cannot be disturbed.
        """
        ...

    async def fault_targets(self) -> list[str]:
        """What stands at the ends of links that can be disturbed, by name.

        Raises:
            Unsupported: links of this service cannot be disturbed.
        """
        ...

    async def kill(self, target: str) -> None:
        """End a process of this machine at once, as a fault would.

        Raises:
            ApiError: there is no such process, or it is not ours to end.
            Unsupported: processes of this service cannot be killed over HTTP.
        """
        ...

    def kill_targets(self) -> list[str]:
        """What `kill` takes, by name; nothing where it is not supported."""
        ...

    def requests(self) -> list[dict[str, Any]]:
        """Every request that is under way."""
        ...


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
