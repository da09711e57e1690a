"""How many choices there are of a prompt, and how long they may be."""

from collections.abc import Iterable

import pytest

from models.token_logprobs import TokenLogprobs
from runtime.gateway.backend import GenerationRequest, TokenBatch
from tests.runtime.gateway.scripted import (
    CHAT,
    COMPLETIONS,
    MODEL,
    Client,
    ScriptedBackend,
    Step,
    chat,
    completion,
    echoes,
)


def by_seed(request: GenerationRequest) -> Iterable[Step]:
    """A letter that tells the seed, the likelier the higher it is."""
    token, place = 65 + request.seed, len(request.token_ids)
    entry = TokenLogprobs(place, token, float(request.seed) - 50, 1, ())
    return [TokenBatch((token,), "length", logprobs=(entry,))]


async def test_n_choices_for_each_prompt_come_in_order(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = echoes
    reply = await client.complete(prompt=["a", "b"], n=3)
    assert [choice["text"] for choice in reply.body["choices"]] == ["a"] * 3 + ["b"] * 3
    assert [choice["index"] for choice in reply.body["choices"]] == list(range(6))
    assert reply.body["usage"] == {"prompt_tokens": 2, "completion_tokens": 6, "total_tokens": 8}


async def test_each_choice_has_a_seed_of_its_own_and_the_first_has_the_requests(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = by_seed
    reply = await client.chat(n=3, seed=4)
    texts = [choice["message"]["content"] for choice in reply.body["choices"]]
    assert texts == ["E", "F", "G"]
    assert (await client.chat(seed=4)).body["choices"][0]["message"]["content"] == "E"


async def test_streamed_choices_of_one_prompt_carry_their_index(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = by_seed
    *chunks, done = await client.events(CHAT, chat(n=3, seed=4))
    texts = ["", "", ""]
    for choice in (chunk["choices"][0] for chunk in chunks):
        texts[choice["index"]] += choice["delta"].get("content") or ""
    assert (texts, done) == (["E", "F", "G"], "[DONE]")


async def test_the_likeliest_of_best_of_are_shown_the_best_first(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = by_seed
    reply = await client.complete(prompt=["x", "y"], best_of=4, n=2, seed=0)
    choices = reply.body["choices"]
    assert [choice["text"] for choice in choices] == ["D", "C", "D", "C"]
    assert all(choice["logprobs"] is None for choice in choices)
    assert reply.body["usage"]["completion_tokens"] == 8
    assert all(request.extras.num_logprobs == 0 for request in backend.requests)


async def test_as_many_as_are_made_are_shown_in_their_order(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = by_seed
    reply = await client.complete(best_of=2, n=2, seed=0)
    assert [choice["text"] for choice in reply.body["choices"]] == ["A", "B"]
    assert all(request.extras.num_logprobs == -1 for request in backend.requests)


@pytest.mark.parametrize("echo", [True, False])
async def test_no_token_at_all_may_be_asked_for(
    client: Client, backend: ScriptedBackend, echo: bool
) -> None:
    reply = await client.complete(max_tokens=0, echo=echo)
    (choice,) = reply.body["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("Once" if echo else "", "length")
    assert reply.body["usage"]["completion_tokens"] == 0
    assert backend.requests[0].max_tokens == 1
    assert backend.streams[0].closed.is_set()


@pytest.mark.parametrize("prompt", ["Once", list(b"Once")])
async def test_an_echo_stands_before_the_answer_whole_and_streamed(
    client: Client, prompt: str | list[int]
) -> None:
    body = completion(echo=True, prompt=prompt)
    assert (await client.complete(**body)).body["choices"][0]["text"] == "Oncehello"
    *chunks, _ = await client.events(COMPLETIONS, body)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Oncehello"


async def test_a_stop_string_in_an_echo_does_not_end_the_answer(client: Client) -> None:
    reply = await client.complete(echo=True, stop="Once")
    assert reply.body["choices"][0]["text"] == "Oncehello"


async def test_more_sequences_than_one_request_may_have_are_refused(client: Client) -> None:
    assert (await client.complete(n=128)).status == 200
    reply = await client.complete(prompt=["a", "b"], n=65)
    assert (reply.status, reply.error["param"]) == (400, "n")
    assert (await client.complete(max_tokens=MODEL.max_len)).status == 400
