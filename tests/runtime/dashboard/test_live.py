"""The stream that the page is drawn from: whole at first, then what changed, always bounded."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from runtime.dashboard import feed as feeding
from runtime.dashboard import live
from runtime.gateway.app import Limits
from runtime.gateway.delivery import Times
from runtime.gateway.operator import Unavailable
from runtime.gateway.safeguards import Safeguards
from runtime.telemetry.facts import PipelineFacts, ServiceFacts
from runtime.telemetry.telemetry import Telemetry
from tests.runtime.gateway.scripted import (
    PATIENCE_S,
    Client,
    ScriptedBackend,
    ScriptedOperator,
    gateway,
)

FACTS = ServiceFacts(
    pipelines=(
        PipelineFacts(
            pipeline="0",
            num_running=2,
            num_waiting=1,
            num_blocks=8,
            num_free_blocks=6,
            num_steps=5,
            num_preemptions=0,
        ),
    )
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MIN_PERIOD_S", 0.02)
    monkeypatch.setattr(live, "MAX_PERIOD_S", 0.04)
    monkeypatch.setattr(feeding, "FACTS_PERIOD_S", 0.02)
    monkeypatch.setattr(feeding, "PLANNER_PERIOD_S", 0.02)


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry("horse", clock=time.monotonic, wall_clock=time.time)


class Known:
    """A source of facts that answers when it is let."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()

    async def facts(self) -> ServiceFacts:
        async with asyncio.timeout(PATIENCE_S):
            await self.may_answer.wait()
        return FACTS


async def messages(client: Client, query: str = "") -> AsyncGenerator[dict[str, Any], None]:
    async with (
        asyncio.timeout(PATIENCE_S),
        aiohttp.ClientSession() as session,
        session.get(f"{client.url}/admin/live{query}") as answer,
    ):
        assert answer.status == 200
        assert answer.content_type == "text/event-stream"
        async for line in answer.content:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])


async def first(client: Client, query: str = "") -> dict[str, Any]:
    found = messages(client, query)
    try:
        return await anext(found)
    finally:
        await found.aclose()


async def test_the_first_message_is_whole_and_later_ones_tell_what_changed(
    backend: ScriptedBackend, telemetry: Telemetry
) -> None:
    async with gateway(backend, safeguards=Safeguards(telemetry=telemetry)) as client:
        found = messages(client)
        whole = await anext(found)
        assert {"life", "plan", "planner", "requests", "can"} <= whole.keys()
        later = await anext(found)
        assert not {"life", "plan", "requests", "can"} & later.keys()
        backend.served = {"epoch": 8}
        changed = await until(found, lambda message: "plan" in message)
        assert changed["plan"] == {"epoch": 8, "reason": None}
        await found.aclose()


async def test_all_that_happens_between_two_messages_is_in_one(
    backend: ScriptedBackend, telemetry: Telemetry
) -> None:
    async with gateway(backend, safeguards=Safeguards(telemetry=telemetry)) as client:
        found = messages(client)
        await anext(found)
        for number in range(100):
            telemetry.happened("tick", n=number)
        message = await until(found, lambda message: bool(message["events"]))
        assert [event["facts"]["n"] for event in message["events"]] == list(range(100))
        await found.aclose()


async def test_a_loss_is_told_while_those_who_would_answer_do_not(
    backend: ScriptedBackend, telemetry: Telemetry
) -> None:
    known = Known()
    telemetry.watch(known)
    async with gateway(backend, safeguards=Safeguards(telemetry=telemetry)) as client:
        found = messages(client)
        assert (await anext(found))["load"] is None
        telemetry.happened("node_left", node="a")
        message = await until(found, lambda message: bool(message["events"]))
        assert message["load"] is None
        known.may_answer.set()
        message = await until(found, lambda message: message["load"] is not None)
        assert message["load"]["pipelines"][0]["num_running"] == 2
        await found.aclose()


