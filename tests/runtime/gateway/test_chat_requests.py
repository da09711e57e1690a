"""What a chat may carry beside plain messages, on its way through the template."""

import json
from typing import Any

import pytest

from models.chat_template import ChatTemplate
from models.demo import demo_path
from models.errors import BadTemplate
from models.tokenizer import Tokenizer
from tests.runtime.gateway.scripted import Client, ScriptedBackend

CALL = {"id": "a1", "type": "function", "function": {"name": "look", "arguments": '{"n": 1}'}}


def shown(backend: ScriptedBackend) -> str:
    return bytes(backend.requests[-1].token_ids).decode()


async def test_variables_reach_the_template_and_none_of_its_own_names(
    client: Client, backend: ScriptedBackend
) -> None:
    await client.chat(chat_template_kwargs={"enable_thinking": False})
    assert shown(backend).endswith('{"enable_thinking": false}')
    for name in ("messages", "tools", "add_generation_prompt", "bos_token", "not a name", ""):
        reply = await client.chat(chat_template_kwargs={name: "x"})
        assert (reply.status, reply.error["param"]) == (400, f"chat_template_kwargs.{name}")


async def test_an_answer_may_go_on_from_the_last_message(
    client: Client, backend: ScriptedBackend
) -> None:
    await client.chat(add_generation_prompt=False, continue_final_message=True)
    told = json.loads(shown(backend).removeprefix("user:Hi;"))
    assert told == {"add_generation_prompt": False, "continue_final_message": True}


def test_what_closes_the_last_message_is_left_out_to_continue_it() -> None:
    tokenizer = Tokenizer.from_directory(demo_path())
    messages = [
        {"role": "user", "content": "What is a list?"},
        {"role": "assistant", "content": "A list is "},
    ]
    ids = tokenizer.encode_chat(messages, add_generation_prompt=False, continue_final_message=True)
    text = tokenizer.decode(ids, skip_special_tokens=False)
    assert text.endswith("<|assistant|>A list is")
    with pytest.raises(BadTemplate, match="does not show the last message"):
        tokenizer.encode_chat(
            [{"role": "user", "content": ""}],
            add_generation_prompt=False,
            continue_final_message=True,
        )


async def test_calls_and_their_results_are_messages(
    client: Client, backend: ScriptedBackend
) -> None:
    reply = await client.chat(
        messages=[
            {"role": "user", "content": "look"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "a1", "content": "a barn"},
        ]
    )
    assert reply.status == 200
    assert shown(backend) == "user:look;assistant:;tool:a barn;"


def test_a_template_is_given_calls_with_their_arguments_as_objects() -> None:
    from runtime.gateway.prompts import read_messages

    (message,) = read_messages([{"role": "assistant", "tool_calls": [CALL]}])
    source = "{% for c in messages[0].tool_calls %}{{ c.function.arguments.n }}{% endfor %}"
    assert ChatTemplate(source, {}).render([message]) == "1"


def _calling(**call: Any) -> list[dict[str, Any]]:
    return [{"role": "assistant", "tool_calls": [{**CALL, **call}]}]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "assistant", "tool_calls": []}], "messages[0].tool_calls"),
        ([{"role": "user", "content": "x", "tool_calls": [CALL]}], "messages[0].tool_calls"),
        (_calling(id=5), "messages[0].tool_calls[0]"),
        (_calling(type="other"), "messages[0].tool_calls[0]"),
        (
            _calling(function={"name": "f", "arguments": {}}),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            _calling(function={"name": "f", "arguments": "["}),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (_calling(function={"arguments": "{}"}), "messages[0].tool_calls[0].function.name"),
        ([{"role": "tool", "tool_call_id": "a", "content": None}], "messages[0].content"),
    ],
)
async def test_a_call_that_is_none_is_refused_at_the_place(
    client: Client, messages: Any, param: str
) -> None:
    reply = await client.chat(messages=messages)
    assert (reply.status, reply.error["param"]) == (400, param)
