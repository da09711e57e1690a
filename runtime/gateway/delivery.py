"""From a checked request to its answer, whole or as a stream.

However an answer ends, whether done, failed or given up by its client, its sequences are closed.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass

from aiohttp import web

from runtime.gateway.backend import Backend
from runtime.gateway.faults import EVENTS
from runtime.gateway.generation import Choice, Piece
from runtime.gateway.shapes import Answer, Shape, usage
from runtime.gateway.sse import EventStream, send_whole

Emit = Callable[[int, Piece], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A checked request: its choices, and how its answer is to be written."""

    answer: Answer
    shape: Shape
    choices: list[Choice]
    streams: bool
    shows_usage: bool

    def usage(self) -> dict[str, int]:
        """Tokens of all choices, and how often they went on after a loss, if they did."""
        num_recoveries = sum(choice.num_recoveries for choice in self.choices)
        counted = usage(
            sum(len(choice.request.token_ids) for choice in self.choices),
            sum(choice.num_completion_tokens for choice in self.choices),
        )
        return counted | ({"recoveries": num_recoveries} if num_recoveries else {})


async def deliver(
    request: web.Request, job: Job, backend: Backend, write_timeout_s: float
) -> web.StreamResponse:
    """Have the sequences of a job made, and send their text to the client."""
    async with AsyncExitStack() as closing:
        for choice in job.choices:
            choice.submit(backend)
            closing.push_async_callback(choice.aclose)
        if job.streams:
            return await _stream(request, job, write_timeout_s)
        body = await _whole(job)
    return await send_whole(request, body, write_timeout_s)


async def _whole(job: Job) -> dict[str, object]:
    texts: list[list[str]] = [[] for _ in job.choices]
    reasons = [""] * len(job.choices)

    async def collect(index: int, piece: Piece) -> None:
        texts[index].append(piece.text)
        reasons[index] = piece.finish_reason or ""

    await _drive(job.choices, collect)
    written = [("".join(text), reason) for text, reason in zip(texts, reasons, strict=True)]
    return job.shape.whole(job.answer, written) | {"usage": job.usage()}


async def _stream(request: web.Request, job: Job, write_timeout_s: float) -> web.StreamResponse:
    events = request[EVENTS] = EventStream(request, write_timeout_s)
    no_usage = {"usage": None} if job.shows_usage else {}
    begun = set()

    async def send(index: int, piece: Piece) -> None:
        if piece.note:
            await events.comment(piece.note)
            return
        if index not in begun:
            begun.add(index)
            if (first := job.shape.first(job.answer, index)) is not None:
                await events.send(first | no_usage)
        chunk = job.shape.chunk(job.answer, index, piece.text, piece.finish_reason)
        await events.send(chunk | no_usage)

    await _drive(job.choices, send)
    if job.shows_usage:
        await events.send(job.shape.last(job.answer) | {"usage": job.usage()})
    await events.finish()
    return events.response


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
