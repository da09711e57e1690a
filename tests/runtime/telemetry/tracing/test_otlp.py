"""Spans over OTLP, as a collector gets them."""

import importlib.util
from dataclasses import replace

import pytest

from runtime.config_file import check
from runtime.errors import ConfigError
from runtime.gateway.listening import check_exposure
from runtime.telemetry.tracing.export import SendFailed
from runtime.telemetry.tracing.otlp import OtlpSender, check_packages, url_of
from runtime.telemetry.tracing.spans import SpanEvent, SpanFacts
from tests.runtime.telemetry.tracing.collector import attributes, collecting

SPAN = SpanFacts(
    name="chat horse",
    trace_id=0xABC,
    span_id=0x12,
    parent_id=0x34,
    parent_is_remote=True,
    state="a=b",
    kind="server",
    began=100.0,
    ended=101.5,
    attributes={"gen_ai.request.model": "horse", "remuda.sequences": 1},
    events=(SpanEvent("recovered", 100.5, {"stage": "1"}),),
)


async def test_a_span_arrives_as_it_was() -> None:
    async with collecting() as collector:
        sender = OtlpSender(collector.url, version="1.2.3")
        await sender.send([SPAN, replace(SPAN, parent_id=None, state="", error="stage_lost")])
        sender.close()
    first, second = collector.spans()
    assert (first.trace_id[-2:], first.span_id[-1:]) == (b"\x0a\xbc", b"\x12")
    assert (first.parent_span_id[-1:], first.trace_state) == (b"\x34", "a=b")
    assert (first.start_time_unix_nano, first.end_time_unix_nano) == (100 * 10**9, 1015 * 10**8)
    assert attributes(first.attributes) == SPAN.attributes
    assert [(e.name, attributes(e.attributes)) for e in first.events] == [
        ("recovered", {"stage": "1"})
    ]
    assert first.kind == first.SPAN_KIND_SERVER
    assert (second.parent_span_id, second.status.message) == (b"", "stage_lost")
    resource = attributes(collector.requests[0].resource_spans[0].resource.attributes)
    assert (resource["service.name"], resource["service.version"]) == ("remuda", "1.2.3")


async def test_a_collector_that_refuses_is_a_failure_to_send() -> None:
    async with collecting() as collector:
        collector.status = 400
        sender = OtlpSender(collector.url, version="1")
        with pytest.raises(SendFailed, match="did not take 1 spans"):
            await sender.send([SPAN])
        sender.close()


@pytest.mark.parametrize("given", ["http://h:4318", "http://h:4318/", "http://h:4318/v1/traces"])
def test_the_address_of_a_collector_is_enough(given: str) -> None:
    assert url_of(given) == "http://h:4318/v1/traces"


def test_without_its_packages_it_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nothing(name: str) -> None:
        raise ModuleNotFoundError(name)

    check_packages()
    monkeypatch.setattr(importlib.util, "find_spec", nothing)
    config = check({"telemetry": {"otlp_endpoint": "http://127.0.0.1:4318"}})
    with pytest.raises(ConfigError, match=r"remuda\[otel\]"):
        check_exposure(config, {})
    check_exposure(check({}), {})


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4318", "ftp://h", "http://", "http://h x"])
def test_what_is_no_address_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="otlp_endpoint"):
        check({"telemetry": {"otlp_endpoint": endpoint}})
