"""Logprobs in the shapes of both endpoints."""

import math
from collections.abc import Iterable

import pytest

from models.token_logprobs import TokenLogprobs
from runtime.gateway.backend import GenerationRequest, TokenBatch
from tests.runtime.gateway.scripted import (
    CHAT,
    COMPLETIONS,
    Client,
    ScriptedBackend,
    Step,
    chat,
    completion,
)

HORSE = "🐎".encode()


def entry(place: int, token: int, num_top: int) -> TokenLogprobs:
    top = [(98, -0.25), (token, -1.5)][: max(0, num_top)]
    return TokenLogprobs(place, token, -1.5, 2, tuple(top))


def scores(request: GenerationRequest) -> Iterable[Step]:
    """`h`, then a horse in four bytes; the prompt's logprobs come first, and twice."""
    prompt, extras = request.token_ids, request.extras
    if (num_top := extras.num_prompt_logprobs) >= 0:
        told = tuple(entry(place, prompt[place], num_top) for place in range(1, len(prompt)))
        yield TokenBatch((), None, logprobs=told[:2])
        yield TokenBatch((), None, logprobs=told)
    for place, token in enumerate(b"h" + HORSE, len(prompt)):
        told = (entry(place, token, extras.num_logprobs),) if extras.num_logprobs >= 0 else ()
        yield TokenBatch((token,), None, logprobs=told)
    yield TokenBatch((), "stop")


@pytest.fixture(autouse=True)
def _scored(backend: ScriptedBackend) -> None:
    backend.script = scores


async def test_logprobs_of_a_completion_are_four_lists(client: Client) -> None:
    told = (await client.complete(logprobs=2)).body["choices"][0]["logprobs"]
    assert told == {
        "tokens": ["h", *(f"bytes:\\x{byte:02x}" for byte in HORSE)],
        "token_logprobs": [-1.5] * 5,
        "top_logprobs": [
            {"b": -0.25, token: -1.5} for token in ["h", *(f"bytes:\\x{b:02x}" for b in HORSE)]
        ],
        "text_offset": [0, 1, 1, 1, 1],
    }


async def test_a_token_is_always_among_its_candidates(client: Client) -> None:
    told = (await client.complete(logprobs=0)).body["choices"][0]["logprobs"]
    assert told["top_logprobs"][0] == {"h": -1.5}


async def test_an_echo_with_logprobs_scores_the_prompt(client: Client) -> None:
    choice = (await client.complete(prompt="Once", echo=True, logprobs=1)).body["choices"][0]
    told = choice["logprobs"]
    assert choice["text"] == "Onceh🐎"
    assert told["tokens"][:5] == ["O", "n", "c", "e", "h"]
    assert told["token_logprobs"][:2] == [None, -1.5]
    assert told["top_logprobs"][:2] == [None, {"b": -0.25, "n": -1.5}]
    assert told["text_offset"][:6] == [0, 1, 2, 3, 4, 5]


async def test_logprobs_of_a_chat_are_a_list_of_tokens(client: Client) -> None:
    told = (await client.chat(logprobs=True, top_logprobs=1)).body["choices"][0]["logprobs"]
    assert told["refusal"] is None
    assert told["content"][0] == {
        "token": "h",
        "logprob": -1.5,
        "bytes": [104],
        "top_logprobs": [{"token": "b", "logprob": -0.25, "bytes": [98]}],
    }
    assert [token["bytes"] for token in told["content"][1:]] == [[byte] for byte in HORSE]
    alone = (await client.chat(logprobs=True)).body["choices"][0]["logprobs"]
    assert all(token["top_logprobs"] == [] for token in alone["content"])


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        (CHAT, chat(logprobs=True), "content"),
        (COMPLETIONS, completion(logprobs=0), "tokens"),
        (COMPLETIONS, completion(logprobs=0, echo=True), "tokens"),
    ],
)
async def test_streamed_logprobs_are_those_of_the_whole(
    client: Client, path: str, body: dict[str, object], key: str
) -> None:
    whole = (await client.send("POST", path, json=body)).body["choices"][0]["logprobs"][key]
    *chunks, _ = await client.events(path, body)
    told = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [token for some in told if some for token in some[key]] == whole


async def test_prompt_logprobs_are_told_beside_either_answer(client: Client) -> None:
    by_id = {
        "98": {"logprob": -0.25, "rank": 1, "decoded_token": "b"},
        "110": {"logprob": -1.5, "rank": 2, "decoded_token": "n"},
    }
    choice = (await client.complete(prompt="On", prompt_logprobs=1)).body["choices"][0]
    assert choice["prompt_logprobs"] == [None, by_id]
    assert choice["logprobs"] is None
    told = (await client.chat(prompt_logprobs=0)).body["prompt_logprobs"]
    assert len(told) == 8
    assert told[0] is None


async def test_a_logprob_that_never_came_is_an_error_and_no_answer(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = lambda _: [TokenBatch((104,), "stop")]
    for body in ({"logprobs": 0}, {"prompt_logprobs": 0}, {"echo": True, "logprobs": 0}):
        reply = await client.complete(**body)
        assert (reply.status, reply.error["code"]) == (503, "tokens_lost")


async def test_minus_infinity_is_a_number_that_json_has(
    client: Client, backend: ScriptedBackend
) -> None:
    never = TokenLogprobs(4, 104, -math.inf, 9, ((98, 0.0), (104, -math.inf)))
    backend.script = lambda _: [TokenBatch((104,), "stop", logprobs=(never,))]
    told = (await client.complete(logprobs=2)).body["choices"][0]["logprobs"]
    assert told["token_logprobs"] == [-9999.0]
    assert told["top_logprobs"] == [{"b": 0.0, "h": -9999.0}]
