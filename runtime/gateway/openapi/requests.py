"""Request bodies of the document, from the tables by which they are read.

A parameter that is honoured has its reader's schema. One that is refused, known or not, may only be
null, which says that it was left out: so a body that these schemas take is refused at most for what
its parameters mean together.
"""

from runtime.gateway.input_schemas import Schema, closed, nullable
from runtime.gateway.orders import NEEDED, ORDERS
from runtime.gateway.parameters import Endpoint, Parameter, in_words
from runtime.gateway.values import Reader

_NULL: Schema = {"type": "null"}
_REQUIRED = {
    "/v1/completions": ("model", "prompt"),
    "/v1/chat/completions": ("model", "messages"),
    "/tokenize": (),
    "/detokenize": ("tokens",),
}


def body_schema(endpoint: Endpoint, model: str) -> Schema:
    """The body of an endpoint of a service of that model."""
    required = _REQUIRED[endpoint.path]
    properties = {
        name: _parameter(parameter, is_required=name in required)
        for name, parameter in endpoint.parameters.items()
    }
    named = {"const": model}
    properties["model"] = (named if "model" in required else nullable(named)) | {
        "description": endpoint.parameters["model"].does
    }
    schema = closed(properties, *required, others=_NULL)
    if endpoint.path == "/tokenize":
        schema["oneOf"] = [_says("prompt"), _says("messages")]
    return schema


def _says(name: str) -> Schema:
    """An object in which something is there, and is no null."""
    return {"required": [name], "properties": {name: {"not": _NULL}}}


def _parameter(parameter: Parameter, *, is_required: bool) -> Schema:
    match parameter.fate:
        case "honoured":
            assert parameter.reader is not None
            schema = dict(parameter.reader.schema)
            described = schema if is_required else nullable(schema)
            return described | {"description": f"{parameter.reader.expected}: {parameter.does}"}
        case "label":
            return {"description": f"taken, and changes nothing: {parameter.does}"}
        case "off":
            described = {"enum": [*parameter.off, None]}
            only = f"only {in_words(parameter.off)}: {parameter.does}"
            return described | {"description": only}
        case "refused":
            return _NULL | {"description": f"refused: {parameter.does}"}


def order_schema(path: str) -> Schema:
    """The body of one of the operator's orders."""
    needed = NEEDED[path]
    schema = closed(
        {name: _field(reader, name in needed) for name, reader in ORDERS[path].items()}, *needed
    )
    if path == "/admin/plan":
        schema["oneOf"] = [_says(way) for way in ("layers", "stages", "plan")]
    return schema


def _field(reader: Reader, is_needed: bool) -> Schema:
    schema = dict(reader.schema)
    described = schema if is_needed else nullable(schema)
    return described | {"description": reader.expected}