async def test_who_comes_back_goes_on_unless_the_gateway_is_another(
    backend: ScriptedBackend, telemetry: Telemetry
) -> None:
    telemetry.happened("old")
    telemetry.happened("new")
    async with gateway(backend, safeguards=Safeguards(telemetry=telemetry)) as client:
        life = (await first(client))["life"]
        same = await first(client, f"?after=1&life={life}")
        assert [event["kind"] for event in same["events"]] == ["new"]
        other = await first(client, "?after=1&life=before")
        assert [event["kind"] for event in other["events"]] == ["old", "new"]
        assert (await client.get("/admin/live?after=x")).error["param"] == "after"


async def test_of_many_events_the_last_are_told_and_how_many_are_left_out(
    backend: ScriptedBackend, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding, "MAX_EVENTS", 3)
    for number in range(10):
        telemetry.happened("tick", n=number)
    async with gateway(backend, safeguards=Safeguards(telemetry=telemetry)) as client:
        message = await first(client)
    assert [event["id"] for event in message["events"]] == [8, 9, 10]
    assert message["missed"] == 7


async def test_a_planner_that_cannot_be_asked_keeps_what_it_said_last(
    backend: ScriptedBackend,
) -> None:
    operator = ScriptedOperator(plan={"planner": {"state": "fine"}})
    async with gateway(backend, operator=operator) as client:
        found = messages(client)
        told = await until(found, lambda message: (message.get("planner") or {}).get("planner"))
        assert told["planner"] == {"planner": {"state": "fine"}, "reason": ""}
        operator.refusal = Unavailable("the coordinator does not answer")
        told = await until(found, lambda message: "planner" in message)
        assert told["planner"] == {
            "planner": {"state": "fine"},
            "reason": "the coordinator does not answer",
        }
        await found.aclose()


async def test_tokens_are_counted_for_the_page(
    backend: ScriptedBackend, telemetry: Telemetry
) -> None:
    async with gateway(backend, safeguards=Safeguards(telemetry=telemetry)) as client:
        await client.complete()
        totals = (await first(client))["totals"]
    assert totals["generated_tokens"] == 5
    assert totals["prompt_tokens"] == 4
    assert totals["ended"] == {"stop": 1, "length": 0, "abort": 0, "error": 0}
    assert totals["num_first_tokens"] == 1


async def test_watchers_are_bounded_and_another_asks_on_when_one_leaves(
    backend: ScriptedBackend, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Known()
    telemetry.watch(known)
    monkeypatch.setattr(live, "MAX_WATCHERS", 2)
    async with gateway(backend, safeguards=Safeguards(telemetry=telemetry)) as client:
        one, two = messages(client), messages(client)
        await anext(one)
        await anext(two)
        assert (await client.get("/admin/live")).error["code"] == "too_many_watchers"
        await one.aclose()  # the one that asked for both
        known.may_answer.set()
        await until(two, lambda message: message["load"] is not None)
        await two.aclose()


async def test_a_reader_that_takes_nothing_is_dropped(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MAX_WATCHERS", 1)
    backend = ScriptedBackend(served={"epoch": 7, "much": "x" * (16 << 20)})
    limits = Limits(times=Times(write_timeout_s=0.1))
    async with (
        gateway(backend, safeguards=Safeguards(telemetry=telemetry), limits=limits) as client,
        asyncio.timeout(PATIENCE_S),
    ):
        _, writer = await asyncio.open_connection("127.0.0.1", client.port, limit=1)
        writer.write(b"GET /admin/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await writer.drain()
        await answered_with(client, 429)  # it has the one place
        backend.served = {"epoch": 7}
        await answered_with(client, 200)  # it has lost it
        writer.close()


async def answered_with(client: Client, status: int) -> None:
    """Ask until the answer is this one; the caller has a deadline."""
    while True:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{client.url}/admin/live") as answer,
        ):
            if answer.status == status:
                return


async def until(
    found: AsyncIterator[dict[str, Any]], is_it: Callable[[dict[str, Any]], object]
) -> dict[str, Any]:
    async for message in found:
        if is_it(message):
            return message
    raise AssertionError("the stream ended")
