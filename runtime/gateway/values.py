"""Readers of single values: each takes a name and a JSON value, and returns it or refuses it.

JSON's types are held strictly: true is no number, 1.0 is no integer, NaN is nothing. A reader says
in words what it takes, which refusals and `docs/api.md` use, and as a JSON Schema, which stands in
`/openapi.json`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.gateway.errors import refused

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 512
MAX_TOKEN_IDS = 1024


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class Reader:
    """One kind of value: what it is in words, which values are of it, and what they become.

    `schema` takes what the reader takes, as far as a JSON Schema can say it; an empty one takes
    anything.
    """

    expected: str
    takes: Callable[[Any], bool]
    convert: Callable[[Any], Any] = _same
    schema: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, name: str, value: Any) -> Any:
        """The value of the parameter `name`.

        Raises:
            ApiError: 400, with the name, what was expected and a part of what came.
        """
        if not self.takes(value):
            raise refused(name, self.expected, value)
        return self.convert(value)


def integer(low: int, high: int) -> Reader:
    """A whole number in `[low, high]`."""

    def takes(value: Any) -> bool:
        return type(value) is int and low <= value <= high

    schema = {"type": "integer", "minimum": low, "maximum": high}
    return Reader(f"a whole number from {low} to {high}", takes, schema=schema)


def number(low: float, high: float, *, open_low: bool = False) -> Reader:
    """A number in `[low, high]`, or `(low, high]`; NaN is in neither."""

    def takes(value: Any) -> bool:
        # Compared before it is converted: a whole number may be too large for a float.
        is_number = type(value) in (int, float)
        return is_number and low <= value <= high and not (open_low and value == low)

    words = f"a number {'above' if open_low else 'from'} {low:g} {'up ' if open_low else ''}to"
    least = "exclusiveMinimum" if open_low else "minimum"
    schema = {"type": "number", least: low, "maximum": high}
    return Reader(f"{words} {high:g}", takes, float, schema)


boolean = Reader("true or false", lambda value: type(value) is bool, schema={"type": "boolean"})

string = Reader("a string", lambda value: isinstance(value, str), schema={"type": "string"})

anything = Reader("anything", lambda value: True)

some_object = Reader("an object", lambda value: isinstance(value, dict), schema={"type": "object"})


def text(max_characters: int) -> Reader:
    """A string that is not empty, and bounded."""

    def takes(value: Any) -> bool:
        return isinstance(value, str) and 1 <= len(value) <= max_characters

    schema = {"type": "string", "minLength": 1, "maxLength": max_characters}
    return Reader(f"a string of 1 to {max_characters} characters", takes, schema=schema)


def one_of(*words: str) -> Reader:
    """One of some words."""
    expected = " or ".join(f'"{word}"' for word in words)
    return Reader(expected, lambda value: value in words, schema={"enum": list(words)})


def _are_stops(value: Any) -> bool:
    found = [value] if isinstance(value, str) else value
    return (
        isinstance(found, list)
        and 1 <= len(found) <= MAX_STOPS
        and all(isinstance(s, str) and 1 <= len(s) <= MAX_STOP_CHARACTERS for s in found)
    )


_STOP = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARACTERS}

stops = Reader(
    f"a string or 1 to {MAX_STOPS} strings, each of 1 to {MAX_STOP_CHARACTERS} characters",
    _are_stops,
    lambda value: (value,) if isinstance(value, str) else tuple(value),
    {"anyOf": [_STOP, {"type": "array", "items": _STOP, "minItems": 1, "maxItems": MAX_STOPS}]},
)

_whole = integer(-1, 1 << 30)

top_k = Reader(
    f"{_whole.expected}; -1 and 0 keep all",
    _whole.takes,
    lambda value: max(0, value),
    _whole.schema,
)


def _is_bias(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= MAX_TOKEN_IDS
        and all(key.isascii() and key.isdigit() and len(key) < 10 for key in value)
        and all(type(v) in (int, float) and -100 <= v <= 100 for v in value.values())
    )


logit_bias = Reader(
    f"an object of at most {MAX_TOKEN_IDS} token ids, each with a number from -100 to 100",
    _is_bias,
    lambda value: tuple(sorted((int(token), float(bias)) for token, bias in value.items())),
    {
        "type": "object",
        "maxProperties": MAX_TOKEN_IDS,
        "propertyNames": {"pattern": "^[0-9]{1,9}$"},
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
    },
)


def _are_token_ids(value: Any) -> bool:
    return (
        isinstance(value, list)
        and 1 <= len(value) <= MAX_TOKEN_IDS
        and all(type(token) is int and 0 <= token < 1 << 31 for token in value)
    )


token_ids = Reader(
    f"a list of 1 to {MAX_TOKEN_IDS} token ids",
    _are_token_ids,
    lambda value: tuple(dict.fromkeys(value)),
    {
        "type": "array",
        "items": {"type": "integer", "minimum": 0, "maximum": (1 << 31) - 1},
        "minItems": 1,
        "maxItems": MAX_TOKEN_IDS,
    },
)


STREAM_OPTIONS = ("include_usage", "continuous_usage_stats", "include_obfuscation")


def _are_stream_options(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() <= set(STREAM_OPTIONS)
        and all(type(wish) is bool for wish in value.values())
        and not value.get("include_obfuscation", False)
    )


stream_options = Reader(
    "an object with stream=true: include_usage and continuous_usage_stats (true or false), and "
    "include_obfuscation (only false)",
    _are_stream_options,
    schema={
        "type": "object",
        "properties": {
            "include_usage": {"type": "boolean"},
            "continuous_usage_stats": {"type": "boolean"},
            "include_obfuscation": {"const": False},
        },
        "additionalProperties": False,
    },
)
