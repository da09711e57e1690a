"""The spans of requests, and what becomes of them where nobody takes them."""

import asyncio

import aiohttp
import pytest

from runtime.gateway.backend import GenerationError, Overloaded, TokenBatch
from runtime.telemetry.facts import ServiceFacts
from runtime.telemetry.tracing.export import exporting
from runtime.telemetry.tracing.spans import MAX_EVENTS, SpanFacts
from tests.runtime.gateway.scripted import PATIENCE_S, ScriptedBackend, batch, chat, says
from tests.runtime.telemetry.tracing.collector import Watched, facts, traced_gateway
from tests.runtime.telemetry.tracing.test_context import SPAN, TRACE

SAMPLED = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "horse=grey"}
NOT_SAMPLED = {"traceparent": f"00-{TRACE}-{SPAN}-00"}
CHAT = "/v1/chat/completions"


async def ask(watched: Watched, headers: dict[str, str], **body: object) -> int:
    reply = await watched.client.send("POST", CHAT, json=chat(**body), headers=headers)
    return reply.status


def names(spans: list[SpanFacts]) -> list[str]:
    return [span.name for span in spans]


async def test_a_request_is_a_span_with_its_queue_its_prompt_and_its_answer_below(
    backend: ScriptedBackend,
) -> None:
    async with traced_gateway(backend) as watched:
        assert await ask(watched, {}, max_tokens=9, temperature=0.5, seed=4) == 200
        root, *below = await watched.spans()
    assert (root.name, root.kind, root.parent_id, root.error) == ("chat horse", "server", None, "")
    assert (
        root.attributes
        | {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "remuda",
            "gen_ai.request.model": "horse",
            "gen_ai.request.max_tokens": 9,
            "gen_ai.request.temperature": 0.5,
            "gen_ai.request.seed": 4,
            "gen_ai.usage.input_tokens": 8,
            "gen_ai.usage.output_tokens": 5,
            "gen_ai.response.finish_reasons": ["stop"],
            "http.route": CHAT,
            "http.response.status_code": 200,
        }
        == root.attributes
    )
    assert root.attributes["gen_ai.response.id"].startswith("chatcmpl-")
    assert names(below) == ["queue", "prefill", "decode"]
    assert {(s.trace_id, s.parent_id) for s in below} == {(root.trace_id, root.span_id)}
    times = [root.began, *(s.began for s in below), below[-1].ended, root.ended]
    assert times == sorted(times)
    assert below[0].ended == below[1].began
    assert below[1].ended == below[2].began


async def test_no_text_of_anybody_is_told(backend: ScriptedBackend) -> None:
    backend.script = says("grass")
    async with traced_gateway(backend) as watched:
        messages = [{"role": "user", "content": "secret"}]
        assert await ask(watched, {}, messages=messages, stop="hay", user="somebody") == 200
        told = repr(await watched.spans())
    assert not [word for word in ("secret", "grass", "hay", "somebody") if word in told]


async def test_a_callers_trace_goes_on(backend: ScriptedBackend) -> None:
    async with traced_gateway(backend, ratio=0.0) as watched:
        await ask(watched, SAMPLED)
        root, *below = await watched.spans()
    assert (root.trace_id, root.parent_id) == (int(TRACE, 16), int(SPAN, 16))
    assert root.parent_is_remote
    assert {s.state for s in (root, *below)} == {"horse=grey"}


async def test_what_a_caller_does_not_keep_is_not_kept(backend: ScriptedBackend) -> None:
    async with traced_gateway(backend) as watched:
        await ask(watched, NOT_SAMPLED)
        assert await watched.spans() == []


async def test_of_the_traces_that_begin_here_a_share_is_kept(backend: ScriptedBackend) -> None:
    async with traced_gateway(backend, ratio=0.5) as watched:
        for _ in range(40):
            await ask(watched, {})
        kept = names(await watched.spans()).count("chat horse")
    assert 10 < kept < 30


async def test_every_choice_has_spans_up_to_a_number(backend: ScriptedBackend) -> None:
    async with traced_gateway(backend) as watched:
        await ask(watched, {}, n=10)
        root, *below = await watched.spans()
    assert root.attributes["remuda.sequences"] == 10
    assert root.attributes["gen_ai.usage.output_tokens"] == 50
    assert names(below).count("decode") == 8


async def test_a_loss_that_was_outlived_is_an_event(backend: ScriptedBackend) -> None:
    note = TokenBatch((), None, "recovered stage=1 gap_ms=840")
    backend.script = lambda _: [batch("a"), note, batch("b", "stop")]
    async with traced_gateway(backend) as watched:
        await ask(watched, {})
        root = (await watched.spans())[0]
    [event] = root.events
    assert (event.name, event.attributes) == ("recovered", {"stage": "1", "gap_ms": "840"})
    assert root.began <= event.at <= root.ended


