"""Turns: who waits, for how long, who goes next, and what is counted of it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from runtime.gateway.access import Caller
from runtime.gateway.admission import Admission, Room
from runtime.gateway.admitted import AdmittedStream, entered
from runtime.gateway.backend import GenerationError, GenerationRequest, NotReady, Overloaded
from runtime.gateway.keys import Quota
from runtime.gateway.quotas import Meter
from runtime.gateway.safeguards import Safeguards
from runtime.gateway.terms import Terms
from runtime.telemetry.request_metrics import RequestMetrics
from tests.runtime.gateway.guarded import Clock
from tests.runtime.gateway.scripted import (
    PATIENCE_S,
    ScriptedBackend,
    batch,
    completion,
    gateway,
    says,
)

MODEL = "horse"


@dataclass
class Stable:
    """An admission over a scripted backend with so many places."""

    backend: ScriptedBackend
    room: Room | None
    clock: Clock = field(default_factory=Clock)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        metrics = RequestMetrics(self.registry, MODEL, self.clock)
        self.admission = Admission(self.backend, metrics, lambda: self.room)

    def caller(self, name: str, quota: Quota | None = None) -> Caller:
        return Caller(id=name, meter=Meter(quota or Quota(), 0.0))

    @asynccontextmanager
    async def stream(
        self, request_id: str, caller: str = "a", priority: int = 0, timeout_s: float = PATIENCE_S
    ) -> AsyncIterator[AdmittedStream]:
        terms = Terms(queue_timeout_s=timeout_s, priority=priority)
        async with entered(self.admission, self.caller(caller), terms) as backend:
            stream = backend.submit(request(request_id))
            try:
                yield stream
            finally:
                await stream.aclose()

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"remuda:{name}", {"model_name": MODEL, **labels})


def request(request_id: str) -> GenerationRequest:
    return GenerationRequest(request_id=request_id, token_ids=(1, 2, 3), max_tokens=10)


@pytest.fixture
def stable(backend: ScriptedBackend) -> Stable:
    return Stable(backend, Room(2, 0))


async def until(holds: Callable[[], bool]) -> None:
    """Let others have their turns until something holds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    while not holds():
        assert loop.time() < deadline
        await asyncio.sleep(0)


async def read(stream: AdmittedStream) -> int:
    return sum([len(b.token_ids) async for b in stream])


def order(backend: ScriptedBackend) -> list[str]:
    return [request.request_id for request in backend.requests]


async def test_a_place_that_is_free_is_taken_at_once(stable: Stable) -> None:
    async with stable.stream("1") as stream:
        assert order(stable.backend) == ["1"]
        assert await read(stream) == 5
        assert stable.admission.num_dispatched == 0


async def test_beyond_all_places_a_request_is_refused(stable: Stable) -> None:
    async with stable.stream("1"), stable.stream("2"):
        with pytest.raises(Overloaded, match="2 requests are running or queued"):
            async with stable.stream("3"):
                pass
    assert stable.value("admission_rejections_total", reason="queue_full") == 1
    assert stable.admission.num_dispatched == 0


async def test_turns_go_round_among_callers_and_urgent_ones_first(
    backend: ScriptedBackend,
) -> None:
    room = Room(1, 100)
    stable, places = Stable(backend, room), room.max_dispatched

    async def one(name: str, caller: str, priority: int = 0) -> None:
        async with stable.stream(name, caller, priority) as stream:
            await read(stream)

    async with (
        asyncio.TaskGroup() as group,
        stable.stream("blocker0", "z"),
        stable.stream("blocker1", "z"),
        stable.stream("blocker2", "z"),
    ):
        assert stable.admission.num_dispatched == places
        for number in range(4):
            group.create_task(one(f"flood{number}", "flood"))
        group.create_task(one("quiet", "quiet"))
        group.create_task(one("urgent", "flood", -1))
        await until(lambda: stable.admission.num_waiting == 6)
    served = order(backend)[places:]
    assert served[0] == "urgent"
    assert served[1] == "quiet"
    assert [n for n in served if n.startswith("flood")] == [f"flood{n}" for n in range(4)]
    assert (stable.admission.num_dispatched, stable.admission.num_waiting) == (0, 0)


async def test_who_waits_too_long_is_told_and_leaves_no_trace(backend: ScriptedBackend) -> None:
    stable = Stable(backend, Room(1, 100))
    async with stable.stream("1"), stable.stream("2"), stable.stream("3"):
        with pytest.raises(GenerationError, match=r"within 0\.01 s") as late:
            async with stable.stream("4", timeout_s=0.01) as stream:
                await anext(stream)
        assert late.value.kind == "queue_timeout"
        assert stable.admission.num_waiting == 0
    assert order(backend) == ["1", "2", "3"]
    assert stable.value("admission_rejections_total", reason="queue_timeout") == 1
    assert stable.value("request_success_total", finished_reason="error") == 1
    assert stable.admission.num_dispatched == 0


async def test_who_gives_up_while_waiting_makes_room(backend: ScriptedBackend) -> None:
    stable = Stable(backend, Room(1, 100))
    async with stable.stream("1"), stable.stream("2"), stable.stream("3"):
        async with stable.stream("4"):
            assert stable.admission.num_waiting == 1
        assert stable.admission.num_waiting == 0
    assert order(backend) == ["1", "2", "3"]
    assert stable.value("request_success_total", finished_reason="error") == 0


