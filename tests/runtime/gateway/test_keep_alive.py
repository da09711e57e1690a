"""Streams that have nothing to say yet, or for long."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from runtime.gateway.app import Limits
from runtime.gateway.backend import GenerationError
from runtime.gateway.delivery import Times
from tests.runtime.gateway.scripted import (
    CHAT,
    COMPLETIONS,
    PATIENCE_S,
    Client,
    ScriptedBackend,
    batch,
    chat,
    completion,
    gateway,
)
from tests.runtime.gateway.sockets import posted, wait_closed


@asynccontextmanager
async def eager(backend: ScriptedBackend) -> AsyncIterator[Client]:
    times = Times(first_bytes_s=0.01, keep_alive_s=0.01)
    async with gateway(backend, limits=Limits(times=times)) as client:
        yield client


@pytest.mark.parametrize(("path", "body"), [(CHAT, chat()), (COMPLETIONS, completion(n=2))])
async def test_a_stream_opens_before_its_first_token_and_speaks_while_it_waits(
    backend: ScriptedBackend, path: str, body: dict[str, object]
) -> None:
    token = asyncio.Event()
    backend.script = lambda _: [token, batch("hay", "stop")]
    async with (
        asyncio.timeout(PATIENCE_S),
        eager(backend) as client,
        posted(client, path, body | {"stream": True}) as (reader, _),
    ):
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        await reader.readuntil(b": waiting\n\n")
        await reader.readuntil(b": keep-alive\n\n")
        await reader.readuntil(b": keep-alive\n\n")
        token.set()
        await reader.readuntil(b"data: [DONE]\n\n")


async def test_what_goes_wrong_once_a_stream_is_open_is_an_error_event(
    backend: ScriptedBackend,
) -> None:
    wrong = asyncio.Event()
    backend.script = lambda _: [wrong, GenerationError("too long", kind="rejected")]
    async with (
        asyncio.timeout(PATIENCE_S),
        eager(backend) as client,
        posted(client, CHAT, chat(stream=True)) as (reader, _),
    ):
        await reader.readuntil(b": waiting\n\n")
        wrong.set()
        data = await reader.read()
    assert b"event: error" in data
    assert b"[DONE]" not in data
    assert json.loads(data.partition(b"data: ")[2].partition(b"\n\n")[0])["error"]["code"]


async def test_a_client_that_leaves_while_it_waits_frees_its_sequences(
    backend: ScriptedBackend,
) -> None:
    never = asyncio.Event()
    backend.script = lambda _: [never]
    async with asyncio.timeout(PATIENCE_S), eager(backend) as client:
        async with posted(client, COMPLETIONS, completion(n=3, stream=True)) as (reader, _):
            await reader.readuntil(b": waiting\n\n")
        for sequence in backend.streams:
            await wait_closed(sequence)
        assert (await client.get("/health")).status == 200


async def test_usage_comes_with_every_event_where_that_is_asked_for(client: Client) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last, _ = await client.events(COMPLETIONS, completion(stream_options=options))
    assert [chunk["usage"]["completion_tokens"] for chunk in [*chunks, last]] == [5, 5]