async def test_what_happened_to_the_service_meanwhile_is_an_event(
    backend: ScriptedBackend,
) -> None:
    going = asyncio.Event()
    backend.script = lambda _: [batch("a"), going, batch("b", "stop")]
    async with traced_gateway(backend) as watched, asyncio.TaskGroup() as group:
        watched.telemetry.happened("stages_changed", cause="old")
        asked = group.create_task(ask(watched, {}))
        async with asyncio.timeout(PATIENCE_S):
            await backend.submitted.wait()
        watched.telemetry.happened("stages_changed", cause="swap", phases=["pause"])
        watched.telemetry.happened("drain_ordered", node="a")
        going.set()
        await asked
        watched.telemetry.happened("stages_changed", cause="later")
        root = (await watched.spans())[0]
    assert [(e.name, e.attributes) for e in root.events] == [
        ("stages_changed", {"remuda.cause": "swap", "remuda.phases": "['pause']"})
    ]


async def test_events_of_one_span_are_bounded(backend: ScriptedBackend) -> None:
    notes = [TokenBatch((), None, f"moved n={n}") for n in range(100)]
    backend.script = lambda _: [*notes, batch("b", "stop")]
    async with traced_gateway(backend) as watched:
        await ask(watched, {}, n=4)
        root = (await watched.spans())[0]
    assert len(root.events) == MAX_EVENTS


@pytest.mark.parametrize(
    ("body", "status", "error"), [({"temperature": 9}, 400, "400"), ({"model": "x"}, 404, None)]
)
async def test_what_is_refused_is_an_error_without_anything_below(
    backend: ScriptedBackend, body: dict[str, object], status: int, error: str | None
) -> None:
    async with traced_gateway(backend) as watched:
        assert await ask(watched, {}, **body) == status
        [root] = await watched.spans()
    assert root.attributes["http.response.status_code"] == status
    assert root.error == root.attributes["error.type"] == (error or "model_not_found")


async def test_a_stream_that_breaks_is_an_error_with_what_it_had(
    backend: ScriptedBackend,
) -> None:
    lost = GenerationError("stage 1 was lost", kind="stage_lost")
    backend.script = lambda _: [batch("half"), lost]
    async with traced_gateway(backend) as watched:
        with pytest.raises(aiohttp.ClientPayloadError):
            await watched.client.events(CHAT, chat())
        root, *below = await watched.spans_of_broken()
    assert root.error == "stage_lost"
    assert root.attributes["gen_ai.response.finish_reasons"] == ["error"]
    assert names(below) == ["queue", "prefill", "decode"]


async def test_what_found_no_place_is_an_error(backend: ScriptedBackend) -> None:
    backend.refusal = Overloaded("full", retry_after_s=1)
    async with traced_gateway(backend) as watched:
        assert await ask(watched, {}) == 429
        [root] = await watched.spans()
    assert root.error == "queue_full"


async def test_stages_have_spans_with_what_they_did_meanwhile(backend: ScriptedBackend) -> None:
    done = iter([(10, 1.0), (14, 1.5), (14, 1.5)])
    last = (14, 1.5)

    async def now() -> ServiceFacts:
        return facts(*next(done, last))

    async with (
        traced_gateway(backend, facts=now, interval_s=0.001) as watched,
        exporting(watched.export),
    ):
        await ask(watched, {})
        async with asyncio.timeout(PATIENCE_S):
            await watched.heard.came.wait()
    stage = watched.heard.named("stage 0")
    assert stage.attributes["remuda.stage.steps"] == 4
    assert stage.attributes["remuda.stage.busy_s"] == 0.5
    assert stage.attributes["remuda.node"] == "barn"
    assert stage.parent_id == watched.heard.named("chat horse").span_id


async def test_where_nobody_takes_traces_requests_go_on_and_the_loss_is_counted(
    backend: ScriptedBackend, caplog: pytest.LogCaptureFixture
) -> None:
    async with traced_gateway(backend) as watched:
        watched.heard.is_down = True
        for _ in range(3):
            assert await ask(watched, {}) == 200
            await watched.spans()
        watched.heard.is_down = False
        assert await ask(watched, {}) == 200
        assert "chat horse" in names(await watched.spans())
        assert (watched.count("send_failed"), watched.count("sent")) == (3, 1)
    told = [r for r in caplog.records if r.getMessage().startswith("traces dropped")]
    assert len(told) == 1  # and not one for each


async def test_what_waits_to_be_sent_is_bounded(backend: ScriptedBackend) -> None:
    async with traced_gateway(backend, max_queued=2) as watched:
        for _ in range(5):
            assert await ask(watched, {}) == 200
        await watched.spans()
        assert (watched.count("queue_full"), watched.count("sent")) == (3, 2)


async def test_what_waits_at_the_end_is_still_sent(backend: ScriptedBackend) -> None:
    async with traced_gateway(backend) as watched:
        async with exporting(watched.export):
            await ask(watched, {})
        assert "chat horse" in names(watched.heard.spans)


async def test_what_ends_the_block_is_seen_as_it_is(backend: ScriptedBackend) -> None:
    async with traced_gateway(backend) as watched:
        with pytest.raises(ZeroDivisionError):
            async with exporting(watched.export):
                raise ZeroDivisionError


async def test_without_a_tracer_nothing_is_noted(backend: ScriptedBackend) -> None:
    async with traced_gateway(backend) as watched:
        assert (await watched.client.get("/v1/models")).status == 200
        assert await watched.spans() == []
