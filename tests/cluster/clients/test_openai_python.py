"""The official client for Python: every object as its own types have it, strictly."""

import asyncio
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel, Field

from tests.support.services import Client

QUESTION: Any = [{"role": "user", "content": "What is a list?"}]
GREEDY: Any = {"model": "demo", "max_tokens": 24, "temperature": 0}


class Animal(BaseModel):
    """A shape whose answers are bounded, so that no model can go on for ever."""

    kind: Literal["horse", "mule"]
    legs: int = Field(ge=1, le=4)
    tags: list[Literal["grey", "bay"]] = Field(max_length=2)


@pytest.fixture(scope="module")
def official(demo: Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=demo.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_whole_answers_are_of_its_own_types(official: openai.OpenAI) -> None:
    raw = official.chat.completions.with_raw_response
    asked: list[Any] = [{}, {"logprobs": True, "top_logprobs": 2}, {"n": 2}]
    for options in asked:
        chat = raw.create(messages=QUESTION, **GREEDY, **options)
        ChatCompletion.model_validate_json(chat.text, strict=True)
    text = official.completions.with_raw_response.create(prompt=["a", "b"], logprobs=1, **GREEDY)
    Completion.model_validate_json(text.text, strict=True)
    model = official.models.with_raw_response.retrieve("demo")
    Model.model_validate_json(model.text, strict=True)


def test_chunks_are_of_its_own_types_and_say_what_the_whole_says(official: openai.OpenAI) -> None:
    whole = official.chat.completions.create(messages=QUESTION, **GREEDY)
    chunks = list(
        official.chat.completions.create(
            messages=QUESTION, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    for chunk in chunks:
        ChatCompletionChunk.model_validate_json(chunk.model_dump_json(exclude_unset=True))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_an_answer_is_parsed_into_a_model(official: openai.OpenAI) -> None:
    told = official.chat.completions.parse(
        model="demo", messages=QUESTION, response_format=Animal, max_tokens=300
    )
    assert isinstance(told.choices[0].message.parsed, Animal)
    with official.chat.completions.stream(
        model="demo", messages=QUESTION, response_format=Animal, max_tokens=300, seed=1
    ) as stream:
        last = stream.get_final_completion()
    assert isinstance(last.choices[0].message.parsed, Animal)


def test_a_call_is_parsed_into_a_model(official: openai.OpenAI) -> None:
    tool = openai.pydantic_function_tool(Animal, name="describe")
    told = official.chat.completions.parse(
        model="demo",
        messages=QUESTION,
        tools=[tool],
        tool_choice="required",
        max_tokens=400,
        parallel_tool_calls=False,
    )
    [call, *_] = told.choices[0].message.tool_calls or []
    assert told.choices[0].finish_reason == "tool_calls"
    assert isinstance(call.function.parsed_arguments, Animal)
    named: Any = {"type": "function", "function": {"name": "describe"}}
    with official.chat.completions.stream(
        model="demo", messages=QUESTION, tools=[tool], tool_choice=named, max_tokens=300
    ) as stream:
        kinds = {event.type for event in stream}
        last = stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    [call] = last.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Animal)


def test_a_strict_call_may_be_left_out(official: openai.OpenAI) -> None:
    tool = openai.pydantic_function_tool(Animal, name="describe")
    told = official.chat.completions.create(messages=QUESTION, tools=[tool], **GREEDY)
    assert told.choices[0].finish_reason in ("stop", "length", "tool_calls")
    assert told.choices[0].message.content


def test_what_is_left_of_a_quota_stands_in_the_headers(official: openai.OpenAI) -> None:
    raw = official.chat.completions.with_raw_response.create(messages=QUESTION, **GREEDY)
    limit, left = (raw.headers[f"x-ratelimit-{x}-requests"] for x in ("limit", "remaining"))
    assert 0 < int(left) <= int(limit)
    assert raw.headers["x-ratelimit-reset-requests"]
    assert raw.parse().choices


@pytest.mark.parametrize(
    ("options", "error", "param"),
    [
        ({"n": 0}, openai.BadRequestError, "n"),
        ({"max_tokens": 10**6}, openai.BadRequestError, "max_tokens"),
        ({"reasoning_effort": "low"}, openai.BadRequestError, "reasoning_effort"),
        ({"model": "mule"}, openai.NotFoundError, "model"),
    ],
)
def test_errors_are_those_that_it_knows(
    official: openai.OpenAI, options: Any, error: type[openai.APIStatusError], param: str
) -> None:
    with pytest.raises(error) as raised:
        official.chat.completions.create(**{"messages": QUESTION, **GREEDY, **options})
    assert raised.value.param == param


async def test_many_streams_at_once_are_each_whole(demo: Client) -> None:
    async with openai.AsyncOpenAI(base_url=demo.url + "/v1", api_key="none") as client:

        async def one(seed: int) -> str:
            stream = await client.chat.completions.create(
                model="demo", messages=QUESTION, max_tokens=12, seed=seed, stream=True
            )
            return "".join([c.choices[0].delta.content or "" async for c in stream])

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(seed % 4)) for seed in range(12)]
    texts = [task.result() for task in tasks]
    assert texts[:4] == texts[4:8] == texts[8:]
    assert len(set(texts)) > 1
