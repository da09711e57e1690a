"""Prompts and messages: what clients send, checked and in plain values, before it is tokenized."""

import json
from collections.abc import Mapping
from typing import Any

from runtime.gateway.errors import refused

MAX_PROMPTS = 128
MAX_MESSAGES = 4096
MAX_CALLS = 128
ROLES = ("system", "developer", "user", "assistant", "tool")
_MORE_OF: Mapping[str, tuple[str, ...]] = {
    "assistant": ("tool_calls", "refusal"),
    "tool": ("tool_call_id",),
}

Message = dict[str, Any]
"""A message as a template takes it."""

Prompt = str | tuple[int, ...]
"""A text that is still to be tokenized, or token ids."""


def read_prompts(value: Any, vocab_size: int) -> list[Prompt]:
    """The prompts of a completion: a string, token ids, or a list of either."""
    if isinstance(value, str):
        return [_text("prompt", value)]
    if not isinstance(value, list) or not value:
        raise refused("prompt", "a string, token ids, or a list of either", value)
    if type(value[0]) is int:
        return [read_token_ids("prompt", value, vocab_size)]
    if len(value) > MAX_PROMPTS:
        raise refused("prompt", f"at most {MAX_PROMPTS} prompts", f"{len(value)} prompts")
    return [_one(prompt, vocab_size) for prompt in value]


def _one(value: Any, vocab_size: int) -> Prompt:
    if isinstance(value, str):
        return _text("prompt", value)
    if isinstance(value, list):
        return read_token_ids("prompt", value, vocab_size)
    raise refused("prompt", "each prompt a string or token ids", value)


def read_token_ids(name: str, value: Any, vocab_size: int) -> tuple[int, ...]:
    """A list of token ids, each of which has a text."""
    if not isinstance(value, list):
        raise refused(name, "a list of token ids", value)
    for token in value:
        if type(token) is not int or not 0 <= token < vocab_size:
            raise refused(name, f"token ids from 0 to {vocab_size - 1}", token)
    return tuple(value)


def _text(where: str, text: str) -> str:
    # JSON can carry half of a surrogate pair; it is no character, and no vocabulary knows it.
    try:
        text.encode()
    except UnicodeEncodeError:
        raise refused(where, "text of Unicode characters", "a lone surrogate") from None
    return text


def read_messages(value: Any) -> list[Message]:
    """The messages of a chat, as a template takes them."""
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MESSAGES:
        raise refused("messages", f"1 to {MAX_MESSAGES} messages", value)
    return [_message(f"messages[{i}]", message) for i, message in enumerate(value)]


def _message(where: str, message: Any) -> Message:
    role = _role(where, message)
    found: Message = {"role": "system" if role == "developer" else role, **_said(where, message)}
    for key in ("name", "tool_call_id"):
        if message.get(key) is not None:
            found[key] = _string(f"{where}.{key}", message[key])
    if role == "tool" and "tool_call_id" not in found:
        raise refused(f"{where}.tool_call_id", "a string", None)
    if message.get("refusal") is not None:
        found["content"] += _string(f"{where}.refusal", message["refusal"])
    return found


def _role(where: str, message: Any) -> str:
    """Whose message it is, once it has no field that such a one has not."""
    if not isinstance(message, dict):
        raise refused(where, "an object", message)
    role = message.get("role")
    if role not in ROLES:
        raise refused(f"{where}.role", f"one of {', '.join(ROLES)}", role)
    allowed = ("role", "content", "name", *_MORE_OF.get(role, ()))
    for key in message:
        if key not in allowed and message[key] is not None:
            raise refused(f"{where}.{key[:64]}", f"only {', '.join(allowed)}", message[key])
    return str(role)


def _said(where: str, message: dict[str, Any]) -> dict[str, Any]:
    """Its text, which may be missing beside calls, and these."""
    calls, content = message.get("tool_calls"), message.get("content")
    if calls is None:
        return {"content": _content(f"{where}.content", content)}
    text = "" if content is None else _content(f"{where}.content", content)
    return {"content": text, "tool_calls": _calls(f"{where}.tool_calls", calls)}


def _calls(where: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_CALLS:
        raise refused(where, f"1 to {MAX_CALLS} calls", value)
    return [_call(f"{where}[{i}]", call) for i, call in enumerate(value)]


def _call(where: str, call: Any) -> dict[str, Any]:
    """A call as templates take it: its arguments are an object, not a text of one."""
    match call:
        case {"id": str(name), "type": "function", "function": dict(function)}:
            pass
        case _:
            raise refused(where, "an object with id, type and function", call)
    called = _string(f"{where}.function.name", function.get("name"))
    arguments = _string(f"{where}.function.arguments", function.get("arguments"))
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise refused(f"{where}.function.arguments", "the JSON text of an object", arguments)
    function = {"name": called, "arguments": found}
    return {"id": _text(f"{where}.id", name), "type": "function", "function": function}


def _content(where: str, content: Any) -> str:
    if isinstance(content, str):
        return _text(where, content)
    if not isinstance(content, list) or not content:
        raise refused(where, "a string or a list of text parts", content)
    return "".join(_part(f"{where}[{i}]", part) for i, part in enumerate(content))


def _part(where: str, part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise refused(where, "a part of type text", part)
    return _string(f"{where}.text", part.get("text"))


def _string(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise refused(where, "a string", value)
    return _text(where, value)


RESERVED = frozenset(
    {
        *("messages", "tools", "documents", "add_generation_prompt", "continue_final_message"),
        *("raise_exception", "strftime_now"),
    }
)
"""Names that a template is given by us."""


def read_variables(value: dict[str, Any]) -> dict[str, Any]:
    """Variables for a chat template: none that it has from elsewhere."""
    for name in value:
        shown = f"chat_template_kwargs.{name[:64]}"
        if name in RESERVED or name.endswith("_token") or not name.isidentifier():
            raise refused(shown, "a name that the service does not set", name)
    return value
