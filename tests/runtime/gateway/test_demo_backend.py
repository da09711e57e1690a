"""The demo model through the whole gateway: what is asked for is what comes, however it is cut.

One, two and four stages, batches of all kinds of requests, and stages that are replaced in
mid-answer all give the same.
"""

import asyncio
import itertools
import json
import math
import re
from functools import cache
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from models.demo import demo_path
from models.shard import TorchShard
from models.tokenizer import Tokenizer
from tests.runtime.gateway.demo_backend import EOS, DemoBackend, demo_gateway, load_stages
from tests.runtime.gateway.scripted import CHAT, COMPLETIONS, Client

SCHEMA = {
    "type": "object",
    "properties": {"size": {"type": "integer"}, "kind": {"enum": ["list", "file"]}},
    "required": ["size", "kind"],
    "additionalProperties": False,
}
HOT = {"temperature": 1.2, "seed": 11}
LOOK = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {
            "type": "object",
            "properties": {"place": {"$ref": "#/$defs/place"}},
            "required": ["place"],
            "additionalProperties": False,
            "$defs": {"place": {"enum": ["barn", "field"]}},
        },
    },
}


@cache
def stages(count: int) -> list[TorchShard]:
    return load_stages(count)


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_directory(demo_path())


@cache
def whole_model() -> Any:
    return AutoModelForCausalLM.from_pretrained(demo_path(), dtype=torch.float32)


def oracle_logprobs(ids: list[int]) -> torch.Tensor:
    """The model's own words on what follows each token: [T, V]."""
    with torch.inference_mode():
        logits: torch.Tensor = whole_model()(torch.tensor([ids])).logits[0]
        return logits.log_softmax(-1)


def completion(**body: Any) -> dict[str, Any]:
    return {"model": "horse", "prompt": "The list", "max_tokens": 16, "temperature": 0, **body}


def chat(**body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "What is a list?"}]
    return {"model": "horse", "messages": messages, "max_tokens": 40, "temperature": 0, **body}


MIXED: list[tuple[str, dict[str, Any]]] = [
    (COMPLETIONS, completion()),
    (COMPLETIONS, completion(**HOT, n=2, logprobs=2)),
    (COMPLETIONS, completion(**HOT, presence_penalty=1.5, frequency_penalty=0.5)),
    (COMPLETIONS, completion(repetition_penalty=1.4, logprobs=0)),
    (COMPLETIONS, completion(logit_bias={"300": 5, "301": -100}, echo=True, logprobs=1)),
    (COMPLETIONS, completion(**HOT, guided_regex="[a-f]{3}(-[0-9]{2}){3}", max_tokens=30)),
    (COMPLETIONS, completion(allowed_token_ids=list(range(260, 300)), ignore_eos=True)),
    (COMPLETIONS, completion(prompt="x = [1, 2, 3]\n" * 20, prompt_logprobs=1, max_tokens=4)),
    (COMPLETIONS, completion(min_tokens=12, stop_token_ids=[300], logit_bias={"300": 3})),
    (CHAT, chat(**HOT, response_format={"type": "json_schema", "json_schema": {
        "name": "thing", "schema": SCHEMA, "strict": True}})),
    (CHAT, chat(tools=[LOOK], tool_choice="required", logprobs=True, top_logprobs=3)),
    (COMPLETIONS, completion(**HOT, best_of=3, n=1)),
]  # fmt: skip


async def answers(client: Client) -> list[Any]:
    async with asyncio.TaskGroup() as group:
        sent = [group.create_task(client.send("POST", path, json=body)) for path, body in MIXED]
    return [without_names(task.result().body) for task in sent]


def without_names(body: dict[str, Any]) -> Any:
    """An answer without the names that are new in every answer."""
    assert "error" not in body, body
    text = json.dumps(body | {"id": ""})
    return json.loads(re.sub(r'"id": "[0-9a-f]{9}"', '"id": ""', text))


