"""How an answer may end when it goes wrong: seen from the socket, as clients see it."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest

from runtime.gateway import server
from runtime.gateway.backend import GenerationError, GenerationRequest
from tests.runtime.gateway.scripted import (
    CHAT,
    COMPLETIONS,
    Client,
    ScriptedBackend,
    Step,
    batch,
    chat,
    completion,
    gateway,
)
from tests.runtime.gateway.sockets import LAST_CHUNK, all_bytes, posted, wait_closed

BOTH = pytest.mark.parametrize(("path", "body"), [(CHAT, chat()), (COMPLETIONS, completion())])


def breaks(error: Exception) -> Iterable[Step]:
    return [batch("half an ans"), error]


@BOTH
async def test_an_answer_that_breaks_ends_with_an_error_event_and_a_cut_connection(
    client: Client, backend: ScriptedBackend, path: str, body: dict[str, Any]
) -> None:
    backend.script = lambda _: breaks(GenerationError("stage 1 was lost", kind="stage_lost"))
    data = await all_bytes(client, path, body)
    assert b"half an ans" in data
    *_, last = data.decode().split("\n\n")[:-1]
    event, field = last.splitlines()[-2:]
    assert event == "event: error"
    assert json.loads(field.removeprefix("data: ")) == {
        "error": {
            "message": "stage 1 was lost",
            "type": "server_error",
            "param": None,
            "code": "stage_lost",
        }
    }
    assert b"[DONE]" not in data
    assert not data.endswith(LAST_CHUNK)
    assert backend.streams[0].closed.is_set()


@pytest.mark.parametrize("steps", [[batch("half")], [batch("half"), RuntimeError("our own bug")]])
async def test_no_end_without_a_reason_is_polite(
    client: Client, backend: ScriptedBackend, steps: list[Step]
) -> None:
    backend.script = lambda _: steps
    data = await all_bytes(client, CHAT, chat())
    assert b"event: error" in data
    assert b"[DONE]" not in data
    assert b"our own bug" not in data
    assert data.count(b"HTTP/1.1") == 1
    assert not data.endswith(LAST_CHUNK)


async def test_one_broken_choice_ends_the_whole_answer_and_frees_the_others(
    client: Client, backend: ScriptedBackend
) -> None:
    waits = asyncio.Event()

    def script(request: GenerationRequest) -> Iterable[Step]:
        lost = GenerationError("lost", kind="stage_lost")
        return [batch("a"), lost if request.token_ids == (65,) else waits]

    backend.script = script
    data = await all_bytes(client, COMPLETIONS, completion(prompt=[[66], [65], [67]]))
    assert b"event: error" in data
    assert b"[DONE]" not in data
    assert all(stream.closed.is_set() for stream in backend.streams)


async def test_a_whole_answer_ends_with_its_last_chunk(client: Client) -> None:
    async with posted(client, CHAT, chat(stream=True)) as (reader, _):
        assert (await reader.readuntil(LAST_CHUNK)).endswith(b"data: [DONE]\n\n" + LAST_CHUNK)


@BOTH
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("kind", "status", "error_type", "may_retry"),
    [
        ("stage_lost", 503, "server_error", True),
        ("shutdown", 503, "server_error", True),
        ("queue_full", 429, "rate_limit_error", True),
        ("timeout", 504, "server_error", False),
        ("internal_error", 500, "server_error", False),
        ("rejected", 400, "invalid_request_error", False),
    ],
)
async def test_an_error_before_the_first_byte_is_an_answer_with_a_status(
    client: Client,
    backend: ScriptedBackend,
    path: str,
    body: dict[str, Any],
    stream: bool,
    kind: str,
    status: int,
    error_type: str,
    may_retry: bool,
) -> None:
    backend.script = lambda _: [GenerationError("no", kind=kind)]
    reply = await client.send("POST", path, json=body | {"stream": stream})
    assert reply.status == status
    assert (reply.error["code"], reply.error["type"]) == (kind, error_type)
    assert ("Retry-After" in reply.headers) == may_retry
    assert backend.streams[0].closed.is_set()


async def test_half_an_answer_that_was_not_streamed_is_an_error_and_no_answer(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = lambda _: breaks(GenerationError("lost", kind="stage_lost"))
    reply = await client.complete()
    assert (reply.status, reply.error["code"]) == (503, "stage_lost")


async def test_a_gateway_that_stops_never_ends_a_stream_politely(
    backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SHUTDOWN_TIMEOUT_S", 0.05)
    never = asyncio.Event()
    backend.script = lambda _: [batch("half an ans"), never]
    async with gateway(backend) as client:
        connection = posted(client, CHAT, chat(stream=True))
        reader, _ = await connection.__aenter__()
        await reader.readuntil(b"half an ans")
    data = await reader.read()
    await connection.__aexit__(None, None, None)
    assert b"[DONE]" not in data
    assert not data.endswith(LAST_CHUNK)
    await wait_closed(backend.streams[0])
