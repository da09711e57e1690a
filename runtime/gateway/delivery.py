"""From a checked request to its answer, whole or as a stream.

However an answer ends, whether done, failed or given up by its client, its sequences are closed.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from runtime.gateway.backend import Backend
from runtime.gateway.choice import Choice, Piece
from runtime.gateway.faults import EVENTS
from runtime.gateway.shapes import Answer, Shape, Written, usage
from runtime.gateway.sse import EventStream, send_whole

Emit = Callable[[int, Piece], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Bounds of one answer on its way, in seconds.

    Attributes:
        write_timeout_s: a client that takes nothing for so long is dropped.
        first_bytes_s: a stream that has nothing to say by then is opened all the same.
        keep_alive_s: a stream that has nothing to say for so long sends a comment.
    """

    write_timeout_s: float = 30.0
    first_bytes_s: float = 0.25
    keep_alive_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A checked request: its choices, and how its answer is to be written.

    Of the choices of each prompt the `num_shown` likeliest are shown, where there are more.
    """

    answer: Answer
    shape: Shape
    choices: list[Choice]
    num_shown: int = 1
    streams: bool = False
    shows_usage: bool = False
    shows_usage_always: bool = False
    shows_prompt_logprobs: bool = False

    def usage(self) -> dict[str, Any]:
        """Tokens of all choices, and how often they went on after a loss, if they did.

        Tokens of prompts that were not computed for them are told where there were any.
        """
        num_recoveries = sum(choice.num_recoveries for choice in self.choices)
        prompts = {c.prompt_index: len(c.request.token_ids) for c in self.choices}
        counted = usage(
            sum(prompts.values()),
            sum(choice.num_completion_tokens for choice in self.choices),
        )
        if num_cached := self._num_cached():
            counted["prompt_tokens_details"] = {"cached_tokens": num_cached}
        return counted | ({"recoveries": num_recoveries} if num_recoveries else {})

    def _num_cached(self) -> int:
        """Prompt tokens that were computed for no choice of theirs."""
        by_prompt: dict[int, int] = {}
        for choice in self.choices:
            least = by_prompt.get(choice.prompt_index, choice.num_cached)
            by_prompt[choice.prompt_index] = min(least, choice.num_cached)
        return sum(by_prompt.values())

    def usage_of_chunk(self) -> dict[str, Any]:
        """What a chunk says of the usage."""
        if self.shows_usage_always:
            return {"usage": self.usage()}
        return {"usage": None} if self.shows_usage else {}

    def shown(self) -> list[int]:
        """The choices that are shown, the best of each prompt first where there is a choice."""
        by_prompt: dict[int, list[int]] = {}
        for index, choice in enumerate(self.choices):
            by_prompt.setdefault(choice.prompt_index, []).append(index)
        return [index for indices in by_prompt.values() for index in self._best(indices)]

    def _best(self, indices: list[int]) -> list[int]:
        if len(indices) <= self.num_shown:
            return indices
        ranked = sorted(indices, key=lambda index: -self.choices[index].mean_logprob)
        return ranked[: self.num_shown]


async def deliver(
    request: web.Request, job: Job, backend: Backend, times: Times
) -> web.StreamResponse:
    """Have the sequences of a job made, and send their text to the client."""
    async with AsyncExitStack() as closing:
        for choice in job.choices:
            choice.submit(backend)
            closing.push_async_callback(choice.aclose)
        if job.streams:
            return await _stream(request, job, times)
        body = await _whole(job)
    return await send_whole(request, body, times.write_timeout_s)


async def _whole(job: Job) -> dict[str, object]:
    written = [Written() for _ in job.choices]

    async def collect(index: int, piece: Piece) -> None:
        written[index].add(piece)

    await _drive(job.choices, collect)
    if job.shows_prompt_logprobs:
        for choice, whole in zip(job.choices, written, strict=True):
            whole.prompt = choice.prompt_logprobs()
    shown = [written[index] for index in job.shown()]
    return job.shape.whole(job.answer, shown) | {"usage": job.usage()}


async def _stream(request: web.Request, job: Job, times: Times) -> web.StreamResponse:
    events = request[EVENTS] = EventStream(request, times.write_timeout_s)
    begun = set()

    async def send(index: int, piece: Piece) -> None:
        if piece.note:
            await events.comment(piece.note)
            return
        if index not in begun:
            begun.add(index)
            if (first := job.shape.first(job.answer, index)) is not None:
                await events.send(first | job.usage_of_chunk())
        await events.send(job.shape.chunk(job.answer, index, piece) | job.usage_of_chunk())

    async with _kept_alive(events, times):
        await _drive(job.choices, send)
    if job.shows_usage:
        await events.send(job.shape.last(job.answer) | {"usage": job.usage()})
    await events.finish()
    return events.response


@asynccontextmanager
async def _kept_alive(events: EventStream, times: Times) -> AsyncIterator[None]:
    """Have a stream begin soon and never be silent for long, whatever its tokens do."""
    try:
        async with asyncio.TaskGroup() as group:
            speaking = group.create_task(_speak(events, times))
            yield
            speaking.cancel()
    except ExceptionGroup as faults:
        raise faults.exceptions[0] from None


async def _speak(events: EventStream, times: Times) -> None:
    await asyncio.sleep(times.first_bytes_s)
    if not events.is_open:
        await events.open()
    while True:
        num_writes = events.num_writes
        await asyncio.sleep(times.keep_alive_s)
        if events.num_writes == num_writes:
            await events.comment("keep-alive")


async def _drive(choices: list[Choice], emit: Emit) -> None:
    """Hand on the pieces of all choices as they come; the first fault ends all."""
    if len(choices) == 1:
        await _feed(0, choices[0], emit)
        return
    try:
        async with asyncio.TaskGroup() as group:
            for index, choice in enumerate(choices):
                group.create_task(_feed(index, choice, emit))
    except ExceptionGroup as faults:
        raise faults.exceptions[0] from None


async def _feed(index: int, choice: Choice, emit: Emit) -> None:
    async with aclosing(choice.pieces()) as pieces:
        async for piece in pieces:
            await emit(index, piece)
    # What ended by a stop string could go on: its place is another's from now on, and not only
    # when the last choice has ended.
    await choice.aclose()