def flat(value: Any) -> tuple[str, list[float]]:
    """A JSON value's outline, and its numbers, which rounding may change a little."""
    numbers: list[float] = []

    def keep(text: str) -> float:
        numbers.append(float(text))
        return 0.0

    return json.dumps(json.loads(json.dumps(value), parse_float=keep)), numbers


def assert_same(found: list[Any], expected: list[Any]) -> None:
    for one, other in zip(found, expected, strict=True):
        outline, numbers = flat(one)
        expected_outline, expected_numbers = flat(other)
        assert outline == expected_outline
        assert numbers == pytest.approx(expected_numbers, abs=2e-3)


@cache
def alone() -> list[Any]:
    """Each request by itself, over one stage."""

    async def ask() -> list[Any]:
        found = []
        for path, body in MIXED:
            async with demo_gateway(DemoBackend(stages(1))) as client:
                found.append(without_names((await client.send("POST", path, json=body)).body))
        return found

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def expected() -> list[Any]:
    return alone()


@pytest.mark.parametrize("num_stages", [1, 2, 4])
def test_in_one_batch_over_any_stages_each_request_gets_what_it_gets_alone(
    expected: list[Any], num_stages: int
) -> None:
    async def ask() -> None:
        backend = DemoBackend(stages(num_stages))
        async with demo_gateway(backend) as client:
            assert_same(await answers(client), expected)
        assert backend.num_mixed_steps > 5

    asyncio.run(ask())


@pytest.mark.parametrize("after", [3, 17])
def test_stages_that_are_replaced_in_mid_answer_change_nothing(
    expected: list[Any], after: int
) -> None:
    async def ask() -> None:
        backend = DemoBackend(stages(2), change_after=after, max_step_tokens=48)
        backend.changed = load_stages(4)  # new ones: none of them has seen any of it
        async with demo_gateway(backend) as client:
            assert_same(await answers(client), expected)

    asyncio.run(ask())


# --- each by itself, against the model as a whole


async def ask(path: str, body: dict[str, Any]) -> Any:
    async with demo_gateway(DemoBackend(stages(1))) as client:
        reply = await client.send("POST", path, json=body)
    assert reply.status == 200, reply.body
    return reply.body["choices"][0]


async def test_an_echo_is_scored_as_the_model_scores_it() -> None:
    prompt = tokenizer().encode("The list is a sequence of items.")
    body = completion(prompt=prompt, max_tokens=1, echo=True, logprobs=1)
    told = (await ask(COMPLETIONS, body))["logprobs"]
    assert len({len(told[name]) for name in told}) == 1
    assert len(told["tokens"]) == len(prompt) + 1
    assert (told["token_logprobs"][0], told["top_logprobs"][0]) == (None, None)
    expected = oracle_logprobs(prompt)
    for place, token in enumerate(prompt[1:], 1):
        likely = expected[place - 1]
        assert told["token_logprobs"][place] == pytest.approx(float(likely[token]), abs=1e-3)
        top = told["top_logprobs"][place]
        assert max(top.values()) == pytest.approx(float(likely.max()), abs=1e-3)
        is_greedy = int(likely.argmax()) == token
        assert (told["token_logprobs"][place] == max(top.values())) == is_greedy


async def test_a_prompt_is_scored_without_drawing_a_token() -> None:
    body = completion(max_tokens=0, echo=True, logprobs=1)
    choice = await ask(COMPLETIONS, body)
    assert choice["text"] == "The list"
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"]["tokens"] == ["<|begin|>", "The", " list"]
    assert choice["logprobs"]["text_offset"] == [0, 0, 3]


async def test_texts_and_offsets_of_tokens_fit_the_text() -> None:
    choice = await ask(COMPLETIONS, completion(echo=True, logprobs=0))
    told = choice["logprobs"]
    for (begin, end), token in zip(
        itertools.pairwise(told["text_offset"]), told["tokens"], strict=False
    ):
        assert choice["text"][begin:end] == ("" if token == "<|begin|>" else token)


def penalized_greedily(prompt: list[int], count: int, penalty: float) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        logits = whole_model()(torch.tensor([ids])).logits[0, -1].detach().clone()
        for token in set(ids[len(prompt) :]):
            logits[token] -= penalty
        ids.append(int(logits.argmax()))
        if ids[-1] == EOS:
            break
    return ids[len(prompt) :]


