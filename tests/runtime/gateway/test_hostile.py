"""Bytes that no client of good will sends: each is refused or dropped, and nobody else is hurt."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from runtime.gateway.app import Limits
from runtime.gateway.server import ConnectionLimits
from tests.runtime.gateway.scripted import COMPLETIONS, PATIENCE_S, Client, ScriptedBackend, gateway
from tests.runtime.gateway.sockets import wait_closed

SHORT_S = 0.2
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
BODY = json.dumps({"model": "horse", "prompt": "Once"}).encode()


@asynccontextmanager
async def hurried(
    backend: ScriptedBackend, *, idle_s: float = PATIENCE_S, max_connections: int = 64
) -> AsyncIterator[Client]:
    """A gateway with little patience, which must answer a good request when all is over."""
    async with gateway(
        backend,
        limits=Limits(max_body_bytes=4096, body_timeout_s=SHORT_S),
        connections=ConnectionLimits(idle_timeout_s=idle_s, max_connections=max_connections),
    ) as client:
        yield client
        assert (await client.complete()).status == 200
        assert (await client.get("/health")).status == 200


@asynccontextmanager
async def connected(
    client: Client,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


def head(*lines: str, length: int | None = None) -> bytes:
    fixed = [f"POST {COMPLETIONS} HTTP/1.1", "Host: x", "Content-Type: application/json", *lines]
    if length is not None:
        fixed.append(f"Content-Length: {length}")
    return "\r\n".join([*fixed, "", ""]).encode("latin-1")


async def answer_to(client: Client, sent: bytes) -> tuple[int, bytes]:
    """The status and all that follows, up to the end of the connection."""
    async with connected(client) as (reader, writer):
        writer.write(sent)
        first = await reader.readline()
        rest = await reader.read()
    return int(first.split()[1]), rest


NO_JSON = [
    b"[" * 4000,
    b'{"a":' * 800,
    b'{"model": "horse", "prompt": "\xff\xfe"}',
    b"\x00" * 100,
    b"\xef\xbb\xbf{}",
    b'{"model": "horse", "prompt": "Once", "n": NaN}',
    b'{"model": "horse", "prompt": "Once", "seed": ' + b"9" * 4000 + b"}",
    b'{"model"',
    b"",
]


@pytest.mark.parametrize("body", NO_JSON, ids=range(len(NO_JSON)))
async def test_what_is_no_json_is_refused_in_words(backend: ScriptedBackend, body: bytes) -> None:
    async with hurried(backend) as client:
        sent = head("Connection: close", length=len(body)) + body
        status, rest = await answer_to(client, sent)
        assert status == 400
        error = json.loads(rest.partition(b"\r\n\r\n")[2])["error"]
        assert error["type"] == "invalid_request_error"
        assert len(error["message"]) < 400
        assert "Traceback" not in error["message"]


async def test_a_body_of_a_byte_now_and_then_is_given_up(backend: ScriptedBackend) -> None:
    async with hurried(backend) as client, connected(client) as (reader, writer):
        writer.write(head(length=len(BODY)))
        status = asyncio.get_running_loop().create_future()

        async def drip() -> None:
            for byte in BODY:
                writer.write(bytes([byte]))
                await asyncio.sleep(SHORT_S / 4)

        async with asyncio.TaskGroup() as group:
            dripping = group.create_task(drip())
            status.set_result(await reader.readline())
            dripping.cancel()
        assert b" 408 " in status.result()
    assert len(backend.requests) == 1  # the one that `hurried` sends


async def test_a_head_that_never_ends_is_given_up(backend: ScriptedBackend) -> None:
    async with hurried(backend, idle_s=SHORT_S) as client, connected(client) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nX-A: ")
        assert await reader.read() == b""


async def test_a_connection_that_says_nothing_is_closed(backend: ScriptedBackend) -> None:
    async with (
        hurried(backend, idle_s=SHORT_S) as client,
        connected(client) as (reader, _),
    ):
        assert await reader.read() == b""


@pytest.mark.parametrize(
    "lines",
    [
        [f"X-{number}: 1" for number in range(5000)],
        ["X-A: " + "a" * 70_000],
        ["X-A: a\x00b"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Content-Length: -1"],
        ["Transfer-Encoding: chunked, identity"],
    ],
    ids=["many", "long", "nul", "two lengths", "smuggling", "negative", "coding"],
)
async def test_a_head_that_is_a_flood_or_a_trick_is_refused(
    backend: ScriptedBackend, lines: list[str]
) -> None:
    async with hurried(backend) as client:
        status, _ = await answer_to(client, head("Connection: close", *lines) + BODY)
        assert status == 400
    assert len(backend.requests) == 1


@pytest.mark.parametrize(
    "sent",
    [
        head("Connection: close", length=1 << 40),
        head("Connection: close", length=5000) + b" " * 5000,
        head("Connection: close", "Transfer-Encoding: chunked") + b"1388\r\n" + b" " * 5000,
    ],
    ids=["announced", "sent", "in chunks"],
)
async def test_a_body_that_is_too_large_is_refused_while_it_comes(
    backend: ScriptedBackend, sent: bytes
) -> None:
    async with hurried(backend) as client:
        status, _ = await answer_to(client, sent)
        # What is only announced may be waited for, and then it is late.
        assert status in (413, 408)


async def test_a_compressed_body_is_never_inflated(backend: ScriptedBackend) -> None:
    async with hurried(backend) as client:
        coding = ("Connection: close", "Content-Encoding: gzip")
        status, _ = await answer_to(client, head(*coding, length=len(BODY)) + BODY)
        assert status == 415


async def test_one_half_of_a_closed_socket_is_still_answered_or_let_go(
    backend: ScriptedBackend,
) -> None:
    async with hurried(backend) as client, connected(client) as (reader, writer):
        writer.write(head(length=len(BODY)) + BODY[:5])
        writer.write_eof()
        first = await reader.read()
        assert first == b"" or b" 400 " in first or b" 408 " in first
    assert len(backend.requests) == 1


async def test_a_client_that_sends_and_goes_has_its_request_ended(
    backend: ScriptedBackend,
) -> None:
    backend.script = lambda _: [asyncio.Event()]
    async with gateway(backend) as client:
        async with connected(client) as (_, writer):
            writer.write(head(length=len(BODY)) + BODY)
            async with asyncio.timeout(PATIENCE_S):
                await backend.submitted.wait()
        await wait_closed(backend.streams[0])


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00.\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["tls", "version", "pickle", "http2", "long line", "bad target"],
)
async def test_what_is_no_http_is_refused(backend: ScriptedBackend, sent: bytes) -> None:
    async with hurried(backend) as client, connected(client) as (reader, writer):
        writer.write(sent)
        writer.write_eof()
        answer = await reader.read()
        assert answer == b"" or answer.split()[1] in (b"400", b"404", b"414", b"505")


async def test_beyond_the_most_connections_one_is_told_and_closed(
    backend: ScriptedBackend,
) -> None:
    async with hurried(backend, max_connections=2) as client:
        async with connected(client), connected(client):
            async with connected(client) as (reader, _):
                answer = await reader.read()
            whole, _, body = answer.partition(b"\r\n\r\n")
            assert whole.startswith(b"HTTP/1.1 503 ")
            assert json.loads(body)["error"]["code"] == "too_many_connections"
        async with asyncio.timeout(PATIENCE_S):
            while (await answer_to(client, HEALTH))[0] == 503:
                pass  # the gateway has still to hear that the others are gone


async def test_many_hostile_clients_do_not_change_a_neighbours_answer(
    backend: ScriptedBackend,
) -> None:
    async with hurried(backend) as client:
        quiet = (await client.complete(seed=1)).body["choices"]
        async with asyncio.TaskGroup() as group:
            for body in NO_JSON * 4:
                sent = head("Connection: close", length=len(body)) + body
                group.create_task(answer_to(client, sent))
            found = [group.create_task(client.complete(seed=1)) for _ in range(10)]
        assert [(await reply).body["choices"] for reply in found] == [quiet] * 10
