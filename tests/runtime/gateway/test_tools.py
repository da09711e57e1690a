"""Functions that a model may or must call, from the request to the official client's eyes."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import openai
import pytest

from models.demo import demo_path
from models.grammar import GrammarMasks
from models.tokenizer import Tokenizer
from runtime.gateway.tools import find_style
from tests.runtime.gateway.demo_backend import EOS, VOCAB
from tests.runtime.gateway.scripted import (
    CHAT,
    MODEL,
    PATIENCE_S,
    ByteTokenizer,
    Client,
    ScriptedBackend,
    chat,
    gateway,
    says,
)

ROOMY = replace(MODEL, max_len=2000)  # tools are long, and here every byte is a token
PARAMETERS = {"type": "object", "properties": {"n": {"type": "integer"}}}
LOOK: Any = {"type": "function", "function": {"name": "look", "parameters": PARAMETERS}}
GO: Any = {"type": "function", "function": {"name": "go", "description": "Go on."}}
TOOLS = [LOOK, GO]
NAMED = {"type": "function", "function": {"name": "look"}}
OBJECT = '{"name": "look", "arguments": {"n": 1}}'


@pytest.fixture
async def client(backend: ScriptedBackend) -> AsyncIterator[Client]:
    async with gateway(backend, model=ROOMY) as client:
        yield client


class Templated(ByteTokenizer):
    def __init__(self, template: str) -> None:
        self.template_source = template


WORDS = {
    "{{ tools }} <tool_call>": f"<tool_call>\n{OBJECT}\n</tool_call>",
    "{{ tools }} <|python_tag|>": '{"name": "look", "parameters": {"n": 1}}',
    "{{ tools }} [TOOL_CALLS]": f"[TOOL_CALLS] [{OBJECT}]",
}


@pytest.mark.parametrize(("template", "text"), WORDS.items())
async def test_a_call_in_each_models_own_words_is_a_call(
    backend: ScriptedBackend, template: str, text: str
) -> None:
    backend.script = says(*text)
    async with gateway(backend, tokenizer=Templated(template), model=ROOMY) as client:
        (choice,) = (await client.chat(tools=TOOLS)).body["choices"]
        *chunks, done = await client.events(CHAT, chat(tools=TOOLS))
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert (call["type"], call["function"]) == (
        "function",
        {"name": "look", "arguments": '{"n": 1}'},
    )
    assert len(call["id"]) == 9
    assert choice["message"]["content"] is None
    deltas = [c for chunk in chunks for c in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert deltas[0]["function"]["name"] == "look"
    assert "".join(delta["function"]["arguments"] for delta in deltas) == '{"n": 1}'
    assert len(deltas) > 3
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert done == "[DONE]"


async def test_tools_reach_the_template_or_a_system_message(backend: ScriptedBackend) -> None:
    for template, begins in [("{{ tools }}", "user:Hi;"), ("", "system:You may call")]:
        async with gateway(backend, tokenizer=Templated(template), model=ROOMY) as client:
            assert (await client.chat(tools=TOOLS)).status == 200
            shown = bytes(backend.requests[-1].token_ids).decode()
            assert shown.startswith(begins)
            assert '"name": "look"' in shown
    async with gateway(backend, tokenizer=Templated(""), model=ROOMY) as client:
        messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
        await client.chat(tools=TOOLS, messages=messages)
    assert bytes(backend.requests[-1].token_ids).decode().startswith("system:Be kind.\n\nYou may")


async def test_no_tools_are_shown_where_none_may_be_called(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = says(f"<tool_call>{OBJECT}</tool_call>")
    (choice,) = (await client.chat(tools=TOOLS, tool_choice="none")).body["choices"]
    assert choice["message"]["content"] == f"<tool_call>{OBJECT}</tool_call>"
    assert choice["finish_reason"] == "stop"
    assert b"look" not in bytes(backend.requests[-1].token_ids)


@pytest.mark.parametrize(
    ("tool_choice", "text"),
    [("required", '[{"name": "look", "parameters": {"n": 1}}]'), (NAMED, '{"n": 1}')],
)
async def test_a_call_that_is_required_is_drawn_by_a_grammar(
    client: Client, backend: ScriptedBackend, tool_choice: Any, text: str
) -> None:
    backend.script = says(*text)
    (choice,) = (await client.chat(tools=TOOLS, tool_choice=tool_choice)).body["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "look", "arguments": '{"n": 1}'}
    assert choice["finish_reason"] == "tool_calls"
    schema = json.loads(backend.requests[0].extras.grammar)["grammars"][0]["json_schema"]
    assert schema["type"] == ("array" if tool_choice == "required" else "object")


async def test_where_calls_may_not_be_parallel_the_first_ends_the_answer(
    client: Client, backend: ScriptedBackend
) -> None:
    twice = f"<tool_call>{OBJECT}</tool_call>" * 2
    backend.script = says(*twice)
    both = (await client.chat(tools=TOOLS)).body["choices"][0]
    assert len(both["message"]["tool_calls"]) == 2
    assert len({call["id"] for call in both["message"]["tool_calls"]}) == 2
    (choice,) = (await client.chat(tools=TOOLS, parallel_tool_calls=False)).body["choices"]
    assert len(choice["message"]["tool_calls"]) == 1
    assert choice["finish_reason"] == "tool_calls"
    assert backend.streams[-1].closed.is_set()
    await client.chat(tools=TOOLS, parallel_tool_calls=False, tool_choice="required")
    assert '"maxItems":1' in backend.requests[-1].extras.grammar.replace(" ", "")


async def test_an_answer_that_calls_nothing_is_text(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = says("just", " <b>text</b>")
    (choice,) = (await client.chat(tools=TOOLS)).body["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": "just <b>text</b>",
        "refusal": None,
    }
    assert choice["finish_reason"] == "stop"


async def test_a_call_that_is_cut_off_says_so(client: Client, backend: ScriptedBackend) -> None:
    backend.script = says('<tool_call>{"name": "look", "arguments": {"n"', reason="length")
    (choice,) = (await client.chat(tools=TOOLS)).body["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"n"'


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **function}}


STRICT: Any = {
    "type": "function",
    "function": {
        "name": "look",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"n": {"$ref": "#/$defs/few"}},
            "required": ["n"],
            "additionalProperties": False,
            "$defs": {"few": {"type": "integer", "minimum": 0, "maximum": 9}},
        },
    },
}


def allows(grammar: str, text: str) -> bool:
    """Whether a model could write this, a token at a time, and then end."""
    vocabulary = demo_path() / "tokenizer.json"
    masks = GrammarMasks(vocabulary, VOCAB, [EOS])
    token_ids = Tokenizer.from_directory(demo_path()).encode(text, add_special_tokens=False)
    written = np.array([*token_ids, EOS], dtype=np.int32)
    return all(
        masks.allowed(grammar, 0, written[:place])[token] for place, token in enumerate(written)
    )


def call_of(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


async def test_a_call_that_may_be_is_held_to_a_schema_that_is_strict(
    client: Client, backend: ScriptedBackend
) -> None:
    assert (await client.chat(tools=[STRICT, GO])).status == 200
    grammar = backend.requests[0].extras.grammar
    good = call_of("look", '{"n": 3}')
    assert allows(grammar, "I do not call, as 1 < 2 <tool")
    assert allows(grammar, f"I look. {good}")
    assert allows(grammar, good + call_of("go", '{"far": [1]}') + " and so on")
    assert not allows(grammar, call_of("look", '{"n": 10}'))
    assert not allows(grammar, call_of("look", "{}"))
    assert not allows(grammar, call_of("leave", "{}"))
    assert not allows(grammar, "<tool_call>anything</tool_call>")
    assert not allows(grammar, good.removesuffix("</tool_call>"))


async def test_where_no_function_is_strict_calls_are_free(
    client: Client, backend: ScriptedBackend
) -> None:
    assert (await client.chat(tools=[tool(strict=False), GO])).status == 200
    assert backend.requests[0].extras.grammar == ""


@pytest.mark.parametrize("template", ["{{ tools }} <|python_tag|>", "{{ tools }} [TOOL_CALLS]"])
async def test_what_cannot_be_held_to_is_refused_where_calls_are_in_other_words(
    backend: ScriptedBackend, template: str
) -> None:
    async with gateway(backend, tokenizer=Templated(template), model=ROOMY) as client:
        reply = await client.chat(tools=[GO, STRICT])
    assert (reply.status, reply.error["param"]) == (400, "tools[1].function.strict")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": [tool()] * 129}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": 5}]}, "tools[0].function"),
        ({"tools": [tool(name="a b")]}, "tools[0].function.name"),
        ({"tools": [tool(), tool()]}, "tools[1].function.name"),
        ({"tools": [tool(parameters=5)]}, "tools[0].function.parameters"),
        ({"tools": [tool(wibble=5)]}, "tools[0].function.wibble"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": NAMED}, "tool_choice"),
        ({"tools": [GO], "tool_choice": NAMED}, "tool_choice"),
        ({"tools": [GO], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [GO], "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tools": [GO], "response_format": {"type": "json_object"}}, "response_format"),
    ],
)
async def test_tools_that_are_none_are_refused_at_the_place(
    client: Client, backend: ScriptedBackend, body: dict[str, Any], param: str
) -> None:
    reply = await client.chat(**body)
    assert (reply.status, reply.error["param"]) == (400, param)
    assert backend.requests == []


@pytest.mark.parametrize("value", ["none", "auto"])
async def test_a_choice_of_tools_where_there_are_none_asks_for_nothing(
    client: Client, value: str
) -> None:
    assert (await client.chat(tools=[], tool_choice=value)).status == 200


def test_a_model_calls_in_the_words_of_its_template() -> None:
    assert find_style("{% for t in tools %}<tool_call>{% endfor %}") == "hermes"
    assert find_style("Environment: ipython") == "llama3"
    assert find_style("[AVAILABLE_TOOLS][TOOL_CALLS]") == "mistral"


async def test_the_official_client_sees_calls_whole_and_streamed(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.script = says(*f"so: <tool_call>{OBJECT}</tool_call>")
    messages: Any = [{"role": "user", "content": "Hi"}]
    tools: Any = TOOLS
    async with openai.AsyncOpenAI(
        base_url=client.url + "/v1", api_key="none", max_retries=0, timeout=PATIENCE_S
    ) as official:
        whole = await official.chat.completions.create(
            model=MODEL.name, messages=messages, tools=tools
        )
        async with official.chat.completions.stream(
            model=MODEL.name, messages=messages, tools=tools
        ) as stream:
            streamed = await stream.get_final_completion()
    for message in (whole.choices[0].message, streamed.choices[0].message):
        assert message.content == "so: "
        assert message.tool_calls is not None
        assert message.tool_calls[0].type == "function"
        assert message.tool_calls[0].function.name == "look"
        assert json.loads(message.tool_calls[0].function.arguments) == {"n": 1}
