"""A client that reads one stream and keeps what it saw, however the stream ends.

A failure is no exception here but a part of the outcome: a run goes on with the other streams.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
import msgspec

from runtime.chaos.events import Event, EventReader, NotEvents
from runtime.chaos.load import Ask
from runtime.chaos.outcome import Outcome
from runtime.chaos.site import Site
from runtime.control.service import CommandFailed

DONE = "[DONE]"
MAX_ERROR_CHARACTERS = 300

OnText = Callable[[int], None]
"""Told how many texts have come, at each."""


class _Choice(msgspec.Struct):
    text: str
    finish_reason: str | None


class _Usage(msgspec.Struct):
    completion_tokens: int


class _Chunk(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


class _Error(msgspec.Struct):
    message: str


class _Failure(msgspec.Struct):
    error: _Error


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Bounds of waiting, in seconds.

    Attributes:
        silence_s: for the next byte of a stream.
        stream_s: for the end of a stream.
        settle_s: for a service to be ready again.
    """

    silence_s: float = 120.0
    stream_s: float = 600.0
    settle_s: float = 60.0


async def ask(
    site: Site,
    model: str,
    asked: Ask,
    patience: Patience,
    *,
    on_text: OnText = lambda _: None,
    asks_again: bool = False,
) -> Outcome:
    """Send a request and read its stream to whatever end.

    With `asks_again` a connection that is cut is no failure: the request is sent once more when the
    service is ready.
    """
    reading = _Reading(on_text)
    try:
        async with asyncio.timeout(patience.stream_s):
            while not await _attempt(site, asked.body(model), patience, reading) and asks_again:
                await site.wait_ready(patience.settle_s)
                reading.begin_again()
    except TimeoutError:
        reading.outcome.error = f"it had not ended after {patience.stream_s:g} s"
    except CommandFailed as error:
        reading.outcome.error = str(error)
    return reading.outcome


async def _attempt(
    site: Site, body: dict[str, object], patience: Patience, reading: "_Reading"
) -> bool:
    """Send it once; False if the connection was cut, True if the service ended the stream."""
    timeout = aiohttp.ClientTimeout(sock_connect=10.0, sock_read=patience.silence_s)
    url = f"{site.url}/v1/completions"
    try:
        async with site.session.post(url, json=body, timeout=timeout) as answer:
            if answer.status != 200:
                reading.fail(f"{answer.status}: {_message(await answer.text())}")
                return True
            async for data in answer.content.iter_any():
                if reading.take(data):
                    return True
            reading.fail("it ended in silence")
            return True
    except NotEvents as error:
        reading.fail(f"it sent {error}")
        return True
    except aiohttp.ClientError as error:
        reading.fail(f"the connection broke: {error or type(error).__name__}")
        return False


class _Reading:
    """One stream while it is read."""

    def __init__(self, on_text: OnText) -> None:
        self._now = asyncio.get_running_loop().time
        self._on_text = on_text
        self._events = EventReader()
        self._has_reason = False
        self.outcome = Outcome(self._now())

    def begin_again(self) -> None:
        """Forget what came of the stream that was cut: the service is ready for another."""
        self._events, self._has_reason = EventReader(), False
        self.outcome.begin_again(self._now())

    def fail(self, reason: str) -> None:
        """It ended, and not well."""
        self.outcome.error = reason[:MAX_ERROR_CHARACTERS]

    def take(self, data: bytes) -> bool:
        """Take bytes; True at the end of the stream."""
        return any(self._take(event) for event in self._events.feed(data))

    def _take(self, event: Event) -> bool:
        for comment in event.comments:
            self.outcome.take_comment(comment)
        if event.name == "error":
            self.fail(f"error event: {_message(event.data)}")
        elif event.data == DONE:
            self.outcome.take_time(self._now())
            if not self._has_reason:
                self.fail("it ended without a finish reason")
        elif event.data:
            self._take_chunk(event.data)
        return event.name == "error" or event.data == DONE

    def _take_chunk(self, data: str) -> None:
        try:
            chunk = msgspec.json.decode(data, type=_Chunk)
        except msgspec.DecodeError as error:
            raise NotEvents(f"an event that is no chunk: {error}") from None
        for choice in chunk.choices:
            self._has_reason = self._has_reason or choice.finish_reason is not None
            if choice.text:
                self.outcome.take_text(choice.text, self._now())
                self._on_text(self.outcome.num_texts)
        if chunk.usage is not None:
            self.outcome.num_tokens = chunk.usage.completion_tokens


def _message(data: str) -> str:
    """The sentence in an error of OpenAI's shape, or as much of anything else."""
    try:
        return msgspec.json.decode(data, type=_Failure).error.message
    except msgspec.DecodeError:
        return data[:MAX_ERROR_CHARACTERS]
