"""The forms in which clients say what an answer must look like."""

from typing import Any

import pytest

from models.grammar import (
    choice_grammar,
    json_grammar,
    lark_grammar,
    regex_grammar,
)
from tests.runtime.gateway.scripted import (
    CHAT,
    COMPLETIONS,
    AnyGrammar,
    Client,
    ScriptedBackend,
    chat,
    completion,
    gateway,
)

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
NAMED = {"name": "thing", "schema": SCHEMA, "strict": True}
FORMS: list[tuple[dict[str, Any], str]] = [
    ({"response_format": {"type": "text"}}, ""),
    ({"response_format": {"type": "json_object"}}, json_grammar({"type": "object"})),
    ({"response_format": {"type": "json_schema", "json_schema": NAMED}}, json_grammar(SCHEMA)),
    ({"structured_outputs": {"json": SCHEMA}}, json_grammar(SCHEMA)),
    ({"structured_outputs": {"json_object": True}}, json_grammar({"type": "object"})),
    ({"structured_outputs": {"regex": "a+", "json": None}}, regex_grammar("a+")),
    ({"structured_outputs": {"choice": ["a", "b"]}}, choice_grammar(["a", "b"])),
    ({"structured_outputs": {"grammar": 'start: "a"'}}, lark_grammar('start: "a"')),
    ({"guided_json": SCHEMA}, json_grammar(SCHEMA)),
    ({"guided_json": '{"type": "object"}'}, json_grammar({"type": "object"})),
    ({"guided_regex": "a+"}, regex_grammar("a+")),
    ({"guided_choice": ["a", "b"]}, choice_grammar(["a", "b"])),
    ({"guided_grammar": 'start: "a"'}, lark_grammar('start: "a"')),
]


@pytest.mark.parametrize(("path", "body"), [(CHAT, chat()), (COMPLETIONS, completion())])
@pytest.mark.parametrize(("form", "grammar"), FORMS)
async def test_every_form_of_a_structured_answer_is_one_grammar(
    backend: ScriptedBackend,
    path: str,
    body: dict[str, Any],
    form: dict[str, Any],
    grammar: str,
) -> None:
    grammars = AnyGrammar()
    async with gateway(backend, grammars=grammars) as client:
        assert (await client.send("POST", path, json=body | form)).status == 200
    assert backend.requests[0].extras.grammar == grammar
    assert grammars.seen == ([grammar] if grammar else [])


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"response_format": {"type": "x"}}, "response_format"),
        ({"response_format": {}}, "response_format"),
        ({"response_format": {"type": "json_object", "x": 1}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
            "response_format.json_schema.name",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": NAMED | {"schema": 5}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": NAMED | {"strict": 5}}},
            "response_format.json_schema.strict",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": NAMED | {"more": 5}}},
            "response_format.json_schema.more",
        ),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs"),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs.json_object"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"guided_json": 5}, "guided_json"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_choice": ["a", 5]}, "guided_choice"),
        ({"guided_choice": [""]}, "guided_choice"),
        ({"guided_regex": ""}, "guided_regex"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos"),
        ({"guided_regex": "a", "min_tokens": 2}, "min_tokens"),
        (
            {"guided_regex": "a", "tools": [{"type": "function", "function": {"name": "f"}}]},
            "guided_regex",
        ),
    ],
)
async def test_what_is_no_form_or_contradicts_another_parameter_is_refused_at_the_place(
    client: Client, backend: ScriptedBackend, form: dict[str, Any], param: str
) -> None:
    reply = await client.chat(**form)
    assert (reply.status, reply.error["param"]) == (400, param)
    assert backend.requests == []


async def test_a_grammar_that_cannot_be_made_is_refused_with_the_reason(
    backend: ScriptedBackend,
) -> None:
    async with gateway(backend, grammars=AnyGrammar("unclosed group")) as client:
        reply = await client.complete(guided_regex="(")
    assert (reply.status, reply.error["param"]) == (400, "guided_regex")
    assert "unclosed group" in reply.error["message"]
    assert backend.requests == []
