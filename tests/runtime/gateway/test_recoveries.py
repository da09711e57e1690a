"""What a client hears of a loss that its request outlived."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from runtime.gateway.backend import GenerationError, GenerationRequest, NotReady, TokenBatch
from tests.runtime.gateway.scripted import (
    CHAT,
    COMPLETIONS,
    Client,
    ScriptedBackend,
    Step,
    batch,
    chat,
    completion,
)
from tests.runtime.gateway.sockets import LAST_CHUNK, all_bytes, posted

NOTE = "recovered stage=1 gap_ms=840"
USAGE = {"stream_options": {"include_usage": True}}


def note(text: str = NOTE) -> TokenBatch:
    return TokenBatch((), None, text)


def twice_recovered(request: GenerationRequest) -> Iterable[Step]:
    return [batch("he"), note(), batch("l"), note(), batch("lo", "stop")]


async def blocks(client: Client, path: str, body: dict[str, Any]) -> list[str]:
    """The events and comments of a stream, in their order."""
    async with posted(client, path, body | {"stream": True}) as (reader, _):
        await reader.readuntil(b"\r\n\r\n")
        data = b""
        while size := int(await reader.readline(), 16):
            data += await reader.readexactly(size)
            await reader.readexactly(2)
    return data.decode().split("\n\n")


@pytest.mark.parametrize(("path", "body"), [(CHAT, chat()), (COMPLETIONS, completion())])
async def test_a_note_is_a_comment_between_events_and_never_within_one(
    client: Client, backend: ScriptedBackend, path: str, body: dict[str, Any]
) -> None:
    backend.script = twice_recovered
    *found, end = await blocks(client, path, body)
    assert end == ""
    is_comment = [block == f": {NOTE}" for block in found]
    assert sum(is_comment) == 2
    assert not is_comment[0]
    assert not is_comment[-1]
    assert all(b.startswith("data: ") for b, c in zip(found, is_comment, strict=True) if not c)


async def test_comments_of_several_choices_come_between_their_events(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = twice_recovered
    found = await blocks(client, COMPLETIONS, completion(prompt=["a", "b", "c"]))
    assert found.count(f": {NOTE}") == 6
    assert all("\n" not in block for block in found)


async def test_a_note_of_several_lines_stays_one_comment(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = lambda _: [batch("a"), note("recovered x\n\ndata: [DONE]"), batch("b", "stop")]
    found = await blocks(client, COMPLETIONS, completion())
    assert ": recovered x data: [DONE]" in found
    assert found.count("data: [DONE]") == 1


async def test_the_usage_of_a_stream_counts_its_recoveries(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = twice_recovered
    text = await blocks(client, COMPLETIONS, completion(**USAGE))
    assert '"recoveries":2' in text[-3]
    assert sum("recoveries" in block for block in text) == 1


async def test_the_usage_of_a_whole_answer_counts_those_of_all_its_choices(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = twice_recovered
    body = (await client.complete(prompt=["a", "b"])).body
    assert body["usage"]["recoveries"] == 4
    assert [choice["text"] for choice in body["choices"]] == ["hello", "hello"]


async def test_where_nothing_was_lost_the_usage_speaks_of_no_recoveries(client: Client) -> None:
    assert "recoveries" not in (await client.complete()).body["usage"]
    *_, last, _ = await client.events(COMPLETIONS, completion(**USAGE))
    assert "recoveries" not in last["usage"]


async def test_other_news_are_told_and_not_counted(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = lambda _: [batch("a"), note("moved pipeline=1"), batch("b", "stop")]
    found = await blocks(client, COMPLETIONS, completion(**USAGE))
    assert ": moved pipeline=1" in found
    assert not any("recoveries" in block for block in found)


async def test_a_note_before_the_first_text_is_not_told_but_counted(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = lambda _: [note(), batch("a", "stop")]
    found = await blocks(client, COMPLETIONS, completion(**USAGE))
    assert not any(block.startswith(":") for block in found)
    assert sum('"recoveries":1' in block for block in found) == 1


async def test_a_recovery_comes_to_its_reader_before_the_next_text(
    client: Client, backend: ScriptedBackend
) -> None:
    more = asyncio.Event()
    backend.script = lambda _: [batch("a"), note(), more, batch("b", "stop")]
    async with posted(client, COMPLETIONS, completion(stream=True)) as (reader, _):
        assert NOTE.encode() in await reader.readuntil(f": {NOTE}\n\n".encode())
        more.set()
        assert b"[DONE]" in await reader.readuntil(b"[DONE]")


@pytest.mark.parametrize(("retry_after_s", "shown"), [(0.2, "1"), (7.5, "8")])
async def test_a_service_without_a_pipeline_says_when_to_come_back(
    client: Client, backend: ScriptedBackend, retry_after_s: float, shown: str
) -> None:
    backend.refusal = NotReady("pipeline 0 is recovering", retry_after_s=retry_after_s)
    reply = await client.complete()
    assert (reply.status, reply.headers["Retry-After"]) == (503, shown)
    assert reply.error["message"] == "pipeline 0 is recovering"


HELD = "no pipeline took it for 60 s: pipeline 0 is recovering"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_was_held_too_long_is_a_503_before_the_first_byte(
    client: Client, backend: ScriptedBackend, stream: bool
) -> None:
    backend.script = lambda _: [GenerationError(HELD, kind="no_capacity")]
    reply = await client.complete(stream=stream)
    assert (reply.status, reply.headers["Retry-After"]) == (503, "5")
    assert (reply.error["code"], reply.error["message"]) == ("no_capacity", HELD)
    assert reply.error["type"] == "server_error"


async def test_a_stream_that_was_held_too_long_ends_with_an_error_event(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = lambda _: [batch("he"), GenerationError(HELD, kind="no_capacity")]
    data = await all_bytes(client, COMPLETIONS, completion())
    assert b"event: error\ndata: " in data
    assert b'"code":"no_capacity"' in data
    assert b"[DONE]" not in data
    assert not data.endswith(LAST_CHUNK)
