"""A collector on loopback, and a gateway whose requests it hears of."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from runtime.gateway.safeguards import Safeguards
from runtime.gateway.server import serving
from runtime.telemetry.facts import PlacedStage, ServiceFacts, StageFacts
from runtime.telemetry.telemetry import Telemetry
from runtime.telemetry.tracing.export import Send, SendFailed, TraceExport
from runtime.telemetry.tracing.record import RequestTrace
from runtime.telemetry.tracing.spans import SpanFacts
from tests.runtime.gateway.scripted import MODEL, PATIENCE_S, Client, ScriptedBackend, gateway


@dataclass
class Heard:
    """What was sent, as a sender and as what it sent to."""

    spans: list[SpanFacts] = field(default_factory=list)
    is_down: bool = False
    came: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, spans: Sequence[SpanFacts]) -> None:
        if self.is_down:
            raise SendFailed("nobody listens")
        self.spans += spans
        self.came.set()

    def named(self, name: str) -> SpanFacts:
        [found] = [span for span in self.spans if span.name == name]
        return found


class Signalling(TraceExport):
    """Says when a request is over: its client may know that earlier than its trace does."""

    def __init__(self, send: Send, **options: Any) -> None:
        super().__init__(send, **options)
        self.taken = asyncio.Event()

    def take(self, trace: RequestTrace) -> None:
        super().take(trace)
        self.taken.set()


@dataclass
class Watched:
    """A gateway whose requests are traced."""

    client: Client
    telemetry: Telemetry
    export: Signalling
    heard: Heard

    async def spans_of_broken(self) -> list[SpanFacts]:
        """Those of a request whose connection is cut."""
        async with asyncio.timeout(PATIENCE_S):
            await self.export.taken.wait()
        return await self.spans()

    async def spans(self) -> list[SpanFacts]:
        """Those of all requests so far."""
        await self.export.flush(5)
        return self.heard.spans

    def count(self, outcome: str) -> float | None:
        labels = {"outcome": outcome}
        return self.telemetry.registry.get_sample_value("remuda:traces_total", labels)


@asynccontextmanager
async def traced_gateway(backend: ScriptedBackend, **options: Any) -> AsyncIterator[Watched]:
    telemetry = Telemetry(MODEL.name, clock=time.monotonic, wall_clock=time.time)
    heard = Heard()
    export = Signalling(
        heard.send,
        rng=random.Random(3),
        clock=time.monotonic,
        wall_clock=time.time,
        registry=telemetry.registry,
        model=MODEL.name,
        told=telemetry.events.all,
        **options,
    )
    telemetry.tracer = export
    async with gateway(backend, safeguards=Safeguards(telemetry=telemetry)) as client:
        yield Watched(client, telemetry, export, heard)


def facts(num_steps: int, busy_s: float) -> ServiceFacts:
    """Of one stage that has done so much."""
    stage = StageFacts(
        pipeline="0",
        stage=0,
        num_steps=num_steps,
        num_stale_steps=0,
        num_queued=0,
        busy_s=busy_s,
        idle_s=0.0,
        resident_s=0.0,
        sent_bytes=0,
    )
    placed = PlacedStage(
        pipeline="0",
        stage=0,
        node="barn",
        device="cpu",
        kv_blocks=1,
        weight_bytes=1,
        resident_bytes=1,
        is_ready=True,
    )
    return ServiceFacts(stages=(stage,), placed=(placed,))


@dataclass
class Collector:
    """What came over HTTP."""

    url: str = ""
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)
    status: int = 200

    async def take(self, request: web.Request) -> web.Response:
        """`POST /v1/traces`."""
        message = ExportTraceServiceRequest()
        message.ParseFromString(await request.read())
        self.requests.append(message)
        return web.Response(status=self.status)

    def spans(self) -> list[Span]:
        resources = [found for request in self.requests for found in request.resource_spans]
        return [s for resource in resources for scope in resource.scope_spans for s in scope.spans]


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.add_routes([web.post("/v1/traces", collector.take)])
    async with serving(app, "127.0.0.1", 0) as port:
        collector.url = f"http://127.0.0.1:{port}"
        yield collector


def attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    """OTLP's list of typed values as a plain dictionary."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
