"""What one request may ask for at most, as the operator sets it: checked on the plain body.

The one idea: these are looked at before anything is read, copied or compiled, and see only size
and number. A value of another type passes, since the parameters' own readers refuse it in words.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from runtime.gateway.errors import ApiError

COUNTS = {"n": "max_n", "best_of": "max_n", "logprobs": "max_logprobs"}
COUNTS |= {"top_logprobs": "max_logprobs", "prompt_logprobs": "max_logprobs"}
PATTERNS = ("guided_regex", "guided_grammar")
SCHEMAS = ("guided_json", "guided_choice", "response_format", "structured_outputs", "tools")
KEYS_OF_PATTERNS = ("pattern", "regex", "grammar")
EMPTY_DEPTH = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The bounds of one request.

    Attributes:
        max_prompt_tokens: of each prompt; 0 for what the context holds.
        max_prompts: prompts of a completion.
        max_messages: messages of a chat.
        max_n: choices of each prompt.
        max_logprobs: alternatives shown for a token.
        max_stops: stop strings.
        max_stop_characters: characters of each.
        max_regex_characters: characters of a pattern or grammar.
        max_schema_bytes: bytes of a JSON schema, of tools, of a response format.
        max_schema_depth: how deep these are nested.
        max_queue_s: seconds a request may wait for its turn, and the most its `timeout` may be.
    """

    max_prompt_tokens: int = 0
    max_prompts: int = 128
    max_messages: int = 4096
    max_n: int = 128
    max_logprobs: int = 20
    max_stops: int = 4
    max_stop_characters: int = 512
    max_regex_characters: int = 4096
    max_schema_bytes: int = 65536
    max_schema_depth: int = 32
    max_queue_s: float = 600.0

    def check_body(self, body: dict[str, Any]) -> None:
        """Raise `ApiError` 400 for what a body has too much of."""
        for name, bound in COUNTS.items():
            self._check(name, body.get(name), getattr(self, bound))
        self._check("prompt", _num_prompts(body.get("prompt")), self.max_prompts, "prompts")
        self._check("messages", _len(body.get("messages")), self.max_messages, "messages")
        self._check_stops(body.get("stop"))
        for name in PATTERNS:
            self._check_text(name, body.get(name), self.max_regex_characters)
        for name in SCHEMAS:
            self._check_schema(name, body.get(name))

    def check_prompt(self, num_tokens: int, param: str) -> None:
        """Raise `ApiError` 400 for a prompt that is too long."""
        if self.max_prompt_tokens and num_tokens > self.max_prompt_tokens:
            message = (
                f"{param}: at most {self.max_prompt_tokens} tokens are taken, "
                f"but the prompt has {num_tokens}"
            )
            raise ApiError(400, message, param=param, code="context_length_exceeded")

    def _check(self, name: str, value: Any, bound: int, what: str = "") -> None:
        if type(value) is int and value > bound:
            raise _too_much(name, f"{bound} {what}".rstrip(), str(value)[:40])

    def _check_text(self, name: str, value: Any, bound: int) -> None:
        if isinstance(value, str) and len(value) > bound:
            raise _too_much(name, f"{bound} characters", str(len(value)))

    def _check_stops(self, value: Any) -> None:
        if value is None:
            return
        texts = value if isinstance(value, list) else [value]
        self._check("stop", len(texts), self.max_stops, "stop strings")
        for text in texts:
            self._check_text("stop", text, self.max_stop_characters)

    def _check_schema(self, name: str, value: Any) -> None:
        if isinstance(value, str):
            self._check_bytes(name, value)
            value = _schema_in(value)
        if isinstance(value, (dict, list)):
            self._check_tree(name, value)

    def _check_tree(self, name: str, value: Any) -> None:
        depth = depth_of(value, self.max_schema_depth + EMPTY_DEPTH)
        self._check(name, depth, self.max_schema_depth, "levels")
        self._check_bytes(name, json.dumps(value, ensure_ascii=False))
        for key, text in _texts(value):
            if key in KEYS_OF_PATTERNS:
                self._check_text(f"{name}.{key}", text, self.max_regex_characters)
        if isinstance(value, dict) and isinstance(value.get("json"), str):
            self._check_schema(f"{name}.json", value["json"])

    def _check_bytes(self, name: str, text: str) -> None:
        num_bytes = len(text.encode("utf-8", "surrogatepass"))
        self._check(name, num_bytes, self.max_schema_bytes, "bytes")


def depth_of(value: Any, enough: int) -> int:
    """How deep lists and objects are nested, counted no further than `enough`."""
    level, depth = [value], 0
    while level and depth < enough:
        level = [child for item in level for child in _children(item)]
        depth += 1
    return depth


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    """Every text and its key; only for what was found to be shallow."""
    items = value.items() if isinstance(value, dict) else (("", item) for item in value)
    for key, item in items:
        if key == "patternProperties" and isinstance(item, dict):
            yield from (("pattern", pattern) for pattern in item)
        if isinstance(item, str):
            yield key, item
        elif isinstance(item, (dict, list)):
            yield from _texts(item)


def _schema_in(text: str) -> Any:
    """What a schema in text is, or None: its reader refuses what is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _num_prompts(value: Any) -> int | None:
    """A list of numbers is one prompt."""
    return len(value) if isinstance(value, list) and value and type(value[0]) is not int else None


def _len(value: Any) -> int | None:
    return len(value) if isinstance(value, list) else None


def _too_much(name: str, bound: str, got: str) -> ApiError:
    return ApiError(400, f"{name}: expected at most {bound}, got {got}", param=name)
