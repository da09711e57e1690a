"""Every parameter of OpenAI's schema, and what becomes of it: honoured, harmless, or refused.

One table an endpoint. What is honoured has a reader; what is harmless changes nothing that a client
could see; what is `off` is taken only at the values that ask for nothing; everything else, known to
OpenAI or not, is refused by name. No parameter is ever ignored in silence.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from runtime.gateway.errors import ApiError, refused
from runtime.gateway.values import (
    Reader,
    boolean,
    integer,
    number,
    stops,
    stream_options,
    string,
    top_k,
)

MAX_INT = (1 << 63) - 1
MAX_NEW_TOKENS = 1 << 24

SAMPLING: Mapping[str, Reader] = {
    "model": string,
    "max_tokens": integer(1, MAX_NEW_TOKENS),
    "temperature": number(0, 2),
    "top_p": number(0, 1, open_low=True),
    "top_k": top_k,
    "min_p": number(0, 1),
    "seed": replace(integer(-MAX_INT - 1, MAX_INT), expected="a whole number of 64 bits, signed"),
    "stop": stops,
    "min_tokens": integer(0, MAX_NEW_TOKENS),
    "ignore_eos": boolean,
    "stream": boolean,
    "stream_options": stream_options,
}

# What is in them is read by `prompts`, which can say which part of it is wrong.
_PROMPT = Reader("a string, token ids, or a list of either", lambda value: True)
_MESSAGES = Reader("a list of messages", lambda value: True)

HARMLESS = frozenset({"user", "metadata", "safety_identifier"})
"""Labels for a provider's own records; we keep none."""

_ANY_OFF: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The parameters of one endpoint: readers, and the values at which others ask for nothing.

    A null asks for nothing everywhere. `known` are refused like unknown ones, but in other words.
    """

    honoured: Mapping[str, Reader]
    off: Mapping[str, tuple[Any, ...]]
    known: frozenset[str]

    def read(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The honoured parameters of a request body; what is null is left out.

        Raises:
            ApiError: 400, with the parameter's name.
        """
        found = {}
        for name, value in body.items():
            if value is None or name in HARMLESS:
                continue
            if name in self.honoured:
                found[name] = self.honoured[name](name, value)
            elif not _is_one_of(value, self.off.get(name, ())):
                raise self._refusal(name, value)
        return found

    def _refusal(self, name: str, value: Any) -> ApiError:
        if name in self.off:
            return refused(name, f"{in_words(self.off[name])}, as this is not supported", value)
        if name in self.known:
            return ApiError(400, f"{name}: this parameter is not supported", param=name)
        shown = name[:64]
        return ApiError(400, f"{shown}: unknown parameter", param=shown)


def in_words(values: tuple[Any, ...]) -> str:
    """The values at which a parameter asks for nothing, as a client would write them."""
    return " or ".join(json.dumps(value) for value in values)


def _is_one_of(value: Any, allowed: tuple[Any, ...]) -> bool:
    """Equality that tells false from 0, as JSON does."""
    return any(value == off and isinstance(value, bool) == isinstance(off, bool) for off in allowed)


COMPLETIONS = Endpoint(
    honoured={**SAMPLING, "prompt": _PROMPT},
    off={**_ANY_OFF, "best_of": (1,), "echo": (False,)},
    known=frozenset({"logprobs", "suffix"}),
)

CHAT = Endpoint(
    honoured={**SAMPLING, "messages": _MESSAGES, "max_completion_tokens": SAMPLING["max_tokens"]},
    off={
        **_ANY_OFF,
        "logprobs": (False,),
        "top_logprobs": (0,),
        "response_format": ({"type": "text"},),
        "tools": ([],),
        "functions": ([],),
        "tool_choice": ("none", "auto"),
        "function_call": ("none", "auto"),
        "parallel_tool_calls": (True, False),
        "modalities": (["text"],),
        "store": (False,),
        "service_tier": ("auto", "default"),
    },
    known=frozenset(
        {
            "audio",
            "moderation",
            "prediction",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "reasoning_effort",
            "verbosity",
            "web_search_options",
        }
    ),
)
