"""Long prompts are tokenized beside the event loop, and bounded in number and time."""

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from runtime.gateway import tokenizing
from runtime.gateway.app import Limits
from runtime.gateway.errors import ApiError
from runtime.gateway.tokenizing import SHORT_CHARACTERS, Tokenizing
from tests.runtime.gateway.scripted import (
    COMPLETIONS,
    PATIENCE_S,
    AnyGrammar,
    ByteTokenizer,
    Client,
    Reply,
    ScriptedBackend,
    completion,
    gateway,
)

LONG = "x" * (SHORT_CHARACTERS + 1)


class StuckTokenizer(ByteTokenizer):
    """Needs for ever for what is long, until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.let_go = threading.Event()
        self.num_long = 0

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        if len(text) > SHORT_CHARACTERS:
            self.num_long += 1
            self.entered.set()
            assert self.let_go.wait(PATIENCE_S)
            return [1, 2, 3]
        return super().encode(text)

    def encode_chat(self, messages: Sequence[dict[str, Any]], **variables: Any) -> list[int]:
        return self.encode("".join(message["content"] for message in messages))


@asynccontextmanager
async def stuck(
    backend: ScriptedBackend, timeout_s: float = PATIENCE_S
) -> AsyncIterator[tuple[Client, StuckTokenizer]]:
    tokenizer = StuckTokenizer()
    limits = Limits(tokenizing_timeout_s=timeout_s)
    try:
        async with gateway(backend, tokenizer=tokenizer, limits=limits) as client:
            yield client, tokenizer
    finally:
        tokenizer.let_go.set()


async def wait_entered(tokenizer: StuckTokenizer) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.get_running_loop().run_in_executor(None, tokenizer.entered.wait)


async def test_a_long_prompt_keeps_nobody_else_waiting(backend: ScriptedBackend) -> None:
    async with stuck(backend) as (client, tokenizer), asyncio.TaskGroup() as group:
        long = group.create_task(client.complete(prompt=LONG))
        await wait_entered(tokenizer)
        assert (await client.get("/health")).status == 200
        assert (await client.complete(prompt="short")).status == 200
        assert (await client.chat()).status == 200
        assert (await client.events(COMPLETIONS, completion()))[-1] == "[DONE]"
        assert not long.done()
        tokenizer.let_go.set()
        assert (await long).body["usage"]["prompt_tokens"] == 3


@pytest.mark.parametrize("name", ["content", "name"])
async def test_a_long_chat_is_rendered_beside_the_loop_too(
    backend: ScriptedBackend, name: str
) -> None:
    async with stuck(backend) as (client, tokenizer), asyncio.TaskGroup() as group:
        messages = [{"role": "user", "content": LONG}]
        long = group.create_task(client.chat(messages=messages))
        await wait_entered(tokenizer)
        tokenizer.let_go.set()
        assert (await long).status == 200


async def test_a_prompt_that_takes_too_long_is_given_up_and_the_next_one_waits_for_its_turn(
    backend: ScriptedBackend,
) -> None:
    async with stuck(backend, timeout_s=0.05) as (client, tokenizer):
        for _ in range(3):
            reply = await client.complete(prompt=LONG)
            assert (reply.status, reply.error["code"]) == (503, "tokenizing_timeout")
            assert "Retry-After" in reply.headers
        assert tokenizer.num_long == 1  # the thread never got what nobody waits for
        assert (await client.complete(prompt="short")).status == 200
        tokenizer.let_go.set()
    assert len(backend.requests) == 1


class Text(str):
    """A text whose end can be seen."""


async def given_up(beside: Tokenizing) -> "weakref.ref[Text]":
    text = Text(LONG)
    with pytest.raises(ApiError, match="not tokenized"):
        await beside.prompts([text])
    return weakref.ref(text)


async def test_a_prompt_that_was_given_up_is_kept_by_nobody() -> None:
    tokenizer = StuckTokenizer()
    beside = Tokenizing(tokenizer, 0.05)
    async with asyncio.TaskGroup() as group:  # tasks of their own, as requests have
        first = group.create_task(given_up(beside))
        second = group.create_task(given_up(beside))
    in_thread, waited = first.result(), second.result()
    gc.collect()
    assert in_thread() is not None  # a thread cannot be stopped
    assert waited() is None
    tokenizer.let_go.set()
    beside.close()


async def test_the_thread_is_free_again_after_a_prompt_was_given_up(
    backend: ScriptedBackend,
) -> None:
    async with stuck(backend, timeout_s=0.2) as (client, tokenizer):
        assert (await client.complete(prompt=LONG)).status == 503
        tokenizer.let_go.set()
        assert (await client.complete(prompt=LONG)).status == 200


async def test_only_so_many_long_prompts_wait(
    backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizing, "MAX_WAITING", 2)
    async with stuck(backend) as (client, tokenizer), asyncio.TaskGroup() as group:

        async def complete() -> Reply:
            reply = await client.complete(prompt=LONG)
            tokenizer.let_go.set()
            return reply

        tasks = [group.create_task(complete()) for _ in range(3)]
        replies = [await task for task in tasks]
        assert sorted(reply.status for reply in replies) == [200, 200, 429]
        (refused,) = (reply for reply in replies if reply.status == 429)
        assert refused.error["code"] == "queue_full"
        assert "Retry-After" in refused.headers


class StuckGrammars(AnyGrammar):
    """Needs for ever for the first, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def refusal(self, grammar: str) -> str | None:
        assert self.let_go.wait(PATIENCE_S)
        return super().refusal(grammar)


