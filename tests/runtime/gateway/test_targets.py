"""Latency targets: counted as met or missed, and refused beforehand where that is asked for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from runtime.gateway.access import Access, Caller
from runtime.gateway.admission import Admission, Room
from runtime.gateway.admitted import AdmittedStream, entered
from runtime.gateway.backend import GenerationError, GenerationRequest
from runtime.gateway.errors import ApiError
from runtime.gateway.keys import ApiKey, KeyRing, Quota, sha256_of
from runtime.gateway.punctuality import TooLate
from runtime.gateway.quotas import Meter
from runtime.gateway.safeguards import Safeguards
from runtime.gateway.targets import Targets, read_targets
from runtime.gateway.terms import Terms
from runtime.telemetry.request_metrics import RequestMetrics
from scheduling.latency_forecast import MIN_SAMPLES
from tests.runtime.gateway.guarded import Clock, bearer, secret
from tests.runtime.gateway.scripted import ScriptedBackend, batch, completion, gateway

MODEL = "horse"
TTFT_S, TPOT_S = 2.0, 1.0


class Service:
    """An admission whose every answer takes 2 s to its first token and 1 s a token after it."""

    def __init__(self, room: Room | None = None) -> None:
        self.clock, self.registry = Clock(), CollectorRegistry()
        self.backend = ScriptedBackend(lambda _: [batch("a"), batch("b"), batch("", "length")])
        metrics = RequestMetrics(self.registry, MODEL, self.clock)
        self.admission = Admission(self.backend, metrics, lambda: room)

    @asynccontextmanager
    async def stream(self, targets: Targets | None) -> AsyncIterator[AdmittedStream]:
        caller = Caller(id="a", meter=Meter(Quota(), 0.0))
        terms = Terms(queue_timeout_s=1, priority=0, targets=targets)
        async with entered(self.admission, caller, terms) as backend:
            stream = backend.submit(
                GenerationRequest(request_id="r", token_ids=(1, 2), max_tokens=2)
            )
            try:
                yield stream
            finally:
                await stream.aclose()

    async def serve(self, targets: Targets | None = None) -> None:
        async with self.stream(targets) as stream:
            self.clock.now += TTFT_S
            await anext(stream)
            self.clock.now += TPOT_S
            await anext(stream)
            await anext(stream)

    def kept(self, target: str) -> tuple[float | None, float | None]:
        """How many were met, and missed."""

        def count(met: str) -> float | None:
            labels = {"model_name": MODEL, "target": target, "met": met}
            return self.registry.get_sample_value("remuda:slo_requests_total", labels)

        return count("true"), count("false")


@pytest.mark.parametrize(
    ("targets", "ttft", "tpot", "both"),
    [
        (None, (0, 0), (0, 0), (0, 0)),
        (Targets(), (0, 0), (0, 0), (0, 0)),
        (Targets(ttft=2.0), (1, 0), (0, 0), (1, 0)),
        (Targets(ttft=2.0, tpot=0.9), (1, 0), (0, 1), (0, 1)),
        (Targets(ttft=1.9, tpot=1.0), (0, 1), (1, 0), (0, 1)),
    ],
)
async def test_targets_are_counted_as_met_or_missed(
    targets: Targets | None, ttft: object, tpot: object, both: object
) -> None:
    service = Service()
    await service.serve(targets)
    assert [service.kept(t) for t in ("ttft", "tpot", "all")] == [ttft, tpot, both]


async def test_an_answer_that_fails_has_missed_what_it_did_not_reach() -> None:
    service = Service()
    service.backend.script = lambda _: [batch("a"), GenerationError("lost")]
    async with service.stream(Targets(ttft=1, tpot=1)) as stream:
        await anext(stream)
        with pytest.raises(GenerationError):
            await anext(stream)
    assert [service.kept(t) for t in ("ttft", "tpot", "all")] == [(1, 0), (0, 1), (0, 1)]


async def test_an_answer_that_its_client_left_counts_for_nothing() -> None:
    service = Service()

    async def leave() -> None:
        async with service.stream(Targets(ttft=1)):
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await leave()
    assert service.kept("all") == (0, 0)
    assert service.admission.punctuality.num_unread_tokens == 0


async def test_who_asks_for_that_is_refused_where_it_would_be_late() -> None:
    service = Service()
    strict = Targets(ttft=1.5, refuse=True)
    for _ in range(MIN_SAMPLES):  # so long, nothing is known and nobody is refused
        await service.serve(strict)
    with pytest.raises(TooLate, match=r"ttft of 1\.5 s asked for, 2 s forecast now") as late:
        await service.serve(strict)
    assert late.value.retry_after_s == pytest.approx(0.5)
    with pytest.raises(TooLate, match=r"tpot of 0\.5 s asked for, 1 s forecast"):
        await service.serve(Targets(tpot=0.5, refuse=True))
    await service.serve(Targets(ttft=1.5))
    await service.serve(Targets(ttft=2.5, tpot=1.5, refuse=True))
    rejections = service.registry.get_sample_value(
        "remuda:admission_rejections_total",
        {"model_name": MODEL, "reason": "slo_unattainable"},
    )
    assert rejections == 2


async def test_who_would_have_to_wait_for_a_turn_is_told_how_long() -> None:
    service = Service(Room(1, 100))  # three places
    for _ in range(MIN_SAMPLES):
        await service.serve()
    async with service.stream(None), service.stream(None), service.stream(None):
        async with service.stream(None):  # waits
            for _ in range(MIN_SAMPLES):
                service.clock.now += 10
                service.admission.punctuality.forecast.ended(service.clock.now, others_wait=True)
            with pytest.raises(TooLate, match=r"ttft of 15 s asked for, 2\d s forecast"):
                async with service.stream(Targets(ttft=15, refuse=True)):
                    pass
        async with service.stream(Targets(ttft=15, refuse=True)):
            assert service.admission.num_waiting == 1
    assert service.admission.punctuality.num_unread_tokens == 0


@pytest.mark.parametrize(
    "value",
    [
        "fast", 1, [], {"ttft": 0}, {"ttft": -1}, {"tpot": 4000}, {"ttft": "1"}, {"ttfb": 1},
        {"refuse": 1}, {"ttft": float("nan")},
    ],
)  # fmt: skip
def test_what_is_no_target_is_refused_with_what_would_be(value: Any) -> None:
    with pytest.raises(ApiError, match='slo: expected an object of "ttft" and "tpot"'):
        read_targets(value)


async def test_over_http_a_target_that_cannot_be_met_is_a_429_that_names_it() -> None:
    backend = ScriptedBackend(lambda _: [batch("a"), batch("", "length")])
    body = completion(slo={"ttft": 1e-9, "refuse": True})
    async with gateway(backend, safeguards=Safeguards()) as client:
        for _ in range(MIN_SAMPLES):
            assert (await client.send("POST", "/v1/completions", json=body)).status == 200
        late = await client.send("POST", "/v1/completions", json=body)
        assert (late.status, late.error["code"]) == (429, "slo_unattainable")
        assert int(late.headers["Retry-After"]) >= 1
        plain = completion(slo={"ttft": 1e-9})
        assert (await client.send("POST", "/v1/completions", json=plain)).status == 200


async def test_a_keys_targets_hold_where_a_request_has_none_of_its_own() -> None:
    key = ApiKey(id="k", sha256=sha256_of(secret("k")), slo=Targets(ttft=1e-9, refuse=True))
    ring = KeyRing([key])
    safeguards = Safeguards(access=Access(lambda: ring, Clock(), needs_key=True))
    backend = ScriptedBackend(lambda _: [batch("a"), batch("", "length")])
    async with gateway(backend, safeguards=safeguards) as client:

        async def status(**parameters: Any) -> int:
            body = completion(**parameters)
            reply = await client.send("POST", "/v1/completions", json=body, headers=bearer("k"))
            return reply.status

        for _ in range(MIN_SAMPLES):
            assert await status() == 200
        assert await status() == 429
        assert await status(slo={"ttft": 60}) == 200
