"""What shapes a request's drawing, on its way to the backend."""

from typing import Any

from models.sampling_extras import SamplingExtras
from tests.runtime.gateway.scripted import (
    EOS,
    ByteDetokenizer,
    ByteTokenizer,
    Client,
    ScriptedBackend,
    gateway,
    says,
)


async def test_what_shapes_the_drawing_reaches_the_backend(
    client: Client, backend: ScriptedBackend
) -> None:
    penalties: dict[str, Any] = {
        "presence_penalty": 0.5,
        "frequency_penalty": -1,
        "repetition_penalty": 1.5,
    }
    await client.chat(**penalties, logit_bias={"7": 5, "3": -100}, allowed_token_ids=[3, 7, 3])
    await client.complete(**penalties)
    of_chat, of_completion = (request.extras for request in backend.requests)
    assert of_completion == SamplingExtras(**penalties)
    assert of_chat == SamplingExtras(**penalties, bias=((3, -100.0), (7, 5.0)), allowed_ids=(3, 7))


async def test_who_asks_for_nothing_of_it_sends_nothing(
    client: Client, backend: ScriptedBackend
) -> None:
    await client.chat(presence_penalty=0, repetition_penalty=1, logit_bias={}, logprobs=False)
    assert backend.requests[0].extras.pack() == b""


async def test_stop_tokens_are_added_to_the_models_own(
    client: Client, backend: ScriptedBackend
) -> None:
    await client.complete(stop_token_ids=[5, 6, 5])
    await client.complete(stop_token_ids=[5], ignore_eos=True)
    assert [request.stop_token_ids for request in backend.requests] == [(EOS, 5, 6), (5,)]


async def test_no_stop_token_may_come_before_min_tokens(
    client: Client, backend: ScriptedBackend
) -> None:
    await client.complete(stop_token_ids=[5], min_tokens=3)
    await client.complete(stop_token_ids=[5])
    assert [request.extras.early_ids for request in backend.requests] == [(5,), ()]


class Remembering(ByteTokenizer):
    """Remembers how it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool]] = []

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        self.asked.append(("encode", add_special_tokens))
        return super().encode(text)

    def detokenizer(
        self, prompt_ids: object, *, skip_special_tokens: bool = True
    ) -> ByteDetokenizer:
        self.asked.append(("detokenizer", skip_special_tokens))
        return ByteDetokenizer()


async def test_a_prompt_may_go_without_the_tokens_that_open_one(backend: ScriptedBackend) -> None:
    tokenizer = Remembering()
    async with gateway(backend, tokenizer=tokenizer) as client:
        await client.complete(add_special_tokens=False)
        await client.complete()
    assert [asked for what, asked in tokenizer.asked if what == "encode"] == [False, True]


async def test_special_tokens_are_shown_where_that_is_asked_for(backend: ScriptedBackend) -> None:
    tokenizer = Remembering()
    async with gateway(backend, tokenizer=tokenizer) as client:
        await client.complete(skip_special_tokens=False)
        await client.complete()
        await client.chat(tools=[{"type": "function", "function": {"name": "go"}}])
    shown = [asked for what, asked in tokenizer.asked if what == "detokenizer"]
    assert shown == [False, True, False]  # calls may be written with special tokens


async def test_answers_are_the_same_with_and_without_what_asks_for_nothing(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = says("hay")
    plain = await client.complete(seed=1)
    same = await client.complete(seed=1, n=1, best_of=1, echo=False, stop_token_ids=[9])
    assert plain.body["choices"] == same.body["choices"]
