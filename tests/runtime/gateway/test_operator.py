"""Orders over HTTP: what reaches the operator, what is answered, what is refused."""

from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from typing import Any

import pytest

from runtime.gateway.operator import FlipWish, LinkFault, PlanWish, Unavailable
from runtime.gateway.orders import ORDERS
from tests.runtime.gateway.scripted import (
    REPORT,
    Client,
    Reply,
    ScriptedBackend,
    ScriptedOperator,
    gateway,
)

FAULT = {"kind": "partition", "a": "a", "b": "b", "for_s": 2}
ROUTE = {"prefill": "0", "decode": "1", "weight": 2}
VALID: dict[str, dict[str, Any]] = {
    "/admin/plan": {"stages": 2},
    "/admin/drain": {"node": "a"},
    "/admin/flip": {"phases": {"0": "prefill", "1": "decode"}},
    "/admin/move": {"request": "r", "pipeline": "1"},
    "/admin/kill": {"target": "stage:1"},
    "/admin/fault": FAULT,
}
TAKEN = [
    ("/admin/plan", {"layers": "0:5,5:12"}, PlanWish(layers="0:5,5:12")),
    ("/admin/plan", {"stages": 3, "pipeline": "1"}, PlanWish(stages=3, pipeline="1")),
    (
        "/admin/plan",
        {"plan": {"id": "0"}, "dry_run": True},
        PlanWish(plan={"id": "0"}, dry_run=True),
    ),
    ("/admin/plan", {"stages": 3, "layers": None, "plan": None}, PlanWish(stages=3)),
    ("/admin/drain", {"node": "a"}, ("a", 30.0)),
    ("/admin/drain", {"node": "a", "deadline_s": 5}, ("a", 5.0)),
    ("/admin/flip", {"phases": {"0": "both"}}, FlipWish(phases={"0": "both"})),
    (
        "/admin/flip",
        {"phases": {"0": "prefill"}, "routes": [ROUTE], "dry_run": True},
        FlipWish(phases={"0": "prefill"}, routes={("0", "1"): 2.0}, dry_run=True),
    ),
    ("/admin/move", {"request": "r", "pipeline": "1"}, ("r", "1")),
    ("/admin/kill", {"target": "stage:1"}, "stage:1"),
    ("/admin/fault", FAULT, LinkFault(kind="partition", a="a", b="b", for_s=2.0)),
]
BAD: list[tuple[str, dict[str, Any], str | None]] = [
    ("/admin/plan", {}, None),
    ("/admin/plan", {"layers": "0:5", "stages": 2}, None),
    ("/admin/plan", {"layers": ""}, "layers"),
    ("/admin/plan", {"layers": ["0:5"]}, "layers"),
    ("/admin/plan", {"stages": 0}, "stages"),
    ("/admin/plan", {"stages": True}, "stages"),
    ("/admin/plan", {"stages": "2"}, "stages"),
    ("/admin/plan", {"plan": "0:5"}, "plan"),
    ("/admin/plan", {"stages": 2, "dry_run": 1}, "dry_run"),
    ("/admin/plan", {"stages": 2, "pipeline": 0}, "pipeline"),
    ("/admin/plan", {"stages": 2, "pipeline": "p" * 257}, "pipeline"),
    ("/admin/drain", {}, "node"),
    ("/admin/drain", {"node": None}, "node"),
    ("/admin/drain", {"node": "a", "deadline_s": 0}, "deadline_s"),
    ("/admin/drain", {"node": "a", "deadline_s": 1e9}, "deadline_s"),
    ("/admin/flip", {}, "phases"),
    ("/admin/flip", {"phases": {}}, "phases"),
    ("/admin/flip", {"phases": {"0": "all"}}, "phases"),
    ("/admin/flip", {"phases": {"0": ["both"]}}, "phases"),
    ("/admin/flip", {"phases": {"0": "both"}, "routes": {"0": 1}}, "routes"),
    ("/admin/flip", {"phases": {"0": "both"}, "routes": [{**ROUTE, "weight": 0}]}, "routes"),
    ("/admin/flip", {"phases": {"0": "both"}, "routes": [{**ROUTE, "decode": 1}]}, "routes"),
    ("/admin/move", {"pipeline": "1"}, "request"),
    ("/admin/move", {"request": "r"}, "pipeline"),
    ("/admin/fault", {"kind": "partition", "a": "a", "b": "b"}, "for_s"),
    ("/admin/fault", {**FAULT, "kind": "flood"}, "kind"),
    ("/admin/fault", {**FAULT, "kind": ["partition"]}, "kind"),
]


@pytest.fixture
def operator() -> ScriptedOperator:
    return ScriptedOperator()


@pytest.fixture
async def client(operator: ScriptedOperator) -> AsyncIterator[Client]:
    async with gateway(ScriptedBackend(), operator=operator) as client:
        yield client


