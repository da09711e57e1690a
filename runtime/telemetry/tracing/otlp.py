"""Spans to a collector, by OTLP over HTTP: the one place that knows OpenTelemetry's packages.

They are an extra, and are imported when traces are asked for. The exporter blocks, so that it has a
thread of its own, one batch at a time.
"""

import asyncio
import importlib.util
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from runtime.errors import ConfigError
from runtime.telemetry.tracing.export import SendFailed
from runtime.telemetry.tracing.spans import SpanFacts

TIMEOUT_S = 5.0
PATH = "/v1/traces"
_NEEDED = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter")
_QUIET = "opentelemetry.exporter.otlp.proto.http"


def check_packages() -> None:
    """Refuse to trace without the packages it takes.

    Raises:
        ConfigError: one of them is not installed.
    """
    for name in _NEEDED:
        if not _is_there(name):
            raise ConfigError(
                f"telemetry.otlp_endpoint: expected the package {name}, but it is not installed; "
                f"install the extra with `pip install 'remuda[otel]'`, or leave --otlp-endpoint out"
            )


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def url_of(endpoint: str) -> str:
    """Where spans are sent: a collector's address is enough."""
    return endpoint if endpoint.endswith(PATH) else endpoint.rstrip("/") + PATH


class OtlpSender:
    """Sends spans to one collector; `close` gives its thread up."""

    def __init__(self, endpoint: str, *, version: str) -> None:
        check_packages()
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        logging.getLogger(_QUIET).setLevel(logging.CRITICAL)  # what fails is told by who sends
        self._exporter = OTLPSpanExporter(endpoint=url_of(endpoint), timeout=TIMEOUT_S)
        self._resource = Resource.create({"service.name": "remuda", "service.version": version})
        self._scope = InstrumentationScope("remuda", version)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="traces")
        self._url = url_of(endpoint)

    async def send(self, spans: Sequence[SpanFacts]) -> None:
        """Send spans; raises `SendFailed`."""
        from opentelemetry.sdk.trace.export import SpanExportResult

        made = [self._span(span) for span in spans]
        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(self._thread, self._exporter.export, made)
        if result is not SpanExportResult.SUCCESS:
            raise SendFailed(f"{self._url} did not take {len(spans)} spans within {TIMEOUT_S:g} s")

    def close(self) -> None:
        """Send no more; what is on its way is not waited for."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _span(self, span: SpanFacts) -> Any:
        from opentelemetry.sdk.trace import Event, ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
        from opentelemetry.trace.span import TraceState
        from opentelemetry.trace.status import Status, StatusCode

        def context(span_id: int, *, is_remote: bool) -> SpanContext:
            return SpanContext(
                span.trace_id,
                span_id,
                is_remote=is_remote,
                trace_flags=TraceFlags(TraceFlags.SAMPLED),
                trace_state=TraceState.from_header([span.state]) if span.state else TraceState(),
            )

        parent = span.parent_id
        return ReadableSpan(
            name=span.name,
            context=context(span.span_id, is_remote=False),
            parent=context(parent, is_remote=span.parent_is_remote) if parent else None,
            resource=self._resource,
            attributes=span.attributes,
            events=[Event(e.name, e.attributes, _ns(e.at)) for e in span.events],
            kind=SpanKind.SERVER if span.kind == "server" else SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
            start_time=_ns(span.began),
            end_time=_ns(span.ended),
            instrumentation_scope=self._scope,
        )


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