async def test_a_presence_penalty_is_that_of_its_definition() -> None:
    prompt = tokenizer().encode("Return a")
    expected = penalized_greedily(prompt, 40, 2.0)
    body = completion(prompt=prompt, max_tokens=40)
    text = (await ask(COMPLETIONS, body | {"presence_penalty": 2}))["text"]
    assert text == tokenizer().decode([token for token in expected if token != EOS])
    assert text != (await ask(COMPLETIONS, body))["text"]


@pytest.mark.parametrize("seed", range(3))
async def test_an_answer_follows_its_schema_whatever_is_drawn(seed: int) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA}}
    body = chat(response_format=form, temperature=1.5, seed=seed, max_tokens=200)
    choice = await ask(CHAT, body)
    assert choice["finish_reason"] == "stop"
    found = json.loads(choice["message"]["content"])
    assert found.keys() == {"size", "kind"}
    assert isinstance(found["size"], int)
    assert found["kind"] in ("list", "file")


@pytest.mark.parametrize(
    ("body", "pattern"),
    [
        ({"guided_regex": "[0-9]{3}-[a-z]{2}"}, "[0-9]{3}-[a-z]{2}"),
        ({"guided_choice": ["hay", "oats and hay"]}, "hay|oats and hay"),
        ({"guided_grammar": 'start: "go " /[0-9]{2}/'}, "go [0-9]{2}"),
        ({"structured_outputs": {"regex": "x{5}"}}, "x{5}"),
    ],
)
async def test_an_answer_matches_its_pattern(body: dict[str, Any], pattern: str) -> None:
    choice = await ask(COMPLETIONS, completion(**body, temperature=1, seed=3))
    assert re.fullmatch(pattern, choice["text"])
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look"}}])
@pytest.mark.parametrize("seed", range(2))
async def test_a_call_that_must_be_is_one_of_the_tools(choice: Any, seed: int) -> None:
    body = chat(tools=[LOOK], tool_choice=choice, parallel_tool_calls=False, seed=seed)
    answer = await ask(CHAT, body | {"temperature": 1})
    assert answer["finish_reason"] == "tool_calls"
    (call,) = answer["message"]["tool_calls"]
    assert answer["message"]["content"] is None
    assert call["function"]["name"] == "look"
    assert json.loads(call["function"]["arguments"])["place"] in ("barn", "field")


async def test_no_end_comes_before_min_tokens_and_a_forbidden_end_is_an_error() -> None:
    async with demo_gateway(DemoBackend(stages(1))) as client:
        ends = completion(logit_bias={str(EOS): 100}, max_tokens=9)
        reply = await client.send("POST", COMPLETIONS, json=ends)
        assert reply.body["usage"]["completion_tokens"] <= 1
        reply = await client.send("POST", COMPLETIONS, json=ends | {"min_tokens": 7})
        assert reply.body["usage"]["completion_tokens"] in (7, 8)
        dead = completion(guided_choice=["hay"], allowed_token_ids=[EOS])
        reply = await client.send("POST", COMPLETIONS, json=dead)
        assert (reply.status, reply.error["code"]) == (400, "no_token")


async def test_the_best_of_several_has_the_likeliest_tokens() -> None:
    hot = completion(temperature=1.5, seed=5, logprobs=0, max_tokens=8, ignore_eos=True)
    async with demo_gateway(DemoBackend(stages(1))) as client:
        reply = await client.send("POST", COMPLETIONS, json=hot | {"n": 4})
        means = {
            choice["text"]: math.fsum(choice["logprobs"]["token_logprobs"])
            for choice in reply.body["choices"]
        }
        best = await client.send("POST", COMPLETIONS, json=hot | {"n": 2, "best_of": 4})
    texts = [choice["text"] for choice in best.body["choices"]]
    assert texts == sorted(means, key=lambda text: -means[text])[:2]
    assert best.body["usage"]["completion_tokens"] == 32