@pytest.mark.parametrize(("bound", "num_refused"), [(tokenizing.MAX_CHECKS, 0), (3, 37)])
async def test_a_crowd_of_structured_answers_is_let_in_up_to_a_bound_of_its_own(
    backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch, bound: int, num_refused: int
) -> None:
    monkeypatch.setattr(tokenizing, "MAX_CHECKS", bound)
    grammars, num_answered = StuckGrammars(), 0
    async with gateway(backend, grammars=grammars) as client, asyncio.TaskGroup() as group:

        async def complete() -> Reply:
            nonlocal num_answered
            reply = await client.complete(guided_json={"type": "object"})
            num_answered += 1
            if num_answered >= num_refused:
                grammars.let_go.set()
            return reply

        if not num_refused:
            grammars.let_go.set()
        tasks = [group.create_task(complete()) for _ in range(40)]
        replies = [await task for task in tasks]
    refused = [reply for reply in replies if reply.status == 429]
    assert len(refused) == num_refused
    assert all("3 requests with checks wait" in reply.error["message"] for reply in refused)
    assert len(grammars.seen) == 40 - num_refused


async def test_a_template_that_refuses_a_long_chat_is_a_refusal_all_the_same(
    client: Client,
) -> None:
    messages = [{"role": "user", "content": text} for text in (LONG, "not this")]
    reply = await client.chat(messages=messages)
    assert (reply.status, reply.error["param"]) == (400, "messages")


async def test_who_leaves_gives_up_the_answer_but_the_thread_stays_taken_until_it_is_done() -> None:
    tokenizer = StuckTokenizer()
    beside = Tokenizing(tokenizer, PATIENCE_S)
    async with asyncio.TaskGroup() as group:
        leaves = group.create_task(beside.prompts([LONG]))
        await wait_entered(tokenizer)
        leaves.cancel()
        await asyncio.wait([leaves])
        stays = group.create_task(beside.prompts([LONG, "short"]))
        assert await beside.prompts(["short"]) == [tuple(b"short")]
        assert tokenizer.num_long == 1
        tokenizer.let_go.set()
        assert await stays == [(1, 2, 3), tuple(b"short")]
    beside.close()
