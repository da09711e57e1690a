"""What an answer must look like, in whichever of the forms that clients know, as one grammar."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from models.grammar import choice_grammar, json_grammar, lark_grammar, regex_grammar
from runtime.gateway.errors import ApiError, refused

MAX_CHOICES = 1024
_GUIDED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
FORMS = ("response_format", "structured_outputs", *_GUIDED)
_ANY_OBJECT = {"type": "object"}


def read_grammar(parameters: Mapping[str, Any]) -> tuple[str, str]:
    """The parameter that says what the answer must look like, and its grammar; empty if none does.

    Raises:
        ApiError: 400, where it is no such description, or there are two.
    """
    asked = [name for name in FORMS if name in parameters and not _is_text(name, parameters)]
    if len(asked) > 1:
        raise ApiError(400, f"{asked[1]}: not with {asked[0]}; one of them", param=asked[1])
    if not asked:
        return "", ""
    name = asked[0]
    return name, _READERS[name](name, parameters[name])


def _is_text(name: str, parameters: Mapping[str, Any]) -> bool:
    return name == "response_format" and parameters[name] == {"type": "text"}


def _response_format(name: str, value: dict[str, Any]) -> str:
    match value:
        case {"type": "json_object", **rest} if not rest:
            return json_grammar(_ANY_OBJECT)
        case {"type": "json_schema", "json_schema": dict(named), **rest} if not rest:
            return _named_schema(f"{name}.json_schema", named)
    expected = '{"type": "text"}, {"type": "json_object"} or {"type": "json_schema", …}'
    raise refused(name, expected, value)


def _named_schema(where: str, named: Mapping[str, Any]) -> str:
    for key in named.keys() - {"name", "description", "schema", "strict"}:
        raise refused(f"{where}.{key[:64]}", "only name, description, schema and strict", key)
    if not isinstance(named.get("name"), str):
        raise refused(f"{where}.name", "a string", named.get("name"))
    if type(named.get("strict") or False) is not bool:
        raise refused(f"{where}.strict", "true or false", named["strict"])
    return _schema(f"{where}.schema", named.get("schema", _ANY_OBJECT))


def _structured_outputs(name: str, value: dict[str, Any]) -> str:
    asked = {key: wish for key, wish in value.items() if wish is not None}
    if len(asked) != 1 or not asked.keys() <= _BY_KIND.keys():
        raise refused(name, f"one of {', '.join(_BY_KIND)}", list(value))
    ((kind, wish),) = asked.items()
    return _BY_KIND[kind](f"{name}.{kind}", wish)


def _any_json(where: str, value: Any) -> str:
    if value is not True:
        raise refused(where, "true", value)
    return json_grammar(_ANY_OBJECT)


def _schema(where: str, value: Any) -> str:
    if isinstance(value, str):
        value = _loaded(value)
    if not isinstance(value, dict):
        raise refused(where, "a JSON schema that is an object", value)
    return json_grammar(value)


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _regex(where: str, value: Any) -> str:
    return regex_grammar(_text(where, value))


def _lark(where: str, value: Any) -> str:
    return lark_grammar(_text(where, value))


def _choice(where: str, value: Any) -> str:
    is_list = isinstance(value, list) and 1 <= len(value) <= MAX_CHOICES
    if not is_list or not all(isinstance(text, str) and text for text in value):
        raise refused(where, f"1 to {MAX_CHOICES} texts", value)
    return choice_grammar(value)


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise refused(where, "a text", value)
    return value


_BY_KIND: Mapping[str, Callable[[str, Any], str]] = {
    "json": _schema,
    "json_object": _any_json,
    "regex": _regex,
    "choice": _choice,
    "grammar": _lark,
}

_READERS: Mapping[str, Callable[[str, Any], str]] = {
    "response_format": _response_format,
    "structured_outputs": _structured_outputs,
    "guided_json": _schema,
    "guided_regex": _regex,
    "guided_choice": _choice,
    "guided_grammar": _lark,
}
