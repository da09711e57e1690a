"""The service's own document: valid, whole, and of one mind with what reads requests."""

import json
import random
from typing import Any

import jsonschema
import pytest
from aiohttp import web
from openapi_spec_validator import OpenAPIV31SpecValidator

from runtime.gateway.app import create_apps
from runtime.gateway.endpoints import ENDPOINTS
from runtime.gateway.openapi.__main__ import main
from runtime.gateway.openapi.document import document, operations_of
from runtime.gateway.openapi.failures import SAID
from runtime.gateway.orders import NEEDED, ORDERS
from runtime.gateway.values import Reader
from tests.runtime.gateway.scripted import (
    MODEL,
    AnyGrammar,
    ByteTokenizer,
    Client,
    ScriptedBackend,
    ScriptedOperator,
    gateway,
)

WHOLE = document(MODEL.name, "1.2.3")
PAGES = ("/dashboard", "/admin/live")
"""The pages for people and the stream that feeds them are no interface for programs."""
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 16, 20, 21, 128, 129, 1 << 31, 1 << 62, -(1 << 70)),
    *(0.5, 1.5, -0.5, -2.5, 1e300, "", "x", "partition", "slow-link", "x" * 256, "x" * 9000),
    *([], [1], [-1], ["x"], [""], ["x"] * 5, [True], [1 << 31], {}, {"5": 1}, {"x": 1}, {"5": 101}),
    *({"include_usage": True}, {"include_usage": 1}, {"include_obfuscation": True}),
]
READERS: dict[str, Reader] = {
    f"{where} {name}": reader
    for where, readers in [
        *((e.path, {n: p.reader for n, p in e.parameters.items()}) for e in ENDPOINTS),
        *ORDERS.items(),
    ]
    for name, reader in readers.items()
    if reader is not None and reader.expected != "anything"
}
WITH_PARTS = ("prompt", "messages", "tools", "tool_choice", "response_format", "structured_outputs")
PLAIN = {
    name: reader
    for name, reader in READERS.items()
    if not name.endswith((*WITH_PARTS, "tokens", "guided_regex", "guided_grammar"))
    or name.endswith(("max_tokens", "min_tokens", "special_tokens"))
}


def app_of(operator: ScriptedOperator | None) -> web.Application:
    return create_apps(
        ScriptedBackend(),
        ByteTokenizer(),
        MODEL,
        grammars=AnyGrammar(),
        rng=random.Random(1),
        operator=operator,
    ).together()


def test_the_document_is_openapi() -> None:
    assert list(OpenAPIV31SpecValidator(WHOLE).iter_errors()) == []


async def test_every_route_is_documented_and_every_path_is_answered() -> None:
    found = {
        (method, path)
        for method, path in operations_of(app_of(ScriptedOperator()))
        if path != "/" and not path.startswith(PAGES)
    }
    said = {(method, path) for path, methods in WHOLE["paths"].items() for method in methods}
    assert said == found


async def test_what_an_application_does_not_answer_is_not_in_its_document() -> None:
    async with gateway(ScriptedBackend()) as client:
        reply = await client.get("/openapi.json")
    assert reply.status == 200
    assert "/admin/status" in reply.body["paths"]
    assert "/admin/drain" not in reply.body["paths"]


async def test_the_document_that_is_served_names_the_model(client: Client) -> None:
    body = (await client.get("/openapi.json")).body
    assert body["info"]["version"] == "1.2.3"
    schema = body["paths"]["/v1/completions"]["post"]["requestBody"]["content"]
    assert schema["application/json"]["schema"]["properties"]["model"]["const"] == MODEL.name


def test_the_command_prints_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--model", MODEL.name])
    assert json.loads(capsys.readouterr().out)["paths"] == WHOLE["paths"]


@pytest.mark.parametrize("reader", PLAIN.values(), ids=PLAIN)
def test_a_reader_and_its_schema_take_the_same_values(reader: Reader) -> None:
    validator = jsonschema.Draft202012Validator(reader.schema)
    assert [v for v in VALUES if reader.takes(v)] == [v for v in VALUES if validator.is_valid(v)]


def test_every_order_says_which_fields_it_needs() -> None:
    assert NEEDED.keys() == ORDERS.keys()
    assert all(set(NEEDED[path]) <= ORDERS[path].keys() for path in ORDERS)


def test_every_failure_that_is_named_is_described() -> None:
    named = {
        status
        for methods in WHOLE["paths"].values()
        for operation in methods.values()
        for status, said in operation["responses"].items()
        if "$ref" in said
    }
    assert named == {str(status) for status in SAID if status != 405}


async def test_a_method_that_a_path_has_not_is_told_which_it_has(client: Client) -> None:
    reply = await client.send("DELETE", "/v1/models")
    assert (reply.status, reply.headers["Allow"]) == (405, "GET,HEAD")
    assert reply.error["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/version", "/openapi.json"])
async def test_only_the_head_of_an_answer_can_be_had(client: Client, path: str) -> None:
    head, whole = await client.head_of("HEAD", path), await client.head_of("GET", path)
    assert head.status == whole.status
    assert head.headers["Content-Type"] == whole.headers["Content-Type"]
    assert head.headers["Content-Length"] == whole.headers["Content-Length"]
