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

from runtime.gateway.backend import Backend
from runtime.gateway.body import read_object
from runtime.gateway.delivery import Times, deliver
from runtime.gateway.faults import answer_faults
from runtime.gateway.generation import ModelFacts
from runtime.gateway.operator import AdminRoutes, Operator
from runtime.gateway.reading import GrammarCheck, Order, Reading
from runtime.gateway.shapes import Answer
from runtime.gateway.tokenizing import Tokenizer, Tokenizing


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one request, in bytes and seconds."""

    max_body_bytes: int = 4 << 20
    body_timeout_s: float = 30.0
    tokenizing_timeout_s: float = 30.0
    times: Times = field(default_factory=Times)


def create_app(
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
) -> web.Application:
    """The application; `clock` is the wall clock that answers are dated by.

    With an `operator`, the service can be changed over it as well. `version` is what it says of
    itself.
    """
    limits = limits or Limits()
    gateway = Gateway(backend, tokenizer, model, grammars, version, limits, rng, clock)
    app = web.Application(client_max_size=limits.max_body_bytes, middlewares=[answer_faults])
    app.cleanup_ctx.append(gateway.closing)
    app.add_routes(
        [
            web.post("/v1/completions", gateway.complete),
            web.post("/v1/chat/completions", gateway.chat),
            web.get("/v1/models", gateway.list_models),
            web.get("/v1/models/{id:.+}", gateway.show_model),
            web.post("/tokenize", gateway.tokenize),
            web.post("/detokenize", gateway.detokenize),
            web.get("/tokenizer_info", gateway.tokenizer_info),
            web.get("/health", gateway.health),
            web.get("/ready", gateway.health),
            web.get("/version", gateway.version),
            web.get("/admin/status", gateway.status),
        ]
    )
    if operator is not None:
        app.add_routes(AdminRoutes(operator).routes())
    return app


class Gateway:
    """The handlers of one service."""

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        model: ModelFacts,
        grammars: GrammarCheck,
        version: str,
        limits: Limits,
        rng: random.Random,
        clock: Callable[[], float],
    ) -> None:
        self._backend = backend
        self._limits = limits
        self._tokenizing = Tokenizing(tokenizer, limits.tokenizing_timeout_s)
        self._reading = Reading(tokenizer, self._tokenizing, model, grammars, rng)
        self._model = model
        self._version = version
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
        body = await read_object(request, self._limits.body_timeout_s)
        return await self._deliver(request, await self._reading.completion(body))

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/chat/completions`."""
        body = await read_object(request, self._limits.body_timeout_s)
        return await self._deliver(request, await self._reading.chat(body))

    async def _deliver(self, request: web.Request, order: Order) -> web.StreamResponse:
        answer_id = f"{order.shape.id_prefix}-{self._rng.getrandbits(96):024x}"
        answer = Answer(answer_id, int(self._clock()), self._model.name)
        job = order.job(answer)
        return await deliver(request, job, self._backend, self._limits.times)

    # --- tokens

    async def tokenize(self, request: web.Request) -> web.Response:
        """`POST /tokenize`."""
        body = await read_object(request, self._limits.body_timeout_s)
        return web.json_response(await self._reading.tokenize(body))

    async def detokenize(self, request: web.Request) -> web.Response:
        """`POST /detokenize`."""
        body = await read_object(request, self._limits.body_timeout_s)
        return web.json_response(await self._reading.detokenize(body))

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
        reason = self._backend.not_ready_reason()
        body = {"status": "ready"} if reason is None else {"status": "not ready", "reason": reason}
        return web.json_response(body, status=200 if reason is None else 503)

    async def version(self, request: web.Request) -> web.Response:
        """`GET /version`."""
        return web.json_response({"version": self._version})

    async def status(self, request: web.Request) -> web.Response:
        """`GET /admin/status`."""
        return web.json_response(await self._backend.status())