async def test_a_turn_that_came_and_was_not_taken_goes_on_to_the_next(
    backend: ScriptedBackend,
) -> None:
    stable = Stable(backend, Room(1, 100))
    async with (
        stable.stream("1") as first,
        stable.stream("2"),
        stable.stream("3"),
        stable.stream("4"),
        stable.stream("5") as fifth,
    ):
        await first.aclose()  # the turn of "4", which nobody reads
        assert stable.admission.num_waiting == 1
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            reading = group.create_task(read(fifth))
            await asyncio.sleep(0)
            assert not reading.done()
            stable.room = Room(2, 100)
            stable.admission.pump()
        assert reading.result() == 5
    assert order(backend) == ["1", "2", "3", "5"]
    assert stable.admission.num_dispatched == 0


@pytest.mark.parametrize(
    "refusal", [NotReady("no pipeline"), Overloaded("full", retry_after_s=1.0)]
)
async def test_a_refusal_by_the_backend_after_waiting_frees_the_place(
    backend: ScriptedBackend, refusal: Exception
) -> None:
    stable = Stable(backend, Room(1, 100))
    backend.refusal, backend.max_requests = refusal, 3

    async def fourth_has_its_turn() -> None:
        async with (
            stable.stream("1") as first,
            stable.stream("2"),
            stable.stream("3"),
            stable.stream("4") as waiting,
        ):
            await first.aclose()
            await anext(waiting)

    with pytest.raises(type(refusal)):
        await fourth_has_its_turn()
    assert stable.admission.num_dispatched == 0


async def test_without_pipelines_the_backend_decides(backend: ScriptedBackend) -> None:
    stable = Stable(backend, None)
    backend.refusal = NotReady("no pipeline is ready")
    with pytest.raises(NotReady):
        async with stable.stream("1"):
            pass
    assert stable.value("admission_rejections_total", reason="not_ready") == 1
    assert stable.admission.num_dispatched == 0


async def test_tokens_are_taken_from_the_callers_quota(stable: Stable) -> None:
    caller = stable.caller("a", Quota(tokens_per_minute=100))
    terms = Terms(queue_timeout_s=1, priority=0)
    async with entered(stable.admission, caller, terms) as backend:
        await read(backend.submit(request("1")))
    assert caller.meter.tokens.left(0.0) == 100 - 3 - 5
    assert stable.admission.queue.served("a") == 3 + 2 * 5


async def test_what_clients_waited_for_is_measured(stable: Stable) -> None:
    def script(_: GenerationRequest) -> list[object]:
        return [batch("a"), batch("bc"), batch("", "length")]

    stable.backend.script = script  # type: ignore[assignment]
    async with stable.stream("1") as stream:
        stable.clock.now = 2.0
        await anext(stream)
        stable.clock.now = 3.0
        await anext(stream)
        stable.clock.now = 4.0
        await anext(stream)
    found = {
        name: stable.value(f"{name}_sum")
        for name in (
            "time_to_first_token_seconds",
            "time_per_output_token_seconds",
            "e2e_request_latency_seconds",
            "request_queue_time_seconds",
        )
    }
    assert list(found.values()) == [2.0, 0.5, 4.0, 0.0]
    assert stable.value("prompt_tokens_total") == 3
    assert stable.value("generation_tokens_total") == 3
    assert stable.value("request_success_total", finished_reason="length") == 1


class Gone(Exception):
    """A client that leaves."""


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (None, "stop"),
        (Gone, "abort"),
        (asyncio.CancelledError, "abort"),
        (lambda: GenerationError("lost"), "error"),
    ],
)
async def test_what_ends_without_a_reason_of_its_own_ends_as_its_request_does(
    stable: Stable, raised: Callable[[], BaseException] | None, reason: str
) -> None:
    expected = (Gone, asyncio.CancelledError, GenerationError)

    async def run() -> None:
        async with stable.stream("1"):
            if raised is not None:
                raise raised()

    if raised is None:
        await run()
    else:
        with pytest.raises(expected):
            await run()
    assert stable.value("request_success_total", finished_reason=reason) == 1


async def test_over_http_a_queue_timeout_is_a_504(backend: ScriptedBackend) -> None:
    held = asyncio.Event()
    backend.script = lambda r: [held, *says("x")(r)]
    async with (
        gateway(backend, safeguards=Safeguards(room=lambda: Room(1, 50))) as client,
        asyncio.TaskGroup() as group,
    ):
        running = [group.create_task(client.complete()) for _ in range(3)]
        await until(lambda: len(backend.requests) == 3)
        late = await client.send("POST", "/v1/completions", json=completion(timeout=0.01))
        assert late.status == 504
        assert late.error["code"] == "queue_timeout"
        held.set()
        assert [(await reply).status for reply in running] == [200] * 3


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 5}, "n"),
        ({"n": 1, "best_of": 5}, "best_of"),
        ({"prompt": ["a"] * 5}, "prompt"),
        ({"prompt": ["a"] * 3, "n": 2}, "n"),
    ],
)
async def test_what_no_queue_could_ever_hold_is_no_matter_of_coming_back_later(
    backend: ScriptedBackend, body: dict[str, Any], param: str
) -> None:
    async with gateway(backend, safeguards=Safeguards(room=lambda: Room(3, 1))) as client:
        reply = await client.complete(**body)
        assert (reply.status, reply.error["param"]) == (400, param)
        assert reply.error["code"] == "rejected"
        assert "at most 4 sequences" in reply.error["message"]
        assert not backend.requests
        assert (await client.complete(n=4)).status == 200


async def test_what_a_whole_service_could_hold_may_come_back_when_a_part_is_lost(
    stable: Stable,
) -> None:
    assert stable.admission.max_sequences() == 2
    stable.room = Room(1, 0)
    assert stable.admission.max_sequences() == 2
    stable.room = Room(4, 4)
    assert stable.admission.max_sequences() == 8
    stable.room = None
    assert stable.admission.max_sequences() == 8


async def test_where_nobody_says_how_many_places_there_are_the_backend_decides(
    stable: Stable,
) -> None:
    stable.room = None
    assert stable.admission.max_sequences() is None