async def order(client: Client, path: str, body: Any) -> Reply:
    return await client.send("POST", path, json=body)


@pytest.mark.parametrize(("path", "body", "expected"), TAKEN)
async def test_an_order_reaches_the_operator_with_its_fields(
    client: Client, operator: ScriptedOperator, path: str, body: dict[str, Any], expected: Any
) -> None:
    assert (await order(client, path, body)).status == 200
    assert operator.taken == [expected]


@pytest.mark.parametrize("path", ["/admin/plan", "/admin/drain", "/admin/flip", "/admin/move"])
async def test_a_change_that_was_done_is_answered_with_its_report(
    client: Client, path: str
) -> None:
    reply = await order(client, path, VALID[path])
    phases = [asdict(phase) for phase in REPORT.phases]
    assert reply.status == 200
    assert reply.body == {
        "done": True,
        "reason": "",
        "epoch": 8,
        "phases": phases,
        "moves": ["layers 5:7 from a to b"],
    }


@pytest.mark.parametrize("path", ["/admin/plan", "/admin/drain", "/admin/flip", "/admin/move"])
async def test_a_change_that_was_not_done_is_a_409_with_the_same_report(
    client: Client, operator: ScriptedOperator, path: str
) -> None:
    operator.report = replace(REPORT, done=False, reason="there is no room")
    reply = await order(client, path, VALID[path])
    assert reply.status == 409
    assert reply.body["reason"] == "there is no room"
    assert reply.body["done"] is False


@pytest.mark.parametrize(("path", "body", "param"), BAD)
async def test_a_bad_body_is_a_400_that_names_the_field_and_reaches_nobody(
    client: Client, operator: ScriptedOperator, path: str, body: dict[str, Any], param: str | None
) -> None:
    reply = await order(client, path, body)
    assert reply.status == 400
    assert reply.error["param"] == param
    assert (param or "layers") in reply.error["message"]
    assert operator.taken == []


@pytest.mark.parametrize("path", ORDERS)
async def test_an_unknown_field_is_refused_and_the_known_ones_are_named(
    client: Client, operator: ScriptedOperator, path: str
) -> None:
    reply = await order(client, path, VALID[path] | {"force": None})
    assert (reply.status, reply.error["param"]) == (400, "force")
    assert all(name in reply.error["message"] for name in ORDERS[path])
    assert operator.taken == []


@pytest.mark.parametrize("body", [[], "0:5", 3])
async def test_a_body_that_is_no_object_is_refused(client: Client, body: Any) -> None:
    assert (await order(client, "/admin/plan", body)).error["type"] == "invalid_request_error"


async def test_a_service_that_nobody_leads_now_says_when_to_come_back(
    client: Client, operator: ScriptedOperator
) -> None:
    operator.refusal = Unavailable("the coordinator does not answer")
    reply = await order(client, "/admin/plan", {"stages": 2})
    assert (reply.status, reply.error["code"]) == (503, "not_ready")
    assert int(reply.headers["Retry-After"]) > 0


async def test_the_present_plan_is_told(client: Client, operator: ScriptedOperator) -> None:
    assert (await client.get("/admin/plan")).body == {"pipelines": []}
    operator.refusal = Unavailable("the coordinator does not answer")
    assert (await client.get("/admin/plan")).status == 503


async def test_links_that_cannot_be_disturbed_are_a_501_with_a_sentence(
    client: Client, operator: ScriptedOperator
) -> None:
    operator.can_disturb = False
    reply = await order(client, "/admin/fault", FAULT)
    assert (reply.status, reply.error["code"]) == (501, "not_supported")
    assert reply.error["message"] == "links cannot be disturbed here"


async def test_the_requests_that_are_under_way_are_told(
    client: Client, operator: ScriptedOperator
) -> None:
    operator.running = [{"id": "r", "pipeline": "0", "prompt_tokens": 3}]
    assert (await client.get("/admin/requests")).body == {"requests": operator.running}


@pytest.mark.parametrize("path", ORDERS)
async def test_a_gateway_without_an_operator_takes_no_orders(path: str) -> None:
    async with gateway(ScriptedBackend()) as client:
        assert (await order(client, path, VALID[path])).status == 404


@pytest.mark.parametrize("field", ["latency_s", "bytes_per_s"])
async def test_a_partition_that_is_to_be_slow_is_refused(client: Client, field: str) -> None:
    reply = await order(client, "/admin/fault", {**FAULT, "kind": "partition", field: 1})
    assert (reply.status, reply.error["param"]) == (400, field)


async def test_the_ends_of_links_that_can_be_disturbed_are_told(client: Client) -> None:
    reply = await client.get("/admin/fault")
    assert (reply.status, reply.body) == (200, {"targets": ["node:a", "node:b", "node:c"]})
