"""Prompts and messages: what clients send, checked and in plain values, before it is tokenized."""

from typing import Any

from runtime.gateway.errors import refused

MAX_PROMPTS = 128
MAX_MESSAGES = 4096
ROLES = ("system", "developer", "user", "assistant")

Prompt = str | tuple[int, ...]
"""A text that is still to be tokenized, or token ids."""


def read_prompts(value: Any, vocab_size: int) -> list[Prompt]:
    """The prompts of a completion: a string, token ids, or a list of either."""
    if isinstance(value, str):
        return [_text("prompt", value)]
    if not isinstance(value, list) or not value:
        raise refused("prompt", "a string, token ids, or a list of either", value)
    if type(value[0]) is int:
        return [_token_ids(value, vocab_size)]
    if len(value) > MAX_PROMPTS:
        raise refused("prompt", f"at most {MAX_PROMPTS} prompts", f"{len(value)} prompts")
    return [_one(prompt, vocab_size) for prompt in value]


def _one(value: Any, vocab_size: int) -> Prompt:
    if isinstance(value, str):
        return _text("prompt", value)
    if isinstance(value, list):
        return _token_ids(value, vocab_size)
    raise refused("prompt", "each prompt a string or token ids", value)


def _token_ids(value: list[Any], vocab_size: int) -> tuple[int, ...]:
    for token in value:
        if type(token) is not int or not 0 <= token < vocab_size:
            raise refused("prompt", f"token ids from 0 to {vocab_size - 1}", token)
    return tuple(value)


def _text(where: str, text: str) -> str:
    # JSON can carry half of a surrogate pair; it is no character, and no vocabulary knows it.
    try:
        text.encode()
    except UnicodeEncodeError:
        raise refused(where, "text of Unicode characters", "a lone surrogate") from None
    return text


def read_messages(value: Any) -> list[dict[str, str]]:
    """The messages of a chat, as a template takes them."""
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MESSAGES:
        raise refused("messages", f"1 to {MAX_MESSAGES} messages", value)
    return [_message(f"messages[{i}]", message) for i, message in enumerate(value)]


def _message(where: str, message: Any) -> dict[str, str]:
    if not isinstance(message, dict):
        raise refused(where, "an object", message)
    for key in message:
        if key not in ("role", "content", "name") and message[key] is not None:
            raise refused(f"{where}.{key[:64]}", "only role, content and name", message[key])
    if message.get("role") not in ROLES:
        raise refused(f"{where}.role", f"one of {', '.join(ROLES)}", message.get("role"))
    role = "system" if message["role"] == "developer" else message["role"]
    content = _content(f"{where}.content", message.get("content"))
    return {"role": role, "content": content, **_name(f"{where}.name", message.get("name"))}


def _content(where: str, content: Any) -> str:
    if isinstance(content, str):
        return _text(where, content)
    if not isinstance(content, list) or not content:
        raise refused(where, "a string or a list of text parts", content)
    return "".join(_part(f"{where}[{i}]", part) for i, part in enumerate(content))


def _part(where: str, part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise refused(where, "a part of type text", part)
    if not isinstance(part.get("text"), str):
        raise refused(f"{where}.text", "a string", part.get("text"))
    return _text(f"{where}.text", part["text"])


def _name(where: str, name: Any) -> dict[str, str]:
    if name is None:
        return {}
    if not isinstance(name, str):
        raise refused(where, "a string", name)
    return {"name": _text(where, name)}
