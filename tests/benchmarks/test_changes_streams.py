"""Streams against a service that is played: when pieces came, what they said, how they ended."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from benchmarks.load import Target
from benchmarks.streams import Stream, open_streams

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def event(text: str, **more: object) -> bytes:
    return f"data: {json.dumps({'choices': [{'text': text}], **more})}\n\n".encode()


USAGE = b'data: {"choices":[],"usage":{"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"


def test_a_stream_notes_when_text_came_and_what_it_said() -> None:
    stream = Stream()
    lines = (event("w7"), b": pipeline changed\n", b"\n", event(""), event(" w8 w9"), USAGE)
    for now, line in enumerate(lines):
        stream.take(line, float(now))
    assert stream.times == [0.0, 4.0]
    assert stream.words == ["w7", "w8", "w9"]
    assert stream.num_tokens == 3
    assert not stream.is_whole
    stream.take(DONE, 9.0)
    assert stream.is_whole


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.add_routes([web.post("/v1/completions", handler)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        [(host, port, *_)] = runner.addresses
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def target(url: str) -> Target:
    return Target(url=url, model="m", new=3)


async def answer(request: web.Request, *parts: bytes) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for part in parts:
        await response.write(part)
    return response


async def test_all_streams_are_under_way_in_the_block_and_whole_after_it() -> None:
    may_end = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        response = await answer(request, event(f"w{body['prompt'][0]}"))
        async with asyncio.timeout(10):
            await may_end.wait()
        await response.write(event(" w1") + USAGE + DONE)
        return response

    async with served(handle) as url:
        async with open_streams(target(url), [[4], [5]]) as streams:
            await streams.wait_begun()
            assert streams.num_live == 2
            assert [len(times) for times in streams.times] == [1, 1]
            may_end.set()
        assert streams.num_live == streams.num_broken == 0
    assert streams.words == [["w4", "w1"], ["w5", "w1"]]
    assert [stream.num_tokens for stream in streams.all] == [3, 3]


async def test_a_stream_that_is_cut_or_refused_counts_as_broken_and_keeps_nobody_waiting() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        [number] = (await request.json())["prompt"]
        if number == 1:
            raise web.HTTPServiceUnavailable
        response = await answer(request, event("w1"), *([DONE] if number == 2 else []))
        if number == 3:
            assert request.transport is not None
            request.transport.abort()
        return response

    async with served(handle) as url:
        async with open_streams(target(url), [[1], [2], [3], [4]]) as streams:
            await streams.wait_begun()
        assert [stream.is_whole for stream in streams.all] == [False, True, False, False]
    assert streams.num_broken == 3
    assert streams.num_live == 0


async def test_a_fault_of_the_block_ends_its_streams() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = await answer(request, event("w1"))
        async with asyncio.timeout(10):
            while True:
                await response.write(event("w1"))
                await asyncio.sleep(0.01)

    async with served(handle) as url:
        with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
            async with open_streams(target(url), [[1]]) as streams:
                await streams.wait_begun()
                raise RuntimeError("refused")
        assert [str(error) for error in caught.value.exceptions] == ["refused"]
        assert streams.num_live == 0
