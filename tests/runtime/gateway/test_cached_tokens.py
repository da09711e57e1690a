"""What a client hears of prompt tokens that were not computed for it."""

from typing import Any

import pytest

from models.demo import demo_path
from models.tokenizer import Tokenizer
from runtime.gateway.backend import GenerationRequest, TokenBatch
from tests.runtime.gateway.demo_backend import DemoBackend, demo_gateway, load_stages
from tests.runtime.gateway.scripted import (
    COMPLETIONS,
    Client,
    ScriptedBackend,
    Step,
    completion,
)
from tests.runtime.gateway.test_schemas import validator

STREAMED = {"stream_options": {"include_usage": True}}
TALK = "What does a list do? A list is a mutable sequence of items. " * 4


def found(num_cached: int) -> list[Step]:
    return [TokenBatch((65,), None, num_cached=num_cached), TokenBatch((66,), "stop")]


async def test_the_usage_tells_how_many_tokens_of_a_prompt_were_there(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = lambda _: found(32)
    body = (await client.complete()).body
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 32}
    validator("Completion").validate(body)
    *_, last, _ = await client.events(COMPLETIONS, completion(**STREAMED))
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 32}


async def test_of_several_choices_the_one_that_computed_most_counts(
    client: Client, backend: ScriptedBackend
) -> None:
    num_sent = 0

    def script(request: GenerationRequest) -> list[Step]:
        nonlocal num_sent
        num_sent += 1
        return found(16 * num_sent)

    backend.script = script
    body = (await client.complete(prompt=["a", "b"], n=2)).body
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 16 + 48}


async def test_where_nothing_was_there_the_usage_does_not_speak_of_it(client: Client) -> None:
    assert "prompt_tokens_details" not in (await client.complete()).body["usage"]


def talk(end: str, **body: Any) -> dict[str, Any]:
    asked = {"model": "horse", "prompt": TALK + end, "max_tokens": 24, "temperature": 0}
    return asked | body


@pytest.mark.parametrize("num_stages", [1, 3])
async def test_a_real_model_says_the_same_whether_beginnings_are_shared_or_not(
    num_stages: int,
) -> None:
    stages = load_stages(num_stages)
    bodies = [talk("What does sorted do?"), talk("What is a set?"), talk("And", logprobs=1)]
    bodies += [talk("What does sorted do?", temperature=0.9, seed=3), talk("", n=2)]
    answers = []
    for shares in (False, True):
        async with demo_gateway(DemoBackend(stages, prefix_sharing=shares)) as client:
            replies = [(await client.send("POST", COMPLETIONS, json=body)).body for body in bodies]
        answers.append([[choice["text"] for choice in reply["choices"]] for reply in replies])
    assert answers[0] == answers[1]
    num_common = len(Tokenizer.from_directory(demo_path()).encode(TALK)) // 16 * 16
    cached = [reply["usage"].get("prompt_tokens_details") for reply in replies]
    assert cached[0] is None
    assert all(told["cached_tokens"] >= num_common - 16 for told in cached[1:])


async def test_logprobs_of_a_prompt_are_all_there_though_its_beginning_is_known() -> None:
    asked = talk("", prompt_logprobs=0, max_tokens=2)
    async with demo_gateway(DemoBackend(load_stages(1), prefix_sharing=True)) as client:
        answers = [(await client.send("POST", COMPLETIONS, json=asked)).body for _ in range(2)]
    told = [answer["choices"][0]["prompt_logprobs"] for answer in answers]
    assert len(told[0]) == len(told[1]) == answers[0]["usage"]["prompt_tokens"]
    assert "prompt_tokens_details" not in answers[1]["usage"]
