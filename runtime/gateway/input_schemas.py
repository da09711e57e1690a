"""JSON Schemas of the parameters that have parts: prompts, messages, tools, the form of an answer.

They say what `prompts`, `tools` and `structured` take, for `/openapi.json`. What only those can
tell, as that two functions have different names, stands in no schema; a 400 says it.
"""

from typing import Any

from runtime.gateway.prompts import MAX_CALLS, MAX_MESSAGES, MAX_PROMPTS
from runtime.gateway.structured import MAX_CHOICES
from runtime.gateway.targets import MAX_TARGET_S
from runtime.gateway.tools import MAX_TOOLS

Schema = dict[str, Any]

_STRING: Schema = {"type": "string"}
_TEXT: Schema = {"type": "string", "minLength": 1}
_TOKEN_IDS: Schema = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0},
    "minItems": 1,
}
_ANY_SCHEMA: Schema = {"anyOf": [{"type": "object"}, {"type": "string"}]}


def nullable(schema: Schema) -> Schema:
    """What takes a null as well, which says that something was left out."""
    return {"anyOf": [schema, {"type": "null"}]} if schema else {}


def closed(properties: dict[str, Schema], *required: str, others: Schema | bool = False) -> Schema:
    """An object of these properties and, unless `others` says so, no more."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": others,
    }


PROMPT: Schema = {
    "anyOf": [
        _TEXT,
        _TOKEN_IDS,
        {
            "type": "array",
            "items": {"anyOf": [_TEXT, _TOKEN_IDS]},
            "minItems": 1,
            "maxItems": MAX_PROMPTS,
        },
    ]
}

TOKENS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}}

_TARGET: Schema = {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_TARGET_S}
TARGETS = closed(
    {"ttft": nullable(_TARGET), "tpot": nullable(_TARGET), "refuse": {"type": "boolean"}}
)

_PART = closed({"type": {"const": "text"}, "text": _STRING}, "type", "text", others=True)
_CONTENT: Schema = {"anyOf": [_STRING, {"type": "array", "items": _PART, "minItems": 1}]}
# As much of "the JSON text of an object" as a pattern can say.
_OBJECT_TEXT: Schema = {"type": "string", "pattern": r"^\s*\{[\s\S]*\}\s*$"}
_CALLED = closed({"name": _STRING, "arguments": _OBJECT_TEXT}, "name", "arguments", others=True)
_CALL = closed(
    {"id": _STRING, "type": {"const": "function"}, "function": _CALLED},
    *("id", "type", "function"),
    others=True,
)
_CALLS: Schema = {"type": "array", "items": _CALL, "minItems": 1, "maxItems": MAX_CALLS}
_NOTHING_ELSE: Schema = {"type": "null"}


def _message(roles: list[str], required: tuple[str, ...], **more: Schema) -> Schema:
    said: dict[str, Schema] = {"role": {"enum": roles}, "content": _CONTENT}
    named = {"name": nullable(_STRING)}
    return closed(said | named | more, "role", *required, others=_NOTHING_ELSE)


_ANSWERED = {"refusal": nullable(_STRING)}
MESSAGES: Schema = {
    "type": "array",
    "minItems": 1,
    "maxItems": MAX_MESSAGES,
    "items": {
        "anyOf": [
            _message(["system", "developer", "user"], ("content",)),
            _message(["assistant"], ("content",), tool_calls=nullable(_CALLS), **_ANSWERED),
            _message(
                ["assistant"],
                ("tool_calls",),
                **(_ANSWERED | {"content": nullable(_CONTENT), "tool_calls": _CALLS}),
            ),
            _message(["tool"], ("content", "tool_call_id"), tool_call_id=_STRING),
        ]
    },
}

_NAME: Schema = {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"}
_FUNCTION = closed(
    {
        "name": _NAME,
        "description": nullable(_STRING),
        "parameters": nullable({"type": "object"}),
        "strict": nullable({"type": "boolean"}),
    },
    "name",
)
TOOLS: Schema = {
    "type": "array",
    "items": closed({"type": {"const": "function"}, "function": _FUNCTION}, "type", "function"),
    "maxItems": MAX_TOOLS,
}
TOOL_CHOICE: Schema = {
    "anyOf": [
        {"enum": ["none", "auto", "required"]},
        closed(
            {"type": {"const": "function"}, "function": closed({"name": _NAME}, "name")},
            *("type", "function"),
        ),
    ]
}

_NAMED_SCHEMA = closed(
    {
        "name": _STRING,
        "description": {},
        "schema": _ANY_SCHEMA,
        "strict": nullable({"type": "boolean"}),
    },
    "name",
)
RESPONSE_FORMAT: Schema = {
    "anyOf": [
        closed({"type": {"enum": ["text", "json_object"]}}, "type"),
        closed(
            {"type": {"const": "json_schema"}, "json_schema": _NAMED_SCHEMA},
            *("type", "json_schema"),
        ),
    ]
}

JSON_SCHEMA = _ANY_SCHEMA
PATTERN = _TEXT
CHOICE: Schema = {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_CHOICES}
_BY_KIND: dict[str, Schema] = {
    "json": JSON_SCHEMA,
    "json_object": {"const": True},
    "regex": PATTERN,
    "choice": CHOICE,
    "grammar": PATTERN,
}
STRUCTURED_OUTPUTS: Schema = {
    "anyOf": [
        closed(
            {kind: schema} | {other: {"type": "null"} for other in _BY_KIND if other != kind},
            kind,
        )
        for kind, schema in _BY_KIND.items()
    ]
}
