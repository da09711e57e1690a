"""What a client can get wrong in a prompt, a body or a request line, and the hostile ones too."""

import asyncio
import json
from typing import Any

import pytest

from runtime.gateway.app import Limits
from tests.runtime.gateway.scripted import (
    CHAT,
    COMPLETIONS,
    MODEL,
    PATIENCE_S,
    REFUSED_BY_TEMPLATE,
    VOCAB_SIZE,
    Client,
    ScriptedBackend,
    chat,
    completion,
    gateway,
)

JSON = {"Content-Type": "application/json"}


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    "prompt",
    [
        *("", [], [""], [[]], 5, True, {}, "\ud800"),
        *([True], [1, True], [1, 2.0], [1, "a"], [-1], [VOCAB_SIZE], [1 << 70], ["a", 5]),
        *([[1], [None]], ["a"] * 129, [[[1]]]),
    ],
    ids=lambda prompt: repr(prompt)[:20],
)
async def test_a_prompt_that_is_none_is_refused(client: Client, prompt: Any) -> None:
    reply = await client.complete(prompt=prompt)
    assert (reply.status, reply.error["param"]) == (400, "prompt")


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ("hello", "messages"),
        ([], "messages"),
        ([{"role": "user", "content": ""}] * 4097, "messages"),
        (["hello"], "messages[0]"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role"),
        ([{"role": "function", "content": "x"}], "messages[0].role"),
        ([{"role": "tool", "content": "x"}], "messages[0].tool_call_id"),
        ([*user("x"), {"role": "user"}], "messages[1].content"),
        (user([]), "messages[0].content"),
        (user(5), "messages[0].content"),
        (user("\udfff"), "messages[0].content"),
        (user(["x"]), "messages[0].content[0]"),
        (user([{"type": "image_url", "image_url": {"url": "x"}}]), "messages[0].content[0]"),
        (user([{"type": "text"}]), "messages[0].content[0].text"),
        (user([{"type": "text", "text": "\ud800"}]), "messages[0].content[0].text"),
        ([{"role": "user", "content": "x", "name": 5}], "messages[0].name"),
        ([{"role": "user", "content": "x", "tool_calls": []}], "messages[0].tool_calls"),
        (user(REFUSED_BY_TEMPLATE), "messages"),
    ],
)
async def test_a_chat_that_is_none_is_refused_at_the_place(
    client: Client, messages: Any, param: str
) -> None:
    reply = await client.chat(messages=messages)
    assert (reply.status, reply.error["param"]) == (400, param)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (COMPLETIONS, completion(prompt="x" * MODEL.max_len), "prompt"),
        (COMPLETIONS, completion(prompt=["x", "x" * 2000]), "prompt"),
        (COMPLETIONS, completion(prompt="x" * 90, max_tokens=11), "max_tokens"),
        (CHAT, chat(messages=user("x" * MODEL.max_len)), "messages"),
        (CHAT, chat(max_tokens=100), "max_tokens"),
        (CHAT, chat(max_completion_tokens=100), "max_completion_tokens"),
    ],
)
async def test_what_does_not_fit_the_context_is_refused_with_both_lengths(
    client: Client, backend: ScriptedBackend, path: str, body: dict[str, Any], param: str
) -> None:
    reply = await client.send("POST", path, json=body)
    assert reply.status == 400
    assert (reply.error["param"], reply.error["code"]) == (param, "context_length_exceeded")
    assert str(MODEL.max_len) in reply.error["message"]
    assert backend.requests == []


async def test_what_exactly_fits_the_context_is_taken(client: Client) -> None:
    assert (await client.complete(prompt="x" * 90, max_tokens=10)).status == 200
    assert (await client.complete(prompt="x" * 99)).status == 200


