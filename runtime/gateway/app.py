"""The HTTP endpoint: OpenAI's API in front of a backend that makes tokens.

A request is read, checked and bounded here, then only watched: tokens become text, text becomes
events. Whatever goes wrong is answered in OpenAI's error shape. It never knows a pipeline.
"""

import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from runtime.gateway.access import caller_of
from runtime.gateway.admin import admin_routes
from runtime.gateway.admission import Admission
from runtime.gateway.admitted import entered
from runtime.gateway.agreement import check_places
from runtime.gateway.backend import Backend
from runtime.gateway.body import read_object
from runtime.gateway.bounds import Bounds
from runtime.gateway.delivery import Times, deliver
from runtime.gateway.endpoints import CHAT
from runtime.gateway.generation import ModelFacts
from runtime.gateway.openapi.document import DocumentRoute
from runtime.gateway.operator import Operator
from runtime.gateway.reading import GrammarCheck, Order, Reading
from runtime.gateway.safeguards import Safeguards, WholeSafeguards
from runtime.gateway.shapes import Answer
from runtime.gateway.terms import Terms, take_terms
from runtime.gateway.tokenizing import Tokenizer, Tokenizing
from runtime.telemetry.tracing.middleware import TRACE


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one request, in bytes and seconds."""

    max_body_bytes: int = 4 << 20
    body_timeout_s: float = 30.0
    tokenizing_timeout_s: float = 30.0
    times: Times = field(default_factory=Times)


@dataclass(frozen=True, slots=True)
class Apps:
    """The clients' application, and the operator's routes, to be added to it or to another.

    `chat_routes` stand beside them on a port of their own, where the page has them to chat by.
    """

    clients: web.Application
    admin_routes: list[web.RouteDef]
    chat_routes: list[web.RouteDef]
    guards: WholeSafeguards
    about: DocumentRoute

    def together(self) -> web.Application:
        """The clients' application with the operator's routes in it, for one port."""
        self.clients.add_routes(self.admin_routes)
        return self.clients


def create_apps(
    backend: Backend,
    tokenizer: Tokenizer,
    model: ModelFacts,
    *,
    grammars: GrammarCheck,
    version: str = "",
    limits: Limits | None = None,
    rng: random.Random,
    operator: Operator | None = None,
    clock: Callable[[], float] = time.time,
    safeguards: Safeguards | None = None,
) -> Apps:
    """Both halves of the endpoint, on one port or two; needs a running loop.

    `clock` is the wall clock that answers are dated by. With an `operator`, the service can be
    changed over it as well. `version` is what it says of itself.
    """
    limits = limits or Limits()
    guards = (safeguards or Safeguards()).whole(model.name)
    admission = Admission(backend, guards.telemetry.requests, guards.room)
    guards.telemetry.num_queued = lambda: admission.num_waiting
    tokenizing = Tokenizing(tokenizer, limits.tokenizing_timeout_s)
    reading = Reading(tokenizer, tokenizing, model, grammars, rng, guards.bounds)
    gateway = Gateway(admission, guards.bounds, reading, model, version, limits, rng, clock)

    async def closing(app: web.Application) -> AsyncIterator[None]:
        """Let go of the tokenizing thread when the application ends."""
        yield
        tokenizing.close()

    app = guards.new_application(limits.max_body_bytes)
    app.cleanup_ctx.append(closing)
    about = DocumentRoute(model.name, version)
    app.add_routes([*gateway.routes(), *about.routes()])
    timeout_s = limits.times.write_timeout_s
    routes = admin_routes(backend, admission, guards.telemetry, operator, timeout_s, version)
    chat_routes = [web.post(CHAT.path, gateway.chat)]
    return Apps(app, routes, chat_routes, guards, about)


class Gateway:
    """The handlers of one service's clients."""

    def __init__(
        self,
        admission: Admission,
        bounds: Bounds,
        reading: Reading,
        model: ModelFacts,
        version: str,
        limits: Limits,
        rng: random.Random,
        clock: Callable[[], float],
    ) -> None:
        self._admission = admission
        self._bounds = bounds
        self._reading = reading
        self._model = model
        self._version = version
        self._limits = limits
        self._rng = rng
        self._clock = clock
        self._created = int(clock())

    def routes(self) -> list[web.RouteDef]:
        """What an application adds."""
        return [
            web.post("/v1/completions", self.complete),
            web.post(CHAT.path, self.chat),
            web.get("/v1/models", self.list_models),
            web.get("/v1/models/{id:.+}", self.show_model),
            web.post("/tokenize", self.tokenize),
            web.post("/detokenize", self.detokenize),
            web.get("/tokenizer_info", self.tokenizer_info),
            web.get("/health", self.health),
            web.get("/ready", self.health),
            web.get("/version", self.version),
        ]

    # --- generating

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/completions`."""
        body, terms = await self._read_with_terms(request)
        return await self._deliver(request, await self._reading.completion(body), terms)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/chat/completions`."""
        body, terms = await self._read_with_terms(request)
        return await self._deliver(request, await self._reading.chat(body), terms)

    async def _deliver(
        self, request: web.Request, order: Order, terms: Terms
    ) -> web.StreamResponse:
        """Answer a request when its turn has come."""
        answer_id = f"{order.shape.id_prefix}-{self._rng.getrandbits(96):024x}"
        job = order.job(Answer(answer_id, int(self._clock()), self._model.name))
        check_places(order.asked.parameters, len(job.choices), self._admission.max_sequences())
        trace = request.get(TRACE)
        if trace is not None:
            trace.asked(order.asked.parameters, answer_id)
        async with entered(self._admission, caller_of(request), terms) as backend:
            try:
                return await deliver(request, job, backend, self._limits.times)
            finally:
                if trace is not None:
                    trace.clocks = [stream.clock for stream in backend.streams]

    async def _read_with_terms(self, request: web.Request) -> tuple[dict[str, Any], Terms]:
        """The body of a generation without what it says of its turn, and that."""
        body = await self._read(request)
        return body, take_terms(body, caller_of(request), self._bounds.max_queue_s)

    async def _read(self, request: web.Request) -> dict[str, Any]:
        body = await read_object(request, self._limits.body_timeout_s)
        self._bounds.check_body(body)
        return body

    # --- tokens

    async def tokenize(self, request: web.Request) -> web.Response:
        """`POST /tokenize`."""
        return web.json_response(await self._reading.tokenize(await self._read(request)))

    async def detokenize(self, request: web.Request) -> web.Response:
        """`POST /detokenize`."""
        return web.json_response(await self._reading.detokenize(await self._read(request)))

    async def tokenizer_info(self, request: web.Request) -> web.Response:
        """`GET /tokenizer_info`."""
        return web.json_response(self._reading.tokenizer_info())

    # --- telling

    async def list_models(self, request: web.Request) -> web.Response:
        """`GET /v1/models`."""
        return web.json_response({"object": "list", "data": [self._model_object()]})

    async def show_model(self, request: web.Request) -> web.Response:
        """`GET /v1/models/{id}`."""
        self._model.check_name(request.match_info["id"])
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

    async def version(self, request: web.Request) -> web.Response:
        """`GET /version`."""
        return web.json_response({"version": self._version})
