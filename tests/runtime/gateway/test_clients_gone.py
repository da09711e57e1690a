"""Clients that leave, and clients that stay and take nothing."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from runtime.gateway.app import Limits
from runtime.gateway.backend import GenerationRequest
from runtime.gateway.delivery import Times
from runtime.gateway.errors import ApiError
from runtime.gateway.sse import EventStream
from tests.runtime.gateway.scripted import (
    CHAT,
    COMPLETIONS,
    PATIENCE_S,
    ByteDetokenizer,
    ByteTokenizer,
    Client,
    ScriptedBackend,
    Step,
    batch,
    chat,
    completion,
    gateway,
    says,
)
from tests.runtime.gateway.sockets import posted, wait_began, wait_closed

if TYPE_CHECKING:
    from aiohttp import web

BOTH = pytest.mark.parametrize(("path", "body"), [(CHAT, chat()), (COMPLETIONS, completion())])


@BOTH
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("first", [[], [batch("some")]])
async def test_a_client_that_leaves_frees_its_sequences(
    client: Client,
    backend: ScriptedBackend,
    path: str,
    body: dict[str, Any],
    stream: bool,
    first: list[Step],
) -> None:
    never = asyncio.Event()
    backend.script = lambda _: [*first, never]
    async with posted(client, path, body | {"stream": stream}):
        sequence = await wait_began(backend)
        assert not sequence.closed.is_set()
    await wait_closed(sequence)
    assert (await client.get("/health")).status == 200


@pytest.fixture
def dropped(caplog: pytest.LogCaptureFixture) -> Iterator[asyncio.Event]:
    """Set when the log says that a client was dropped: a whole answer leaves no other trace."""

    class Noticing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "nothing was read" in record.getMessage():
                event.set()

    event, handler = asyncio.Event(), Noticing()
    caplog.set_level("INFO", "runtime.gateway")
    logging.getLogger("runtime.gateway").addHandler(handler)
    yield event
    logging.getLogger("runtime.gateway").removeHandler(handler)


class LongWords(ByteDetokenizer):
    """Much text from few tokens."""

    def push(self, token_ids: Sequence[int]) -> str:
        return super().push(token_ids) * 100_000


class WordyTokenizer(ByteTokenizer):
    def detokenizer(
        self, prompt_ids: Sequence[int], *, skip_special_tokens: bool = True
    ) -> ByteDetokenizer:
        return LongWords()


@asynccontextmanager
async def impatient(backend: ScriptedBackend) -> AsyncIterator[Client]:
    limits = Limits(times=Times(write_timeout_s=0.1))
    async with gateway(backend, tokenizer=WordyTokenizer(), limits=limits) as client:
        yield client


def endless(request: GenerationRequest) -> Iterable[Step]:
    while True:
        yield batch("x")


async def test_a_client_that_stops_reading_is_dropped(backend: ScriptedBackend) -> None:
    backend.script = endless
    async with (
        impatient(backend) as client,
        posted(client, CHAT, chat(stream=True), receive_bytes=4096),
    ):
        await wait_closed(await wait_began(backend))


async def test_a_client_that_does_not_read_a_whole_answer_is_dropped(
    backend: ScriptedBackend, dropped: asyncio.Event
) -> None:
    backend.script = says("x" * 160)
    async with (
        asyncio.timeout(PATIENCE_S),
        impatient(backend) as client,
        posted(client, CHAT, chat(), receive_bytes=4096),
    ):
        await dropped.wait()


class HeldTransport:
    """A connection whose client takes nothing, so that closing it never ends."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.aborted = asyncio.Event()
        self.close = self.closed.set
        self.abort = self.aborted.set


class Unwatched(EventStream):
    async def _write(self, text: str) -> None:
        """Goes into a buffer."""


async def test_a_client_that_does_not_read_the_error_is_cut_off_in_the_end() -> None:
    transport = HeldTransport()
    request = cast("web.Request", SimpleNamespace(transport=transport))
    await Unwatched(request, 0.01).fail(ApiError(503, "lost"))
    assert transport.closed.is_set()
    async with asyncio.timeout(PATIENCE_S):
        await transport.aborted.wait()
