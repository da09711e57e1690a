"""Functions that a model may call: what a client says of them, checked, and how calls are had.

A model calls by its own words where it may (`auto`), read back by `call_readers`. Where it must
(`required`, or a function by name) a grammar draws the call, so that it is one whatever the model
is like. A template that knows no tools gets them in a system message, in Hermes' words.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from models.grammar import json_grammar, tagged_json_grammar
from runtime.gateway.call_readers import (
    READERS,
    CallReader,
    Format,
    WholeReader,
    required_reader,
)
from runtime.gateway.errors import ApiError, refused

MAX_TOOLS = 128
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ANYTHING = {"type": "object"}

Tool = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """How an answer may call functions.

    Attributes:
        shown: what the template is given.
        reader: makes a reader of calls for each choice; None if there are none to be read.
        grammar: of an answer that must be a call, or whose calls are strict; else empty.
        is_single: whether the first call ends the answer.
        in_own_words: whether calls are in the model's words, which special tokens may be part of.
    """

    shown: tuple[Tool, ...] = ()
    reader: Callable[[], CallReader] | None = None
    grammar: str = ""
    is_single: bool = False
    in_own_words: bool = False


def read_tools(parameters: Mapping[str, Any], style: Format) -> ToolUse:
    """How an answer may call functions, from `tools`, `tool_choice` and `parallel_tool_calls`.

    Raises:
        ApiError: 400, where they are none or contradict one another.
    """
    tools = _tools(parameters.get("tools", []))
    choice = parameters.get("tool_choice", "auto" if tools else "none")
    if not tools:
        if choice not in ("none", "auto"):
            raise refused("tool_choice", '"none" or "auto", as there are no tools', choice)
        return ToolUse()
    is_single = parameters.get("parallel_tool_calls") is False
    match choice:
        case "none":
            return ToolUse()
        case "auto":
            return ToolUse(
                shown=tools,
                reader=READERS[style],
                grammar=_strict_grammar(tools, style),
                is_single=is_single,
                in_own_words=True,
            )
        case "required":
            grammar = json_grammar(_list_schema(tools, is_single=is_single))
            return ToolUse(shown=tools, reader=required_reader, grammar=grammar)
    tool = _chosen(tools, choice)
    name = tool["function"]["name"]
    grammar = json_grammar(_parameters(tool))
    return ToolUse(shown=tools, reader=lambda: WholeReader(name), grammar=grammar)


def find_style(template: str) -> Format:
    """In whose words a model calls, by what its template writes of earlier calls."""
    if "[TOOL_CALLS]" in template:
        return "mistral"
    if "<|python_tag|>" in template or "Environment: ipython" in template:
        return "llama3"
    return "hermes"


def knows_tools(template: str) -> bool:
    """Whether a template shows tools to its model."""
    return "tools" in template


def tools_message(tools: tuple[Tool, ...]) -> str:
    """What a model whose template shows no tools is told of them."""
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return (
        f"You may call these functions:\n<tools>\n{listed}\n</tools>\nFor each call write a JSON "
        'object within tags:\n<tool_call>\n{"name": …, "arguments": …}\n</tool_call>'
    )


# --- what a client says


def _tools(value: Any) -> tuple[Tool, ...]:
    if not isinstance(value, list) or len(value) > MAX_TOOLS:
        raise refused("tools", f"a list of at most {MAX_TOOLS} functions", value)
    tools = tuple(_tool(f"tools[{i}]", tool) for i, tool in enumerate(value))
    names = [tool["function"]["name"] for tool in tools]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise refused(f"tools[{i}].function.name", "names that differ", name)
    return tools


def _tool(where: str, tool: Any) -> Tool:
    if not isinstance(tool, dict) or tool.get("type") != "function" or len(tool) != 2:
        raise refused(where, 'an object of type "function" with a function', tool)
    function = tool.get("function")
    if not isinstance(function, dict):
        raise refused(f"{where}.function", "an object", function)
    kinds: Mapping[str, Any] = {
        "name": str,
        "description": str,
        "parameters": dict,
        "strict": bool,
    }
    for key, value in function.items():
        if key not in kinds:
            raise refused(f"{where}.function.{key[:64]}", f"only {', '.join(kinds)}", value)
        if value is not None and not isinstance(value, kinds[key]):
            raise refused(f"{where}.function.{key}", f"a JSON {kinds[key].__name__}", value)
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise refused(f"{where}.function.name", "1 to 64 letters, digits, _ and -", name)
    return {"type": "function", "function": {k: v for k, v in function.items() if v is not None}}


def _strict_grammar(tools: tuple[Tool, ...], style: Format) -> str:
    """Holds calls to their schemas where one asks for it; empty where none does.

    Hermes' marks say where a call begins and ends, whatever stands around it. The others' words
    have no such marks, or have special tokens for them, which no text of a grammar can be.
    """
    strict = [i for i, tool in enumerate(tools) if tool["function"].get("strict")]
    if not strict:
        return ""
    if style != "hermes":
        where = f"tools[{strict[0]}].function.strict"
        expected = 'false, unless tool_choice is "required" or names one, as this model calls'
        raise refused(where, expected, True)
    calls = [_call_schema(tool, i) for i, tool in enumerate(tools)]
    return tagged_json_grammar({"anyOf": calls}, "<tool_call>", "</tool_call>")


def _call_schema(tool: Tool, place: int) -> dict[str, Any]:
    """One call in Hermes' words; a function that is not strict takes any object."""
    schema = _parameters(tool) if tool["function"].get("strict") else _ANYTHING
    return {
        "type": "object",
        "properties": {
            "name": {"const": tool["function"]["name"]},
            "arguments": _moved(schema, f"#/anyOf/{place}/properties/arguments"),
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _chosen(tools: tuple[Tool, ...], choice: Any) -> Tool:
    match choice:
        case {"type": "function", "function": {"name": str(name), **more}, **rest} if not (
            more or rest
        ):
            for tool in tools:
                if tool["function"]["name"] == name:
                    return tool
    raise refused("tool_choice", '"none", "auto", "required" or a function of the tools', choice)


# --- grammars


def _parameters(tool: Tool) -> dict[str, Any]:
    schema: dict[str, Any] = tool["function"].get("parameters") or _ANYTHING
    return schema


def _list_schema(tools: tuple[Tool, ...], *, is_single: bool) -> dict[str, Any]:
    """A list of calls: OpenAI's words for what a model is to write where it must call."""
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool["function"]["name"]},
                "parameters": _moved(_parameters(tool), f"#/items/anyOf/{i}/properties/parameters"),
            },
            "required": ["name", "parameters"],
            "additionalProperties": False,
        }
        for i, tool in enumerate(tools)
    ]
    bounds = {"minItems": 1, **({"maxItems": 1} if is_single else {})}
    return {"type": "array", "items": {"anyOf": calls}, **bounds}


def _moved(schema: Any, to: str) -> Any:
    """A schema as part of another: what it refers to in itself is elsewhere now."""
    if isinstance(schema, list):
        return [_moved(part, to) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: to + value[1:]
        if key == "$ref" and isinstance(value, str) and value.startswith("#")
        else _moved(value, to)
        for key, value in schema.items()
    }


def check_unmixed(use: ToolUse, structured: str) -> None:
    """Refuse an answer that is to be of some form and may be a call as well."""
    if structured and use.reader is not None:
        raise ApiError(
            400, f'{structured}: not with tools, or with tool_choice="none"', param=structured
        )
