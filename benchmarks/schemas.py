"""JSON schemas as people write them, drawn at random: what structured answers are tried with.

Each is bounded in depth, length and number, so that even a small model comes to an end. Some hold
what no grammar can be made of, and are known for it.
"""

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]
Maker = Callable[[random.Random, int], Schema]

WORDS = ("name", "size", "kind", "tags", "owner", "since", "legs", "color", "place", "notes")
VALUES = ("grey", "bay", "small", "large", "in the barn", 'said "no"', "naïve", "東")
PATTERNS = ("^[A-Z]{2}-[0-9]{3}$", "^(yes|no)$", "^[a-f0-9]{4}$", "^v[0-9]\\.[0-9]$")
FORMATS = ("date", "uuid", "ipv4")
MAX_DEPTH = 3
REFUSED: tuple[tuple[str, Schema], ...] = (
    ("not", {"type": "object", "properties": {"a": {"not": {"type": "string"}}}}),
    ("if", {"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}}),
    ("contains", {"type": "array", "contains": {"type": "integer"}}),
    ("dependentRequired", {"type": "object", "dependentRequired": {"a": ["b"]}}),
    ("does not exist", {"$ref": "#/$defs/nowhere"}),
    ("Invalid type", {"type": "horse"}),
    ("unclosed group", {"type": "string", "pattern": "(unclosed"}),
)
"""What has no grammar: words that its refusal must have, and the schema."""


def random_schema(rng: random.Random) -> Schema:
    """An object's schema; some of them with definitions that it refers to."""
    schema = _object(rng, MAX_DEPTH)
    if rng.random() < 0.4:
        name = rng.choice(WORDS)
        schema["properties"][f"{name}_ref"] = {"$ref": f"#/$defs/{name}"}
        schema["required"].append(f"{name}_ref")
        schema["$defs"] = {name: _object(rng, 1)}
    return schema


def _object(rng: random.Random, depth: int) -> Schema:
    names = rng.sample(WORDS, rng.randint(1, 3))
    required = [name for name in names if rng.random() < 0.7] or names[:1]
    return {
        "type": "object",
        "properties": {name: _value(rng, depth - 1) for name in names},
        "required": required,
        "additionalProperties": {"type": "boolean"} if rng.random() < 0.05 else False,
    }


def _value(rng: random.Random, depth: int) -> Schema:
    makers: list[Maker] = [
        _enum,
        _number,
        _string,
        _plain,
        *((_object, _array, _any_of) if depth > 0 else ()),
    ]
    return rng.choice(makers)(rng, depth)


def _enum(rng: random.Random, depth: int) -> Schema:
    if rng.random() < 0.2:
        return {"const": rng.choice(VALUES)}
    return {"enum": [*rng.sample(VALUES, rng.randint(2, 4)), *([None] if depth > 1 else [])]}


def _number(rng: random.Random, depth: int) -> Schema:
    low = rng.randint(-20, 20)
    kind = rng.choice(["integer", "integer", "number"])
    schema: Schema = {"type": kind, "minimum": low, "maximum": low + rng.randint(0, 50)}
    if rng.random() < 0.3:
        schema["exclusiveMaximum"] = schema.pop("maximum") + 1
    return schema


def _string(rng: random.Random, depth: int) -> Schema:
    match rng.randrange(3):
        case 0:
            return {"type": "string", "pattern": rng.choice(PATTERNS)}
        case 1:
            return {"type": "string", "format": rng.choice(FORMATS)}
    return {"type": "string", "minLength": rng.randint(0, 2), "maxLength": rng.randint(2, 8)}


def _plain(rng: random.Random, depth: int) -> Schema:
    return {"type": rng.choice(["boolean", "null", ["boolean", "null"]])}


def _array(rng: random.Random, depth: int) -> Schema:
    least = rng.randint(0, 2)
    items = _value(rng, depth - 1)
    return {"type": "array", "items": items, "minItems": least, "maxItems": least + 1}


def _any_of(rng: random.Random, depth: int) -> Schema:
    return {"anyOf": [_value(rng, depth - 1), _enum(rng, 0)]}
