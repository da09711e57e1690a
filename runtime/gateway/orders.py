"""The tables: what an operator may order over HTTP, and the fields of each order.

This is data only: `admin_routes` reads bodies by it, and the OpenAPI document is made of it.
"""

from collections.abc import Mapping
from typing import Any

from runtime.gateway.values import Reader, boolean, integer, number, one_of, some_object, text

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
