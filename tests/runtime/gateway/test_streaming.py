from typing import Any

import pytest

from tests.runtime.gateway.scripted import (
    CHAT,
    COMPLETIONS,
    MODEL,
    NOW,
    Client,
    ScriptedBackend,
    batch,
    chat,
    completion,
    says,
)

USAGE = {"stream_options": {"include_usage": True}}


def deltas(chunks: list[Any]) -> list[dict[str, Any]]:
    return [chunk["choices"][0]["delta"] for chunk in chunks]


async def test_a_chat_stream_begins_with_the_role_and_ends_with_the_reason_and_done(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = says("hel", "lo", reason="length")
    *chunks, done = await client.events(CHAT, chat())
    assert deltas(chunks) == [
        {"role": "assistant", "content": ""},
        {"content": "hel"},
        {"content": "lo"},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "length"]
    assert done == "[DONE]"
    (head,) = {(c["id"], c["object"], c["created"], c["model"]) for c in chunks}
    assert head[1:] == ("chat.completion.chunk", int(NOW), MODEL.name)
    assert not any("usage" in chunk for chunk in chunks)


async def test_a_completion_stream_is_pieces_of_text_and_the_reason(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = says("hel", "lo")
    *chunks, done = await client.events(COMPLETIONS, completion())
    assert [chunk["choices"][0] for chunk in chunks] == [
        {"index": 0, "text": "hel", "logprobs": None, "finish_reason": None},
        {"index": 0, "text": "lo", "logprobs": None, "finish_reason": "stop"},
    ]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert done == "[DONE]"


@pytest.mark.parametrize(("path", "body"), [(CHAT, chat()), (COMPLETIONS, completion())])
async def test_the_usage_comes_last_and_only_where_it_was_asked_for(
    client: Client, path: str, body: dict[str, Any]
) -> None:
    *chunks, last, done = await client.events(path, body | USAGE)
    num_prompt_tokens = 8 if path == CHAT else 4
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": 5,
        "total_tokens": num_prompt_tokens + 5,
    }
    assert all(chunk["usage"] is None for chunk in chunks)
    assert done == "[DONE]"


async def test_a_character_over_several_tokens_comes_whole(
    client: Client, backend: ScriptedBackend
) -> None:
    horse = "🐎".encode()
    backend.script = says(*(horse[i : i + 1] for i in range(len(horse))), "é".encode() + b"!")
    *chunks, _ = await client.events(COMPLETIONS, completion())
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["🐎", "é!"]


async def test_a_character_that_was_cut_off_is_shown_as_such_and_not_lost(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = says("a", "🐎".encode()[:2], reason="length")
    *chunks, _ = await client.events(COMPLETIONS, completion())
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "a�"
    assert (await client.complete()).body["choices"][0]["text"] == "a�"


async def test_an_answer_without_a_token_still_has_role_and_reason(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = lambda _: [batch("", "stop")]
    first, last, done = await client.events(CHAT, chat())
    assert deltas([first, last]) == [{"role": "assistant", "content": ""}, {}]
    assert last["choices"][0]["finish_reason"] == "stop"
    assert done == "[DONE]"
