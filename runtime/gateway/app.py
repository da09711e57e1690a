"""The HTTP endpoint: OpenAI's API in front of a backend that makes tokens.

A request is read, checked and bounded here, then only watched: tokens become text, text becomes
events. Whatever goes wrong is answered in OpenAI's error shape. It never knows a pipeline.
"""

import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from runtime.gateway.access import caller_of
from runtime.gateway.admin import admin_routes
from runtime.gateway.admission import Admission
from runtime.gateway.backend import Backend
from runtime.gateway.body import read_object
from runtime.gateway.bounds import Bounds
from runtime.gateway.delivery import Job, deliver
from runtime.gateway.errors import ApiError
from runtime.gateway.generation import Choice, ModelFacts, generation_request
from runtime.gateway.operator import Operator
from runtime.gateway.parameters import CHAT, COMPLETIONS, Endpoint
from runtime.gateway.prompts import read_messages, read_prompts
from runtime.gateway.safeguards import Safeguards, WholeSafeguards
from runtime.gateway.shapes import Answer, ChatShape, CompletionShape, Shape
from runtime.gateway.terms import Terms, take_terms
from runtime.gateway.tokenizing import TokenIds, Tokenizer, Tokenizing

COMPLETION_MAX_TOKENS = 16
"""What OpenAI generates where a completion does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one request, in bytes and seconds."""

    max_body_bytes: int = 4 << 20
    body_timeout_s: float = 30.0
    tokenizing_timeout_s: float = 30.0
    write_timeout_s: float = 30.0


def create_app(
    backend: Backend,
    tokenizer: Tokenizer,
    model: ModelFacts,
    *,
    limits: Limits | None = None,
    rng: random.Random,
    operator: Operator | None = None,
    clock: Callable[[], float] = time.time,
    safeguards: Safeguards | None = None,
) -> web.Application:
    """The application with the operator's endpoints in it.

    `clock` is the wall clock that answers are dated by. With an `operator`, the service can be
    changed over it as well.
    """
    apps = create_apps(
        backend,
        tokenizer,
        model,
        limits=limits,
        rng=rng,
        operator=operator,
        clock=clock,
        safeguards=safeguards,
    )
    apps.clients.add_routes(apps.admin_routes)
    return apps.clients


@dataclass(frozen=True, slots=True)
class Apps:
    """The clients' application, and the operator's routes, to be added to it or to another."""

    clients: web.Application
    admin_routes: list[web.RouteDef]
    guards: WholeSafeguards


def create_apps(
    backend: Backend,
    tokenizer: Tokenizer,
    model: ModelFacts,
    *,
    limits: Limits | None = None,
    rng: random.Random,
    operator: Operator | None = None,
    clock: Callable[[], float] = time.time,
    safeguards: Safeguards | None = None,
) -> Apps:
    """Both halves of the endpoint, on one port or two."""
    limits = limits or Limits()
    guards = (safeguards or Safeguards()).whole(model.name)
    admission = Admission(backend, guards.telemetry.requests, guards.room)
    guards.telemetry.num_queued = lambda: admission.num_waiting
    gateway = Gateway(admission, guards.bounds, tokenizer, model, limits, rng, clock)
    app = guards.new_application(limits.max_body_bytes)
    app.cleanup_ctx.append(gateway.closing)
    app.add_routes(
        [
            web.post("/v1/completions", gateway.complete),
            web.post("/v1/chat/completions", gateway.chat),
            web.get("/v1/models", gateway.list_models),
            web.get("/v1/models/{id:.+}", gateway.show_model),
            web.get("/health", gateway.health),
        ]
    )
    routes = admin_routes(backend, admission, guards.telemetry, operator, limits.write_timeout_s)
    return Apps(app, routes, guards)


