"""The gateway against its own document: made-up requests, and every shape of an answer."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import jsonschema
import pytest

from runtime.gateway.openapi.document import document
from tests.runtime.gateway.scripted import (
    CHAT,
    COMPLETIONS,
    MODEL,
    Client,
    ScriptedBackend,
    ScriptedOperator,
    chat,
    completion,
    gateway,
    says,
)
from tests.runtime.gateway.test_logprobs import scores
from tests.support.schema_cases import Operation, operations, try_operation

DOCUMENT = document(MODEL.name, "1")
OPERATIONS = list(operations(DOCUMENT))
NUM_EXAMPLES = 6
CALL = '<tool_call>\n{"name": "go", "arguments": {"far": 3}}\n</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "go"}}]
USAGE = {"include_usage": True}
SHAPES = [
    (COMPLETIONS, completion()),
    (COMPLETIONS, completion(prompt=["a", "b"], n=2, logprobs=1)),
    (COMPLETIONS, completion(echo=True, logprobs=0, max_tokens=0)),
    (COMPLETIONS, completion(prompt_logprobs=2, best_of=3)),
    (CHAT, chat()),
    (CHAT, chat(n=2, logprobs=True, top_logprobs=2)),
    (CHAT, chat(prompt_logprobs=1)),
    (CHAT, chat(tools=TOOLS)),
]
STREAMED = [
    (path, body | options)
    for path, body in SHAPES
    if not {"prompt_logprobs", "best_of"} & body.keys()
    for options in ({}, {"stream_options": USAGE})
]


@pytest.fixture
async def scored() -> AsyncIterator[tuple[Client, ScriptedBackend]]:
    backend = ScriptedBackend(scores)
    async with gateway(backend, operator=ScriptedOperator()) as client:
        yield client, backend


@pytest.mark.parametrize("operation", OPERATIONS, ids=[o.label for o in OPERATIONS])
async def test_no_request_made_of_the_document_is_answered_otherwise_than_it_says(
    scored: tuple[Client, ScriptedBackend], operation: Operation
) -> None:
    client, backend = scored
    found = await asyncio.to_thread(try_operation, operation, client.url, num_examples=NUM_EXAMPLES)
    assert found.keys() <= {200, 400, 404}
    if operation.label.endswith("completions"):
        assert found[200]
    assert all(stream.closed.is_set() for stream in backend.streams)


def validator(name: str) -> jsonschema.Draft202012Validator:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return jsonschema.Draft202012Validator(schema)


def name_of(path: str) -> str:
    return "Completion" if path == COMPLETIONS else "ChatCompletion"


@pytest.mark.parametrize(("path", "body"), SHAPES)
async def test_a_whole_answer_is_as_the_document_says(
    scored: tuple[Client, ScriptedBackend], path: str, body: dict[str, Any]
) -> None:
    client, backend = scored
    if "tools" in body:
        backend.script = says("I go. ", CALL)
    reply = await client.send("POST", path, json=body)
    assert reply.status == 200
    validator(name_of(path)).validate(reply.body)


@pytest.mark.parametrize(("path", "body"), STREAMED)
async def test_every_event_of_a_stream_is_as_the_document_says(
    scored: tuple[Client, ScriptedBackend], path: str, body: dict[str, Any]
) -> None:
    client, backend = scored
    if "tools" in body:
        backend.script = says("I go. ", CALL)
    *events, last = await client.events(path, body)
    assert last == "[DONE]"
    assert events
    for event in events:
        validator(f"{name_of(path)}Chunk").validate(event)


async def test_a_schema_of_an_answer_takes_nothing_that_it_does_not_describe() -> None:
    async with gateway(ScriptedBackend()) as client:
        body = (await client.complete()).body
    for wrong in (body | {"more": 1}, body | {"choices": [{}]}, body | {"usage": None}):
        assert not validator("Completion").is_valid(wrong)
