"""Stop strings: however a text is cut into tokens and batches, the answer is the same."""

import asyncio
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.gateway.backend import FinishReason, GenerationRequest, TokenBatch
from runtime.gateway.choice import Choice, Wishes
from runtime.gateway.stops import StopScanner
from tests.runtime.gateway.scripted import (
    COMPLETIONS,
    PATIENCE_S,
    ByteTokenizer,
    Client,
    Script,
    ScriptedBackend,
    Step,
    batch,
    completion,
    says,
)
from tests.runtime.gateway.sockets import wait_began

# Few letters, so that stop strings begin, overlap and contain each other often.
texts = st.text("abé", max_size=30)
stop_lists = st.lists(st.text("abé", min_size=1, max_size=4), max_size=4)
cuts = st.lists(st.integers(1, 5), min_size=1, max_size=5)


def reference(text: str, stops: Sequence[str]) -> tuple[str, FinishReason]:
    """Letter by letter: the stop string that is complete first, and longest, ends the text."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], "stop"
    return text, "length"


def batches(data: bytes, sizes: Sequence[int]) -> list[TokenBatch]:
    """The bytes as batches of the given sizes, over and over."""
    found: list[TokenBatch] = []
    at = 0
    while at < len(data):
        size = sizes[len(found) % len(sizes)]
        found.append(TokenBatch(tuple(data[at : at + size]), None))
        at += size
    return [*found, TokenBatch((), "length")]


def cut(text: str, sizes: Sequence[int]) -> Script:
    return lambda _: batches(text.encode(), sizes)


async def pieces_of(
    data: bytes, sizes: Sequence[int], stops: Sequence[str]
) -> tuple[str, str, int]:
    backend = ScriptedBackend(script=lambda _: batches(data, sizes))
    request = GenerationRequest(request_id="r", token_ids=(1,), max_tokens=100)
    choice = Choice(request, ByteTokenizer(), Wishes(stops=tuple(stops)))
    choice.submit(backend)
    pieces = [piece async for piece in choice.pieces()]
    assert all(piece.finish_reason is None and piece.text for piece in pieces[:-1])
    reason = pieces[-1].finish_reason
    assert reason is not None
    return "".join(piece.text for piece in pieces), reason, choice.num_completion_tokens


async def test_a_choice_that_a_stop_string_ended_is_freed_before_the_others_end(
    client: Client, backend: ScriptedBackend
) -> None:
    held = asyncio.Event()

    def script(request: GenerationRequest) -> list[Step]:
        is_first = request.request_id.endswith("-0")
        return [batch("one. two")] if is_first else [held, batch("two", "length")]

    backend.script = script
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(client.complete(n=2, stop="."))
        await wait_began(backend)
        async with asyncio.timeout(PATIENCE_S):
            await backend.streams[0].closed.wait()
        assert not backend.streams[1].closed.is_set()
        held.set()
    texts = [choice["text"] for choice in asking.result().body["choices"]]
    assert texts == ["one", "two"]


@given(texts, stop_lists, cuts)
async def test_text_reason_and_count_depend_on_the_tokens_alone(
    text: str, stops: list[str], sizes: list[int]
) -> None:
    data = text.encode()
    one_by_one = await pieces_of(data, [1], stops)
    assert await pieces_of(data, sizes, stops) == one_by_one
    assert one_by_one[:2] == reference(text, stops)


@given(texts, stop_lists, cuts)
def test_the_scanner_never_lets_out_what_a_stop_string_could_still_claim(
    text: str, stops: list[str], sizes: list[int]
) -> None:
    scanner = StopScanner(stops)
    shown, at = "", 0
    expected, _ = reference(text, stops)
    while at < len(text) and not scanner.is_stopped:
        size = sizes[at % len(sizes)]
        shown += scanner.push(text[at : at + size])
        at += size
        assert expected.startswith(shown)
    assert shown + scanner.flush() == expected


async def test_streamed_and_whole_answers_are_the_same_for_any_cut_of_the_tokens(
    client: Client, backend: ScriptedBackend
) -> None:
    rng = random.Random(11)
    for _ in range(40):
        text = "".join(rng.choices("abé", k=20))
        stops = ["".join(rng.choices("abé", k=rng.randint(2, 4))) for _ in range(rng.randint(1, 4))]
        sizes = [rng.randint(1, 5) for _ in range(3)]
        backend.script = cut(text, sizes)
        body = completion(stop=stops, max_tokens=50)
        whole = (await client.complete(**body)).body["choices"][0]
        *chunks, _ = await client.events(COMPLETIONS, body)
        streamed = "".join(chunk["choices"][0]["text"] for chunk in chunks)
        assert (streamed, chunks[-1]["choices"][0]["finish_reason"]) == reference(text, stops)
        assert (whole["text"], whole["finish_reason"]) == reference(text, stops)


@pytest.mark.parametrize("stop", ["lo w", ["x", "lo w"]])
async def test_a_stop_string_over_several_tokens_ends_the_answer_and_frees_the_sequence(
    client: Client, backend: ScriptedBackend, stop: str | list[str]
) -> None:
    backend.script = says("hel", "lo ", "wor", "ld", reason="length")
    reply = await client.complete(stop=stop)
    assert reply.body["choices"][0]["text"] == "hel"
    assert reply.body["choices"][0]["finish_reason"] == "stop"
    assert reply.body["usage"]["completion_tokens"] == len("hello w")
    assert backend.streams[0].closed.is_set()


async def test_what_only_looked_like_a_stop_string_is_given_out_at_the_end(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = says("hello", " wor")
    assert (await client.complete(stop=" world")).body["choices"][0]["text"] == "hello wor"


async def test_a_stop_string_is_shown_where_that_is_asked_for(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = says("hel", "lo ", "wor", "ld")
    reply = await client.complete(stop="lo w", include_stop_str_in_output=True)
    assert reply.body["choices"][0]["text"] == "hello w"
    assert reply.body["usage"]["completion_tokens"] == len("hello w")
