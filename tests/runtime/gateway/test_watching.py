"""Metrics and events over HTTP."""

import asyncio
import time
from typing import Any

import aiohttp
import pytest

from runtime.gateway import watching
from runtime.gateway.safeguards import Safeguards
from runtime.telemetry.telemetry import Telemetry
from tests.runtime.gateway.scripted import (
    NOW,
    PATIENCE_S,
    Client,
    ScriptedBackend,
    ScriptedOperator,
    gateway,
)

SSE = {"Accept": "text/event-stream"}


def watched(max_events: int = 16) -> tuple[Telemetry, Safeguards]:
    telemetry = Telemetry(
        "horse", clock=time.monotonic, wall_clock=lambda: NOW, max_events=max_events
    )
    return telemetry, Safeguards(telemetry=telemetry)


async def read_until(answer: aiohttp.ClientResponse, mark: bytes) -> bytes:
    async with asyncio.timeout(PATIENCE_S):
        found = b""
        while mark not in found:
            found += await answer.content.readany()
    return found


async def test_a_request_is_counted(client: Client) -> None:
    await client.complete()
    text = await client.text("/metrics")
    assert 'remuda:request_success_total{finished_reason="stop",model_name="horse"} 1.0' in text
    assert 'remuda:prompt_tokens_total{model_name="horse"} 4.0' in text
    assert 'remuda:generation_tokens_total{model_name="horse"} 5.0' in text


async def test_events_are_given_after_a_number_and_up_to_a_limit(
    backend: ScriptedBackend,
) -> None:
    telemetry, guards = watched(max_events=3)
    async with gateway(backend, safeguards=guards) as client:
        for number in range(5):
            telemetry.happened("tick", n=number)
        body = (await client.get("/admin/events?after=1&limit=2")).body
        assert [event["id"] for event in body["events"]] == [3, 4]
        assert (body["missed"], body["last_id"]) == (1, 5)
        assert body["events"][0] == {"id": 3, "at": NOW, "kind": "tick", "facts": {"n": 2}}


@pytest.mark.parametrize("query", ["after=-1", "after=x", "limit=1e3", "after=" + "9" * 40])
async def test_a_number_that_is_none_is_refused(client: Client, query: str) -> None:
    reply = await client.get(f"/admin/events?{query}")
    assert reply.status == 400
    assert reply.error["param"] == query.partition("=")[0]


async def test_a_stream_that_is_taken_up_again_goes_on_and_does_not_begin_anew(
    backend: ScriptedBackend,
) -> None:
    """A browser comes back to the address it asked first, whatever it has read since."""
    telemetry, guards = watched()
    for number in range(4):
        telemetry.happened("tick", n=number)
    async with gateway(backend, safeguards=guards) as client:
        headers = {"Last-Event-ID": "3"}
        reply = await client.send("GET", "/admin/events?after=1", headers=headers)
        assert [event["id"] for event in reply.body["events"]] == [4]


async def test_what_cannot_be_honoured_of_events_is_refused(client: Client) -> None:
    wrong = await client.send("GET", "/admin/events?after=1", headers={"Last-Event-ID": "x"})
    assert (wrong.status, wrong.error["param"]) == (400, "Last-Event-ID")
    bounded = await client.send("GET", "/admin/events?limit=1", headers=SSE)
    assert (bounded.status, bounded.error["param"]) == (400, "limit")


async def test_events_stream_as_they_come_and_go_on_where_a_client_was(
    backend: ScriptedBackend,
) -> None:
    telemetry, guards = watched()
    telemetry.happened("old")
    async with gateway(backend, safeguards=guards) as client, aiohttp.ClientSession() as session:
        url = f"{client.url}/admin/events"
        async with session.get(url, headers=SSE) as answer:
            assert answer.content_type == "text/event-stream"
            await read_until(answer, b"event: old\n")
            telemetry.happened("new", node="a")
            got = await read_until(answer, b'"node":"a"}\n\n')
            assert b"id: 2\nevent: new\n" in got
        telemetry.happened("newer")
        async with session.get(url, headers=SSE | {"Last-Event-ID": "2"}) as answer:
            got = await read_until(answer, b"event: newer")
            assert b"event: old" not in got
            assert b"event: new\n" not in got


async def test_a_quiet_stream_shows_that_it_lives(
    backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "KEEP_ALIVE_S", 0.01)
    async with (
        gateway(backend) as client,
        aiohttp.ClientSession() as session,
        session.get(f"{client.url}/admin/events", headers=SSE) as answer,
    ):
        await read_until(answer, b": still here\n\n")


async def test_streams_of_events_are_bounded_and_free_again(
    backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "MAX_WATCHERS", 1)
    async with gateway(backend) as client, aiohttp.ClientSession() as session:
        url = f"{client.url}/admin/events"
        async with session.get(url, headers=SSE) as answer:
            await read_until(answer, b": waiting")
            refused = await client.send("GET", "/admin/events", headers=SSE)
            assert refused.error["code"] == "too_many_watchers"
        async with asyncio.timeout(PATIENCE_S):
            while True:  # until the gateway has heard that the first is gone
                async with session.get(url, headers=SSE) as again:
                    if again.status == 200:
                        break


@pytest.mark.parametrize(
    ("path", "order", "kinds"),
    [
        ("/admin/drain", {"node": "a"}, ["drain_ordered", "drain_done"]),
        ("/admin/plan", {"stages": 2}, ["change_ordered", "change_done"]),
        ("/admin/plan", {"stages": 2, "dry_run": True}, []),
        ("/admin/flip", {"phases": {"0": "both"}}, ["flip_done"]),
        ("/admin/flip", {"phases": {"0": "both"}, "dry_run": True}, []),
        ("/admin/move", {"request": "r", "pipeline": "1"}, ["move_done"]),
        ("/admin/kill", {"target": "stage:1"}, ["kill_ordered"]),
        (
            "/admin/fault",
            {"kind": "partition", "a": "a", "b": "b", "for_s": 1},
            ["fault_ordered"],
        ),
    ],
)
async def test_orders_are_events(
    backend: ScriptedBackend, path: str, order: dict[str, Any], kinds: list[str]
) -> None:
    async with gateway(backend, operator=ScriptedOperator()) as client:
        assert (await client.send("POST", path, json=order)).status == 200
        events = (await client.get("/admin/events")).body["events"]
    assert [event["kind"] for event in events] == kinds