class Gateway:
    """The handlers of one service."""

    def __init__(
        self,
        admission: Admission,
        bounds: Bounds,
        tokenizer: Tokenizer,
        model: ModelFacts,
        limits: Limits,
        rng: random.Random,
        clock: Callable[[], float],
    ) -> None:
        self._admission = admission
        self._bounds = bounds
        self._tokenizer = tokenizer
        self._vocab_size = tokenizer.vocab_size  # a walk over the vocabulary, hence once
        self._tokenizing = Tokenizing(tokenizer, limits.tokenizing_timeout_s)
        self._model = model
        self._limits = limits
        self._rng = rng
        self._clock = clock
        self._created = int(clock())

    async def closing(self, app: web.Application) -> AsyncIterator[None]:
        """Let go of the tokenizing thread when the application ends."""
        yield
        self._tokenizing.close()

    # --- generating

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/completions`."""
        parameters, terms = await self._parameters(COMPLETIONS, request)
        prompts = read_prompts(_required(parameters, "prompt"), self._vocab_size)
        token_ids = await self._tokenizing.prompts(prompts)
        job = self._job(CompletionShape(), token_ids, parameters, COMPLETION_MAX_TOKENS)
        return await self._deliver(request, job, terms)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/chat/completions`."""
        parameters, terms = await self._parameters(CHAT, request)
        messages = read_messages(_required(parameters, "messages"))
        token_ids = await self._tokenizing.chat(messages)
        job = self._job(ChatShape(), [token_ids], parameters, None)
        return await self._deliver(request, job, terms)

    async def _deliver(self, request: web.Request, job: Job, terms: Terms) -> web.StreamResponse:
        """Answer a request when its turn has come."""
        async with self._admission.entered(caller_of(request), terms) as backend:
            return await deliver(request, job, backend, self._limits.write_timeout_s)

    async def _parameters(
        self, endpoint: Endpoint, request: web.Request
    ) -> tuple[dict[str, Any], Terms]:
        body = await read_object(request, self._limits.body_timeout_s)
        self._bounds.check_body(body)
        terms = take_terms(body, caller_of(request), self._bounds.max_queue_s)
        parameters = endpoint.read(body)
        self._check_model(_required(parameters, "model"))
        if "stream_options" in parameters and not parameters.get("stream"):
            raise ApiError(400, "stream_options: only with stream=true", param="stream_options")
        return parameters, terms

    def _check_model(self, name: str) -> None:
        if name != self._model.name:
            message = f"The model {name[:128]!r} does not exist; this is {self._model.name!r}."
            raise ApiError(404, message, param="model", code="model_not_found")

    def _job(
        self,
        shape: Shape,
        prompts: list[TokenIds],
        parameters: dict[str, Any],
        default_max_tokens: int | None,
    ) -> Job:
        for prompt in prompts:
            self._bounds.check_prompt(len(prompt), shape.prompt_param)
        answer_id = f"{shape.id_prefix}-{self._rng.getrandbits(96):024x}"
        requests = [
            generation_request(
                prompt,
                parameters,
                prompt_param=shape.prompt_param,
                request_id=f"{answer_id}-{index}",
                default_max_tokens=default_max_tokens,
                model=self._model,
                rng=self._rng,
            )
            for index, prompt in enumerate(prompts)
        ]
        stops = parameters.get("stop", ())
        return Job(
            answer=Answer(answer_id, int(self._clock()), self._model.name),
            shape=shape,
            choices=[Choice(request, stops, self._tokenizer) for request in requests],
            streams=parameters.get("stream", False),
            shows_usage=parameters.get("stream_options", False),
        )

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
        reason = self._admission.backend.not_ready_reason()
        body = {"status": "ready"} if reason is None else {"status": "not ready", "reason": reason}
        return web.json_response(body, status=200 if reason is None else 503)


def _required(parameters: dict[str, Any], name: str) -> Any:
    if name not in parameters:
        raise ApiError(400, f"{name}: this parameter is required", param=name)
    return parameters[name]
