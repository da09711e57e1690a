"""The HTTP endpoint: OpenAI's API in front of a backend that makes tokens.

A request is read, checked and bounded here, then only watched: tokens become text, text becomes
events. Whatever goes wrong is answered in OpenAI's error shape. It never knows a pipeline.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from runtime.gateway.backend import Backend, GenerationError, NotReady, Overloaded
from runtime.gateway.body import read_object
from runtime.gateway.errors import ApiError
from runtime.gateway.generation import Choice, ModelFacts, Piece, generation_request
from runtime.gateway.parameters import CHAT, COMPLETIONS, Endpoint
from runtime.gateway.prompts import Tokenizer, read_messages, read_prompts
from runtime.gateway.shapes import Answer, ChatShape, CompletionShape, Shape, usage
from runtime.gateway.sse import EventStream, SlowReader

_log = logging.getLogger(__name__)

RETRY_NOT_READY_S = 5
COMPLETION_MAX_TOKENS = 16
"""What OpenAI generates where a completion does not say."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one request, in bytes and seconds."""

    max_body_bytes: int = 4 << 20
    write_timeout_s: float = 30.0


def create_app(
    backend: Backend,
    tokenizer: Tokenizer,
    model: ModelFacts,
    *,
    limits: Limits | None = None,
    rng: random.Random,
    clock: Callable[[], float] = time.time,
) -> web.Application:
    """The application; `clock` is the wall clock that answers are dated by."""
    limits = limits or Limits()
    gateway = Gateway(backend, tokenizer, model, limits, rng, clock)
    app = web.Application(client_max_size=limits.max_body_bytes, middlewares=[_errors])
    app.add_routes(
        [
            web.post("/v1/completions", gateway.complete),
            web.post("/v1/chat/completions", gateway.chat),
            web.get("/v1/models", gateway.list_models),
            web.get("/v1/models/{id}", gateway.show_model),
            web.get("/health", gateway.health),
            web.get("/admin/status", gateway.status),
        ]
    )
    return app


@dataclass(frozen=True, slots=True)
class _Job:
    """A checked request: its choices, and how its answer is to be written."""

    answer: Answer
    shape: Shape
    choices: list[Choice]
    streams: bool
    shows_usage: bool

    def usage(self) -> dict[str, int]:
        return usage(
            sum(len(choice.request.token_ids) for choice in self.choices),
            sum(choice.num_completion_tokens for choice in self.choices),
        )


