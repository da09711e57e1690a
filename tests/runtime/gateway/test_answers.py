from typing import Any

import pytest

from tests.runtime.gateway.scripted import (
    COMPLETIONS,
    EOS,
    MODEL,
    NOW,
    Client,
    ScriptedBackend,
    echoes,
    says,
)


async def test_a_completion_has_the_shape_of_openais(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = says("hel", "lo", reason="length")
    reply = await client.complete(prompt="Once", max_tokens=5)
    assert reply.status == 200
    assert reply.body.pop("id").startswith("cmpl-")
    assert reply.body == {
        "object": "text_completion",
        "created": int(NOW),
        "model": MODEL.name,
        "choices": [{"index": 0, "text": "hello", "logprobs": None, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9},
    }


async def test_a_chat_completion_has_the_shape_of_openais(client: Client) -> None:
    reply = await client.chat()
    assert reply.status == 200
    assert reply.body.pop("id").startswith("chatcmpl-")
    assert reply.body == {
        "object": "chat.completion",
        "created": int(NOW),
        "model": MODEL.name,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13},
    }


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("one", ["one"]),
        ([65, 66], ["AB"]),
        (["one", "two"], ["one", "two"]),
        ([[65], [66, 67]], ["A", "BC"]),
        (["one", [65]], ["one", "A"]),
    ],
)
async def test_every_form_of_prompt_gives_one_choice_a_prompt_in_order(
    client: Client, backend: ScriptedBackend, prompt: Any, texts: list[str]
) -> None:
    backend.script = echoes
    reply = await client.complete(prompt=prompt)
    assert [choice["text"] for choice in reply.body["choices"]] == texts
    assert [choice["index"] for choice in reply.body["choices"]] == list(range(len(texts)))
    num_tokens = sum(map(len, texts))
    assert reply.body["usage"]["prompt_tokens"] == num_tokens
    assert reply.body["usage"]["completion_tokens"] == num_tokens


async def test_streamed_choices_carry_the_index_of_their_prompt(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = echoes
    body = {"model": MODEL.name, "prompt": ["one", "two"]}
    *chunks, done = await client.events(COMPLETIONS, body)
    texts = ["", ""]
    for choice in (chunk["choices"][0] for chunk in chunks):
        texts[choice["index"]] += choice["text"]
    assert texts == ["one", "two"]
    assert done == "[DONE]"


async def test_a_chat_takes_text_in_parts_names_and_the_newer_role_of_a_system_prompt(
    client: Client, backend: ScriptedBackend
) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    await client.chat(
        messages=[
            {"role": "developer", "content": "be good"},
            {"role": "assistant", "content": "", "name": "x", "tool_calls": None},
            {"role": "user", "content": parts},
        ]
    )
    assert bytes(backend.requests[0].token_ids) == b"system:be good;assistant:;user:ab;"


async def test_what_is_left_out_has_openais_defaults(
    client: Client, backend: ScriptedBackend
) -> None:
    await client.complete(temperature=None, seed=None)
    await client.chat()
    of_completion, of_chat = backend.requests
    assert of_completion.max_tokens == 16
    assert of_chat.max_tokens == MODEL.max_len - 8
    for request in backend.requests:
        assert (request.temperature, request.top_p, request.top_k) == (1.0, 1.0, 0)
        assert (request.min_p, request.min_tokens) == (0.0, 0)
        assert request.stop_token_ids == (EOS,)
    assert of_completion.seed != of_chat.seed


async def test_what_is_asked_for_reaches_the_backend(
    client: Client, backend: ScriptedBackend
) -> None:
    sampling = {"temperature": 0, "top_p": 0.5, "min_p": 0.25, "min_tokens": 3, "seed": -7}
    await client.chat(max_completion_tokens=9, top_k=-1, ignore_eos=True, **sampling)
    (request,) = backend.requests
    assert {name: getattr(request, name) for name in sampling} == sampling
    assert (request.max_tokens, request.top_k, request.stop_token_ids) == (9, 0, ())


async def test_a_default_length_is_cut_to_the_context(
    client: Client, backend: ScriptedBackend
) -> None:
    await client.complete(prompt="x" * (MODEL.max_len - 3))
    assert backend.requests[0].max_tokens == 3


async def test_requests_of_one_answer_have_ids_of_their_own(
    client: Client, backend: ScriptedBackend
) -> None:
    await client.complete(prompt=["a", "b"])
    await client.complete(prompt=["a", "b"])
    assert len({request.request_id for request in backend.requests}) == 4


async def test_the_models_are_listed_and_shown(client: Client) -> None:
    listed = await client.get("/v1/models")
    (model,) = listed.body["data"]
    assert listed.body["object"] == "list"
    assert model["id"] == MODEL.name
    assert model["max_model_len"] == MODEL.max_len
    assert (await client.get("/v1/models/horse")).body == model
    assert (await client.get("/v1/models/stable/mule")).error["code"] == "model_not_found"


async def test_the_backends_status_is_told(client: Client) -> None:
    assert (await client.get("/admin/status")).body == {"epoch": 7}
