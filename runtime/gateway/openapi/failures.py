"""How an operation may fail: every status of an error, and which operations know it."""

from collections.abc import Iterable
from typing import Any

from runtime.gateway.openapi.answers import ref

SAID: dict[int, str] = {
    400: "a parameter is wrong, missing, unknown or not supported; `param` names it",
    401: "there is no API key, or it is not known here",
    403: "the key may not do this",
    404: "there is no such model or path",
    405: "the path has other methods; `Allow` names them",
    408: "the body did not end in time",
    413: "the body is too large",
    415: "the body is not plain JSON",
    429: "too much at once, by the service's bounds or the key's quota; come back later",
    500: "a bug of ours",
    501: "this service cannot take that order",
    503: "the service is not ready for it; come back later",
    504: "it took longer than it may",
}
_WAIT = frozenset({429, 503})

ANY = (500, 503)
"""What may happen to any request; 503 is also one connection too many."""
KEY = (401, 403)
BODY = (400, 408, 413, 415)
GENERATION = (404, 429, 504)
TOKENIZING = (429,)
WATCHING = (400, 429)
ORDER = (501,)


def failures(statuses: Iterable[int]) -> dict[str, Any]:
    """Entries of an operation's responses."""
    found = sorted(set(statuses))
    return {str(status): {"$ref": f"#/components/responses/E{status}"} for status in found}


def responses() -> dict[str, Any]:
    """The components that those refer to."""
    return {f"E{status}": _response(status, said) for status, said in SAID.items()}


def _response(status: int, said: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "description": said,
        "content": {"application/json": {"schema": ref("Error")}},
    }
    if status in _WAIT:
        seconds = {"type": "integer", "minimum": 1}
        made["headers"] = {
            "Retry-After": {"schema": seconds, "description": "seconds, where it may be sent again"}
        }
    return made