class Gateway:
    """The handlers of one service."""

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        model: ModelFacts,
        limits: Limits,
        rng: random.Random,
        clock: Callable[[], float],
    ) -> None:
        self._backend = backend
        self._tokenizer = tokenizer
        self._model = model
        self._limits = limits
        self._rng = rng
        self._clock = clock
        self._created = int(clock())

    # --- generating

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/completions`."""
        parameters = self._parameters(COMPLETIONS, await read_object(request))
        prompts = read_prompts(_required(parameters, "prompt"), self._tokenizer)
        return await self._run(
            request, self._job(CompletionShape(), prompts, parameters, COMPLETION_MAX_TOKENS)
        )

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/chat/completions`."""
        parameters = self._parameters(CHAT, await read_object(request))
        prompt = read_messages(_required(parameters, "messages"), self._tokenizer)
        return await self._run(request, self._job(ChatShape(), [prompt], parameters, None))

    def _parameters(self, endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
        parameters = endpoint.read(body)
        self._check_model(_required(parameters, "model"))
        if "stream_options" in parameters and not parameters.get("stream"):
            raise ApiError(400, "stream_options: only with stream=true", param="stream_options")
        return parameters

    def _check_model(self, name: str) -> None:
        if name != self._model.name:
            message = f"The model {name[:128]!r} does not exist; this is {self._model.name!r}."
            raise ApiError(404, message, param="model", code="model_not_found")

    def _job(
        self,
        shape: Shape,
        prompts: list[tuple[int, ...]],
        parameters: dict[str, Any],
        default_max_tokens: int | None,
    ) -> _Job:
        answer_id = f"{shape.id_prefix}-{self._rng.getrandbits(96):024x}"
        requests = [
            generation_request(
                prompt,
                parameters,
                request_id=f"{answer_id}-{index}",
                default_max_tokens=default_max_tokens,
                model=self._model,
                rng=self._rng,
            )
            for index, prompt in enumerate(prompts)
        ]
        stops = parameters.get("stop", ())
        return _Job(
            answer=Answer(answer_id, int(self._clock()), self._model.name),
            shape=shape,
            choices=[Choice(request, stops, self._tokenizer) for request in requests],
            streams=parameters.get("stream", False),
            shows_usage=parameters.get("stream_options", False),
        )

    async def _run(self, request: web.Request, job: _Job) -> web.StreamResponse:
        async with AsyncExitStack() as closing:
            for choice in job.choices:
                choice.submit(self._backend)
                closing.push_async_callback(choice.aclose)
            return await (self._stream(request, job) if job.streams else self._whole(job))

    async def _whole(self, job: _Job) -> web.Response:
        texts: list[list[str]] = [[] for _ in job.choices]
        reasons = [""] * len(job.choices)

        async def collect(index: int, piece: Piece) -> None:
            texts[index].append(piece.text)
            reasons[index] = piece.finish_reason or ""

        await _drive(job.choices, collect)
        written = [("".join(text), reason) for text, reason in zip(texts, reasons, strict=True)]
        return web.json_response(job.shape.whole(job.answer, written) | {"usage": job.usage()})

    async def _stream(self, request: web.Request, job: _Job) -> web.StreamResponse:
        events = EventStream(request, self._limits.write_timeout_s)
        response = await events.open()
        no_usage = {"usage": None} if job.shows_usage else {}

        async def send(index: int, piece: Piece) -> None:
            chunk = job.shape.chunk(job.answer, index, piece.text, piece.finish_reason)
            await events.send(chunk | no_usage)

        try:
            for index in range(len(job.choices)):
                if (first := job.shape.first(job.answer, index)) is not None:
                    await events.send(first | no_usage)
            await _drive(job.choices, send)
            if job.shows_usage:
                await events.send(job.shape.last(job.answer) | {"usage": job.usage()})
            await events.finish()
        except GenerationError as error:
            await events.fail(str(error), error.kind)
        except (SlowReader, ConnectionResetError) as error:
            _log.info("client dropped request=%s reason=%s", job.answer.id, error)
        return response

    # --- telling

    async def list_models(self, request: web.Request) -> web.Response:
        """`GET /v1/models`."""
        return web.json_response({"object": "list", "data": [self._model_object()]})

    async def show_model(self, request: web.Request) -> web.Response:
        """`GET /v1/models/{id}`."""
        self._check_model(request.match_info["id"])
        return web.json_response(self._model_object())

    def _model_object(self) -> dict[str, Any]:
        return {
            "id": self._model.name,
            "object": "model",
            "created": self._created,
            "owned_by": "remuda",
            "max_model_len": self._model.max_len,
        }

    async def health(self, request: web.Request) -> web.Response:
        """`GET /health`: 200 when every stage is ready, else 503 with what is missing."""
        reason = self._backend.not_ready_reason()
        body = {"status": "ready"} if reason is None else {"status": "not ready", "reason": reason}
        return web.json_response(body, status=200 if reason is None else 503)

    async def status(self, request: web.Request) -> web.Response:
        """`GET /admin/status`."""
        return web.json_response(await self._backend.status())


def _required(parameters: dict[str, Any], name: str) -> Any:
    if name not in parameters:
        raise ApiError(400, f"{name}: this parameter is required", param=name)
    return parameters[name]


async def _drive(choices: list[Choice], emit: Callable[[int, Piece], Awaitable[None]]) -> None:
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


async def _feed(index: int, choice: Choice, emit: Callable[[int, Piece], Awaitable[None]]) -> None:
    async with aclosing(choice.pieces()) as pieces:
        async for piece in pieces:
            await emit(index, piece)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The outermost handler: every error leaves in OpenAI's shape, and no traceback with it."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _answer(_from_http(error, request))
    except Exception as error:  # noqa: BLE001 - the gateway's outermost handler
        return _answer(_from_exception(error, request))


def _from_http(error: web.HTTPException, request: web.Request) -> ApiError:
    """What aiohttp itself refuses: unknown paths and methods."""
    message = f"{request.method} {request.path[:256]}: {error.reason}"
    allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    return ApiError(error.status, message, headers=allow)


def _from_exception(error: Exception, request: web.Request) -> ApiError:
    match error:
        case ApiError():
            return error
        case Overloaded():
            retry = {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
            return ApiError(
                429, str(error), kind="rate_limit_error", code="queue_full", headers=retry
            )
        case NotReady():
            retry = {"Retry-After": str(RETRY_NOT_READY_S)}
            return ApiError(503, str(error), kind="server_error", code="not_ready", headers=retry)
        case GenerationError(kind="queue_full"):
            return _from_exception(Overloaded(str(error), retry_after_s=1.0), request)
        case GenerationError():
            return ApiError(503, str(error), kind="server_error", code=error.kind)
    _log.exception("request failed method=%s path=%s", request.method, request.path)
    return ApiError(500, "internal error", kind="server_error", code="internal_error")


def _answer(error: ApiError) -> web.Response:
    return web.json_response(error.body(), status=error.status, headers=error.headers)
