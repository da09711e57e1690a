"""The official client against the gateway: what it takes for success and what for an error."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from runtime.gateway.backend import (
    GenerationError,
    GenerationRequest,
    NotReady,
    Overloaded,
)
from tests.runtime.gateway.scripted import (
    MODEL,
    PATIENCE_S,
    Client,
    ScriptedBackend,
    ScriptedStream,
    batch,
    gateway,
    says,
)

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi"}]


@pytest.fixture
async def official(client: Client) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=client.url + "/v1", api_key="none", max_retries=0, timeout=PATIENCE_S
    ) as official:
        yield official


async def test_it_lists_and_shows_the_model(official: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in official.models.list()] == [MODEL.name]
    assert (await official.models.retrieve(MODEL.name)).id == MODEL.name


async def test_it_reads_both_endpoints(official: openai.AsyncOpenAI) -> None:
    chat = await official.chat.completions.create(model=MODEL.name, messages=MESSAGES)
    assert chat.choices[0].message.content == "hello"
    assert chat.choices[0].finish_reason == "stop"
    completion = await official.completions.create(model=MODEL.name, prompt=["a", "b"])
    assert [choice.text for choice in completion.choices] == ["hello", "hello"]
    assert completion.usage is not None
    assert completion.usage.total_tokens == 12


async def test_it_streams_both_endpoints(
    official: openai.AsyncOpenAI, backend: ScriptedBackend
) -> None:
    backend.script = says("hel", "lo")
    chat = await official.chat.completions.create(
        model=MODEL.name, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in chat]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "hello"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.usage is not None
    assert last.usage.completion_tokens == 5
    completion = await official.completions.create(model=MODEL.name, prompt="a", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in completion]) == "hello"


async def test_its_own_accumulator_accepts_the_stream(official: openai.AsyncOpenAI) -> None:
    async with official.chat.completions.stream(model=MODEL.name, messages=MESSAGES) as stream:
        whole = await stream.get_final_completion()
    assert whole.choices[0].message.content == "hello"


async def test_a_broken_stream_is_an_error_to_it(
    official: openai.AsyncOpenAI, backend: ScriptedBackend
) -> None:
    lost = GenerationError("stage 1 was lost", kind="stage_lost")
    backend.script = lambda _: [batch("half"), lost]
    stream = await official.chat.completions.create(
        model=MODEL.name, messages=MESSAGES, stream=True
    )
    seen = []

    async def read() -> None:
        async for chunk in stream:
            seen.append(chunk.choices[0].finish_reason)  # noqa: PERF401 - what came before the error

    with pytest.raises(openai.APIError, match="stage 1 was lost"):
        await read()
    assert seen == [None, None]


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (Overloaded("full", retry_after_s=1), openai.RateLimitError),
        (NotReady("no pipeline is ready"), openai.InternalServerError),
    ],
)
async def test_it_sees_a_refusal_as_an_error_it_may_retry(
    official: openai.AsyncOpenAI,
    backend: ScriptedBackend,
    refusal: Exception,
    error: type[openai.APIStatusError],
) -> None:
    backend.refusal = refusal
    with pytest.raises(error) as raised:
        await official.completions.create(model=MODEL.name, prompt="a")
    assert raised.value.response.headers["retry-after"]


@dataclass
class FullAtFirst(ScriptedBackend):
    """Has no place for the first requests."""

    num_refusals: int = 1

    def submit(self, request: GenerationRequest) -> ScriptedStream:
        if self.num_refusals:
            self.num_refusals -= 1
            raise Overloaded("full", retry_after_s=1)
        return super().submit(request)


async def test_it_comes_back_when_it_is_told_to_and_is_served_then() -> None:
    backend = FullAtFirst(num_refusals=1)
    async with (
        gateway(backend) as client,
        openai.AsyncOpenAI(
            base_url=client.url + "/v1", api_key="none", max_retries=1, timeout=PATIENCE_S
        ) as patient,
    ):
        completion = await patient.completions.create(model=MODEL.name, prompt="a")
    assert completion.choices[0].text == "hello"
    assert len(backend.requests) == 1


async def test_it_sees_what_was_wrong(official: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        await official.chat.completions.create(model=MODEL.name, messages=MESSAGES, n=0)
    assert bad.value.param == "n"
    with pytest.raises(openai.NotFoundError) as unknown:
        await official.completions.create(model="mule", prompt="a")
    assert unknown.value.code == "model_not_found"
