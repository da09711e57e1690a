"""A trace from a service of real processes: every stage of it, and the loss that was outlived."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.cluster.striking import STRUCK, kill, strike_in_mid_stream
from tests.runtime.telemetry.tracing.collector import attributes
from tests.support.services import service

PATIENCE_S = 60.0


class Collector(HTTPServer):
    """Keeps the spans that it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Any] = []
        self.came = threading.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def wait_trace(self) -> dict[str, Any]:
        """The spans of one trace by name, when all of it has come."""
        with self.came:
            assert self.came.wait_for(lambda: self.spans, PATIENCE_S), "no span came"
            [trace_id] = {span.trace_id for span in self.spans}
            assert len(trace_id) == 16
            return {span.name: span for span in self.spans}


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        message = ExportTraceServiceRequest()
        message.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.came:
            for resource in message.resource_spans:
                for scope in resource.scope_spans:
                    self.server.spans += scope.spans
            self.server.came.notify_all()
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Not on the test's output."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


@pytest.mark.timeout(300)
def test_the_trace_of_a_stream_shows_every_stage_and_the_loss_that_it_outlived(
    collector: Collector,
) -> None:
    arguments = ("--model", "demo", "--stages", "2", "--otlp-endpoint", collector.url)
    with service(*arguments) as (client, _):
        client.wait_until(lambda: client.get("/ready")[0] == 200)
        pid = client.stages()[-1]["pid"]
        struck = strike_in_mid_stream(client, lambda: kill(pid), silence_s=120, body=STRUCK)
        assert struck.is_whole
        spans = collector.wait_trace()
    assert spans.keys() >= {"text_completion demo", "queue", "prefill", "decode", "stage 0"}
    root = spans["text_completion demo"]
    assert "recovered" in [event.name for event in root.events]
    found = attributes(root.attributes)
    assert found["gen_ai.usage.output_tokens"] == STRUCK["max_tokens"]
    assert found["http.response.status_code"] == 200
    stages = [attributes(span.attributes) for name, span in spans.items() if "stage" in name]
    assert {stage["remuda.stage"] for stage in stages} == {0, 1}
    assert all(stage["remuda.stage.steps"] > 0 for stage in stages), stages
    assert {span.parent_span_id for span in spans.values()} == {b"", root.span_id}
