"""Prompts and messages: from what clients send to token ids."""

from collections.abc import Sequence
from typing import Any, Protocol

from models.errors import ModelError
from runtime.gateway.errors import ApiError, refused

MAX_PROMPTS = 128
MAX_MESSAGES = 4096
ROLES = ("system", "developer", "user", "assistant", "tool")


class Detokenizer(Protocol):
    """Tokens to text as they come."""

    def push(self, token_ids: Sequence[int]) -> str:
        """Take tokens; the text that is now certain."""
        ...

    def flush(self) -> str:
        """The text of what was held back."""
        ...


class Tokenizer(Protocol):
    """What the gateway needs of a model's tokenizer."""

    @property
    def vocab_size(self) -> int:
        """One more than the highest token id."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt."""
        ...

    def encode_chat(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """Token ids of a chat."""
        ...

    def detokenizer(self, prompt_ids: Sequence[int]) -> Detokenizer:
        """A detokenizer for what follows a prompt."""
        ...


def read_prompts(value: Any, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """The prompts of a completion: a string, token ids, or a list of either."""
    if isinstance(value, str):
        return [_encode(value, tokenizer)]
    if not isinstance(value, list) or not value:
        raise refused("prompt", "a string, token ids, or a list of either", value)
    if type(value[0]) is int:
        return [_token_ids(value, tokenizer)]
    if len(value) > MAX_PROMPTS:
        raise refused("prompt", f"at most {MAX_PROMPTS} prompts", f"{len(value)} prompts")
    return [_one(prompt, tokenizer) for prompt in value]


def _one(value: Any, tokenizer: Tokenizer) -> tuple[int, ...]:
    if isinstance(value, str):
        return _encode(value, tokenizer)
    if isinstance(value, list):
        return _token_ids(value, tokenizer)
    raise refused("prompt", "each prompt a string or token ids", value)


def _encode(text: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise refused("prompt", "text of Unicode characters", "a lone surrogate") from None
    return _not_empty("prompt", tokenizer.encode(text))


def _token_ids(value: list[Any], tokenizer: Tokenizer) -> tuple[int, ...]:
    for token in value:
        if type(token) is not int or not 0 <= token < tokenizer.vocab_size:
            raise refused("prompt", f"token ids from 0 to {tokenizer.vocab_size - 1}", token)
    return _not_empty("prompt", value)


def _not_empty(param: str, token_ids: list[int]) -> tuple[int, ...]:
    if not token_ids:
        raise ApiError(400, f"{param}: expected at least one token, got none", param=param)
    return tuple(token_ids)


def read_messages(value: Any, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The token ids of a chat."""
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MESSAGES:
        raise refused("messages", f"1 to {MAX_MESSAGES} messages", value)
    messages = [_message(f"messages[{i}]", message) for i, message in enumerate(value)]
    try:
        return _not_empty("messages", tokenizer.encode_chat(messages))
    except (ModelError, UnicodeEncodeError) as error:
        raise ApiError(400, f"messages: {error}", param="messages") from None


def _message(where: str, message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise refused(where, "an object", message)
    for key in message:
        if key not in ("role", "content", "name") and message[key] is not None:
            raise refused(f"{where}.{key[:64]}", "only role, content and name", message[key])
    if message.get("role") not in ROLES:
        raise refused(f"{where}.role", f"one of {', '.join(ROLES)}", message.get("role"))
    role = "system" if message["role"] == "developer" else message["role"]
    content = _content(f"{where}.content", message.get("content"))
    named = {"name": message["name"]} if isinstance(message.get("name"), str) else {}
    return {"role": role, "content": content, **named}


def _content(where: str, content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise refused(where, "a string or a list of text parts", content)
    return "".join(_part(f"{where}[{i}]", part) for i, part in enumerate(content))


def _part(where: str, part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise refused(where, "a part of type text", part)
    if not isinstance(part.get("text"), str):
        raise refused(f"{where}.text", "a string", part.get("text"))
    return str(part["text"])
