"""Who gets in, over HTTP."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from models.token_logprobs import TokenLogprobs
from runtime.gateway.access import Access
from runtime.gateway.backend import GenerationRequest, TokenBatch
from runtime.gateway.keys import KeyRing, Quota
from runtime.gateway.safeguards import Safeguards
from tests.runtime.gateway.guarded import Clock, api_key, bearer, guarded_by, secret
from tests.runtime.gateway.scripted import (
    CHAT,
    COMPLETIONS,
    Client,
    ScriptedBackend,
    ScriptedOperator,
    Step,
    chat,
    completion,
    gateway,
    says,
)
from tests.runtime.gateway.sockets import wait_began

KEYS = (api_key("user"), api_key("boss", "admin"), api_key("prom", "metrics"))


BODIES = {COMPLETIONS: completion(), CHAT: chat(), "/tokenize": {"prompt": "Once"}}


@pytest.fixture
async def guarded(backend: ScriptedBackend) -> AsyncIterator[Client]:
    async with gateway(
        backend, safeguards=guarded_by(*KEYS), operator=ScriptedOperator()
    ) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "by"),
    [
        ("POST", COMPLETIONS, "user"),
        ("POST", CHAT, "user"),
        ("GET", "/v1/models", "user"),
        ("POST", "/tokenize", "user"),
        ("GET", "/tokenizer_info", "user"),
        ("GET", "/admin/status", "boss"),
        ("GET", "/admin/events", "boss"),
        ("GET", "/admin/plan", "boss"),
        ("GET", "/admin/requests", "boss"),
    ],
)
async def test_a_path_is_open_to_the_key_that_may_and_to_no_other(
    guarded: Client, method: str, path: str, by: str
) -> None:
    body: dict[str, Any] = {"json": BODIES.get(path)}
    options = body if method == "POST" else {}
    for name in ("user", "boss", "prom"):
        reply = await guarded.send(method, path, headers=bearer(name), **options)
        assert reply.status == (200 if name == by else 403)
        if name != by:
            assert reply.error["code"] == "insufficient_scope"
    reply = await guarded.send(method, path, **options)
    assert reply.status == 401
    assert reply.error["code"] == "missing_api_key"


@pytest.mark.parametrize("name", ["boss", "prom"])
async def test_metrics_are_for_whoever_watches(guarded: Client, name: str) -> None:
    assert "remuda:ready" in await guarded.text("/metrics", headers=bearer(name))
    assert (await guarded.send("GET", "/metrics", headers=bearer("user"))).status == 403


@pytest.mark.parametrize("path", ["/health", "/ready", "/version"])
async def test_how_the_service_stands_is_told_to_all(guarded: Client, path: str) -> None:
    assert (await guarded.get(path)).status == 200


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Basic {secret('user')}",
        secret("user"),
        f"Bearer {secret('user')}x",
        f"Bearer {secret('user')[:-1]}",
        "Bearer " + "x" * 4000,
        "Bearer ключ",
    ],
)
async def test_a_wrong_key_is_refused_before_the_body_is_read(
    guarded: Client, backend: ScriptedBackend, header: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        reply = await guarded.send(
            "POST", COMPLETIONS, data=b"not json", headers={"Authorization": header}
        )
    assert reply.status == 401
    assert reply.error["type"] == "authentication_error"
    assert reply.headers["WWW-Authenticate"] == 'Bearer realm="remuda"'
    assert backend.requests == []
    assert secret("user") not in caplog.text
    assert secret("user") not in str(reply.body)


async def test_an_unknown_path_is_told_to_nobody_without_a_key(guarded: Client) -> None:
    assert (await guarded.get("/secret")).status == 401
    assert (await guarded.send("GET", "/secret", headers=bearer("boss"))).status == 404


async def test_if_all_keys_are_revoked_nobody_gets_in(backend: ScriptedBackend) -> None:
    async with gateway(backend, safeguards=guarded_by()) as client:
        reply = await client.send("POST", COMPLETIONS, json=completion(), headers=bearer("user"))
        assert reply.status == 401


async def test_a_quota_is_told_and_held_and_fills_up_again(backend: ScriptedBackend) -> None:
    clock = Clock()
    key = api_key("user", quota=Quota(requests_per_minute=2, tokens_per_minute=1000))
    backend.script = says("hello")
    async with gateway(backend, safeguards=guarded_by(key, clock=clock)) as client:

        async def ask() -> Any:
            return await client.send("POST", COMPLETIONS, json=completion(), headers=bearer("user"))

        first = await ask()
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        # "Once" in, "hello" out: nine tokens.
        assert first.headers["x-ratelimit-remaining-tokens"] == "991"
        assert (await ask()).status == 200
        third = await ask()
        assert third.status == 429
        assert third.error["code"] == "rate_limit_exceeded"
        assert third.headers["Retry-After"] == "30"
        assert third.headers["x-ratelimit-remaining-requests"] == "0"
        assert third.headers["x-ratelimit-reset-requests"] == "1m0s"
        clock.now += 30
        assert (await ask()).status == 200
    assert len(backend.requests) == 3


async def test_every_choice_is_counted_with_its_prompt_shown_or_not(
    backend: ScriptedBackend,
) -> None:
    def likely(request: GenerationRequest) -> list[Step]:
        place = len(request.token_ids)
        entries = tuple(TokenLogprobs(place + i, 65, -1.0, 1, ()) for i in range(2))
        return [TokenBatch((65, 65), "length", logprobs=entries)]

    backend.script = likely
    key = api_key("user", quota=Quota(tokens_per_minute=1000))
    async with gateway(backend, safeguards=guarded_by(key, api_key("prom", "metrics"))) as client:
        body = completion(n=2, best_of=3)
        reply = await client.send("POST", COMPLETIONS, json=body, headers=bearer("user"))
        told = await client.text("/metrics", headers=bearer("prom"))
    assert len(reply.body["choices"]) == 2
    assert reply.headers["x-ratelimit-remaining-tokens"] == str(1000 - 3 * (4 + 2))
    assert metric(told, "prompt_tokens_total") == 3 * 4
    assert metric(told, "generation_tokens_total") == 3 * 2
    assert metric(told, "request_success_total", 'finished_reason="length"') == 3


def metric(told: str, name: str, *labels: str) -> float:
    (line,) = (
        line
        for line in told.splitlines()
        if line.startswith(f"remuda:{name}{{") and all(label in line for label in labels)
    )
    return float(line.rpartition(" ")[2])


async def test_one_keys_quota_is_not_anothers(backend: ScriptedBackend) -> None:
    quota = Quota(requests_per_minute=1)
    keys = guarded_by(api_key("a", quota=quota), api_key("b", quota=quota))
    async with gateway(backend, safeguards=keys) as client:
        statuses = [
            (await client.send("POST", CHAT, json=chat(), headers=bearer(name))).status
            for name in ("a", "a", "b")
        ]
    assert statuses == [200, 429, 200]


async def test_requests_at_a_time_are_bounded_and_free_again_when_a_client_leaves(
    backend: ScriptedBackend,
) -> None:
    held = asyncio.Event()
    backend.script = lambda _: [held, *says("x")(_)]
    key = api_key("user", quota=Quota(max_concurrent=1))
    async with gateway(backend, safeguards=guarded_by(key)) as client:
        options: dict[str, Any] = {"json": completion(), "headers": bearer("user")}
        async with asyncio.TaskGroup() as group:
            first = group.create_task(client.send("POST", COMPLETIONS, **options))
            stream = await wait_began(backend)
            second = await client.send("POST", COMPLETIONS, **options)
            assert second.status == 429
            assert second.error["code"] == "concurrency_limit_exceeded"
            held.set()
            assert (await first).status == 200
            assert stream.closed.is_set()
        assert (await client.send("POST", COMPLETIONS, **options)).status == 200


async def test_without_keys_the_configured_quota_holds_for_all(backend: ScriptedBackend) -> None:
    access = Access(KeyRing, Clock(), quota=Quota(requests_per_minute=1))
    async with gateway(backend, safeguards=Safeguards(access=access)) as client:
        assert (await client.complete()).status == 200
        assert (await client.complete()).status == 429
        assert (await client.get("/v1/models")).status == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", 601),
        ("timeout", "5"),
        ("timeout", True),
        ("priority", 101),
        ("priority", 0.5),
        ("priority", True),
        ("priority", 10**30),
    ],
)
async def test_terms_out_of_bounds_are_refused_by_name(
    client: Client, field: str, value: Any
) -> None:
    reply = await client.complete(**{field: value})
    assert reply.status == 400
    assert reply.error["param"] == field


@pytest.mark.parametrize(("priority", "status"), [(None, 200), (5, 200), (50, 200), (4, 403)])
async def test_a_key_may_be_less_urgent_than_it_is_and_not_more(
    backend: ScriptedBackend, priority: int | None, status: int
) -> None:
    async with gateway(backend, safeguards=guarded_by(api_key("user", priority=5))) as client:
        reply = await client.send(
            "POST", COMPLETIONS, json=completion(priority=priority), headers=bearer("user")
        )
    assert reply.status == status


async def test_a_page_of_another_origin_is_not_let_in_unless_it_is_listed(
    backend: ScriptedBackend,
) -> None:
    asks = {"Access-Control-Request-Method": "POST"}
    listed, other = {"Origin": "https://a.example"}, {"Origin": "https://b.example"}
    guards = Safeguards(cors_origins=("https://a.example",))
    async with gateway(backend, safeguards=guards) as client:
        allowed = await client.head_of("OPTIONS", COMPLETIONS, headers=asks | listed)
        assert allowed.status == 204
        assert allowed.headers["Access-Control-Allow-Origin"] == "https://a.example"
        refused = await client.head_of("OPTIONS", COMPLETIONS, headers=asks | other)
        assert refused.status == 405
        assert "Access-Control-Allow-Origin" not in refused.headers
        answer = await client.head_of("POST", COMPLETIONS, json=completion(), headers=listed)
        assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"
    async with gateway(backend) as client:
        reply = await client.head_of("OPTIONS", COMPLETIONS, headers=asks | listed)
        assert reply.status == 405
        assert "Access-Control-Allow-Origin" not in reply.headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("[::1]:8000", 200),
        ("remuda.localhost:8000", 200),
        ("rebound.example:8000", 403),
        ("127.0.0.1.example", 403),
        ("x:y", 403),
    ],
)
async def test_without_keys_a_local_operator_is_asked_for_by_this_machines_name(
    host: str, status: int
) -> None:
    access = Access(KeyRing, Clock(), is_local=True)
    async with gateway(ScriptedBackend(), safeguards=Safeguards(access=access)) as client:
        reply = await client.send("GET", "/admin/status", headers={"Host": host})
        assert reply.status == status
        if status != 200:
            assert reply.error["code"] == "wrong_host"
