"""What a gateway says when no more can be taken, or nothing can be served."""

import pytest

from runtime.gateway.backend import NotReady, Overloaded
from tests.runtime.gateway.scripted import Client, ScriptedBackend


@pytest.mark.parametrize("stream", [True, False])
async def test_a_full_queue_is_429_and_says_when_to_come_back(
    client: Client, backend: ScriptedBackend, stream: bool
) -> None:
    backend.refusal = Overloaded("3 requests are queued", retry_after_s=1.2)
    reply = await client.chat(stream=stream)
    assert (reply.status, reply.headers["Retry-After"]) == (429, "2")
    assert (reply.error["type"], reply.error["code"]) == ("rate_limit_error", "queue_full")


async def test_choices_that_were_taken_are_freed_when_a_later_one_is_refused(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.refusal = Overloaded("full", retry_after_s=1)
    backend.max_requests = 2
    assert (await client.complete(prompt=["a", "b", "c"])).status == 429
    assert [stream.closed.is_set() for stream in backend.streams] == [True, True]


async def test_a_service_that_is_not_ready_says_what_is_missing(
    client: Client, backend: ScriptedBackend
) -> None:
    assert (await client.get("/health")).status == 200
    backend.missing = "stage 1 of pipeline 0 is loading"
    backend.refusal = NotReady(backend.missing)
    health = await client.get("/health")
    assert (health.status, health.body["reason"]) == (503, backend.missing)
    reply = await client.chat()
    assert (reply.status, reply.error["message"]) == (503, backend.missing)
    assert int(reply.headers["Retry-After"]) > 0
