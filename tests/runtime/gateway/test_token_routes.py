"""Tokens by themselves, and what the service says of itself."""

from typing import Any

import pytest

from tests.runtime.gateway.scripted import EOS, MODEL, VOCAB_SIZE, Client, ScriptedBackend, gateway
from tests.runtime.gateway.test_shaped_requests import Remembering

MESSAGES = [{"role": "user", "content": "Hi"}]


async def post(client: Client, path: str, **body: Any) -> Any:
    return await client.send("POST", path, json=body)


async def test_a_text_becomes_tokens_and_back(client: Client) -> None:
    reply = await post(client, "/tokenize", model="horse", prompt="hé", return_token_strs=True)
    assert reply.body == {
        "count": 3,
        "max_model_len": MODEL.max_len,
        "tokens": list("hé".encode()),
        "token_strs": ["h", "�", "�"],
    }
    assert (await post(client, "/tokenize", prompt="h")).body["token_strs"] is None
    again = await post(client, "/detokenize", tokens=reply.body["tokens"])
    assert again.body == {"prompt": "hé"}


async def test_a_chat_becomes_tokens(client: Client) -> None:
    tool = {"type": "function", "function": {"name": "go"}}
    reply = await post(
        client,
        "/tokenize",
        messages=MESSAGES,
        tools=[tool],
        chat_template_kwargs={"mood": "calm"},
        add_generation_prompt=False,
    )
    text = bytes(reply.body["tokens"]).decode()
    assert text.startswith("user:Hi;")
    assert '"mood": "calm"' in text
    assert '"add_generation_prompt": false' in text
    assert '"name": "go"' in text


async def test_the_tokens_that_open_a_prompt_may_be_left_out(backend: ScriptedBackend) -> None:
    tokenizer = Remembering()
    async with gateway(backend, tokenizer=tokenizer) as client:
        await post(client, "/tokenize", prompt="a", add_special_tokens=False)
        await post(client, "/tokenize", prompt="a")
    assert tokenizer.asked == [("encode", False), ("encode", True)]


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", {}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, 400, "prompt"),
        ("/tokenize", {"prompt": ["a"]}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "wibble": 1}, 400, "wibble"),
        ("/tokenize", {"prompt": "a", "model": "mule"}, 404, "model"),
        ("/detokenize", {}, 400, "tokens"),
        ("/detokenize", {"tokens": "a"}, 400, "tokens"),
        ("/detokenize", {"tokens": [VOCAB_SIZE]}, 400, "tokens"),
        ("/detokenize", {"tokens": [1.0]}, 400, "tokens"),
    ],
)
async def test_what_is_no_such_request_is_refused_by_name(
    client: Client, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    reply = await post(client, path, **body)
    assert (reply.status, reply.error["param"]) == (status, param)


async def test_the_service_tells_its_version_its_tokenizer_and_whether_it_is_ready(
    client: Client, backend: ScriptedBackend
) -> None:
    assert (await client.get("/version")).body == {"version": "1.2.3"}
    info = (await client.get("/tokenizer_info")).body
    assert (info["vocab_size"], info["eos_token_ids"]) == (VOCAB_SIZE, [EOS])
    assert info["tool_call_format"] == "hermes"
    assert (await client.get("/ready")).status == 200
    backend.missing = "stage 1 is loading"
    reply = await client.get("/ready")
    assert reply.status == 503
    assert reply.body["reason"] == "stage 1 is loading"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "a", "tools": []}, "tools"),
        ({"prompt": "a", "chat_template_kwargs": {}}, "chat_template_kwargs"),
        ({"prompt": "a", "add_generation_prompt": True}, "add_generation_prompt"),
        ({"messages": MESSAGES, "add_special_tokens": True}, "add_special_tokens"),
    ],
)
async def test_what_is_said_of_the_other_form_is_refused(
    client: Client, body: dict[str, Any], param: str
) -> None:
    reply = await post(client, "/tokenize", **body)
    assert (reply.status, reply.error["param"]) == (400, param)