async def test_parameters_that_contradict_each_other_are_refused(client: Client) -> None:
    reply = await client.chat(min_tokens=5, max_tokens=4)
    assert (reply.status, reply.error["param"]) == (400, "min_tokens")
    reply = await client.chat(max_tokens=5, max_completion_tokens=4)
    assert (reply.status, reply.error["param"]) == (400, "max_tokens")
    assert (await client.chat(max_tokens=5, max_completion_tokens=5)).status == 200


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_another_model_is_not_found(client: Client, path: str) -> None:
    body = completion() if path == COMPLETIONS else chat()
    reply = await client.send("POST", path, json=body | {"model": "mule"})
    assert reply.status == 404
    assert (reply.error["param"], reply.error["code"]) == ("model", "model_not_found")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/v1/models/%ff", 404),
        ("GET", COMPLETIONS, 405),
        ("DELETE", CHAT, 405),
        ("POST", "/health", 405),
    ],
)
async def test_unknown_paths_and_methods_are_refused_in_openais_shape(
    client: Client, method: str, path: str, status: int
) -> None:
    reply = await client.send(method, path)
    assert reply.status == status
    assert reply.error["type"] == "invalid_request_error"
    assert ("Allow" in reply.headers) == (status == 405)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": ""},
        {**JSON, "Content-Encoding": "gzip"},
        {**JSON, "Content-Encoding": "identity, br"},
    ],
)
async def test_a_body_that_is_not_plain_json_is_refused_unread(
    client: Client, headers: dict[str, str]
) -> None:
    reply = await client.send("POST", CHAT, data=json.dumps(chat()), headers=headers)
    assert reply.status == 415
    assert reply.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"[]", b'"x"', b"5", b"null", b"\xff{}", b'{"a":1}x'),
        *(b'{"temperature":NaN}', b'{"temperature":-Infinity}', b'{"seed":' + b"9" * 5000 + b"}"),
        *(b"[" * 100_000, b'{"a":' * 100_000),
    ],
    ids=lambda data: data[:20],
)
async def test_a_body_that_is_no_json_object_is_refused(client: Client, data: bytes) -> None:
    reply = await client.send("POST", CHAT, data=data, headers=JSON)
    assert reply.status == 400
    assert reply.error["param"] is None


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    "value",
    [
        *(nested(n) for n in (50, 400, 800, 900, 920, 940, 960, 980, 990)),
        *(b"9" * 4000, b"1e999", b"-1e999", b"1e308"),
        json.dumps(["x"] * 100_000).encode(),
        json.dumps("x" * 1_000_000).encode(),
        json.dumps({f"k{i}": i for i in range(50_000)}).encode(),
    ],
    ids=lambda value: f"{value[:9].decode()}-{len(value)}",
)
@pytest.mark.parametrize(
    "name",
    [
        *("stop", "seed", "temperature", "tools", "messages", "made_up", "logit_bias"),
        *("tool_choice", "response_format", "structured_outputs", "guided_json", "guided_choice"),
        *("chat_template_kwargs", "stop_token_ids", "prompt_logprobs", "stream_options"),
    ],
)
async def test_a_hostile_value_is_refused_in_few_words(
    client: Client, name: str, value: bytes
) -> None:
    data = b'{"model":"horse","%s":%s}' % (name.encode(), value)
    reply = await client.send("POST", CHAT, data=data, headers=JSON)
    assert reply.status == 400
    assert len(reply.error["message"]) < 400


@pytest.mark.parametrize("depth", [127, 128, 129, 300, 900])
@pytest.mark.parametrize(
    ("name", "inner"),
    [
        ("guided_json", '{"type": "array", "items": %s}'),
        ("chat_template_kwargs", '{"a": %s}'),
        ("response_format", '{"type": "json_schema", "json_schema": {"name": "x", "schema": %s}}'),
        ("tools", '[{"type": "function", "function": {"name": "f", "parameters": %s}}]'),
    ],
)
async def test_a_value_of_any_depth_is_taken_or_refused_and_no_bug_of_ours(
    client: Client, name: str, inner: str, depth: int
) -> None:
    value = inner % ('{"a":' * depth + "{}" + "}" * depth)
    data = b'{"model":"horse","messages":[{"role":"user","content":"x"}],"%s":%s}' % (
        name.encode(),
        value.encode(),
    )
    reply = await client.send("POST", CHAT, data=data, headers=JSON)
    assert reply.status in (200, 400)
    if reply.status == 400:
        assert len(reply.error["message"]) < 400


async def test_a_hostile_name_is_refused_in_few_words(client: Client) -> None:
    reply = await client.complete(**{"\ud800" * 100_000: 1})
    assert reply.status == 400
    assert len(reply.error["message"]) < 400


async def test_a_body_over_the_limit_is_refused(backend: ScriptedBackend) -> None:
    async with gateway(backend, limits=Limits(max_body_bytes=1000)) as client:
        assert (await client.complete(user="x" * 700)).status == 200
        reply = await client.complete(user="x" * 1000)
        assert reply.status == 413
        assert reply.error["type"] == "invalid_request_error"


async def test_a_body_that_never_ends_is_not_waited_for(backend: ScriptedBackend) -> None:
    async with (
        asyncio.timeout(PATIENCE_S),
        gateway(backend, limits=Limits(body_timeout_s=0.05)) as client,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
        writer.write(f"{head}Content-Type: application/json\r\n\r\n{{".encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        writer.close()
        await writer.wait_closed()


async def test_our_own_bug_is_told_without_its_traceback(
    client: Client, backend: ScriptedBackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend.refusal = RuntimeError("secret")
    reply = await client.complete()
    assert (reply.status, reply.error["code"]) == (500, "internal_error")
    assert reply.error["message"] == "internal error"
    assert "secret" in caplog.text
