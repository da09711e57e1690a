"""The JSON object in a request, or a refusal in words."""

import asyncio
import json
from typing import Any, NoReturn

from aiohttp import web

from runtime.gateway.errors import ApiError

MAX_DEPTH = 128
"""Lists and objects within one another, in one parameter."""


async def read_object(request: web.Request, timeout_s: float) -> dict[str, Any]:
    """Read the body as a JSON object.

    Raises:
        ApiError: 400 or 415 where it is none; 413 where it is too large; 408 where it never ends.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ApiError(415, "Content-Encoding: expected an uncompressed body")
    if request.content_type != "application/json":
        found = request.content_type[:80]
        raise ApiError(415, f"Content-Type: expected application/json, got {found}")
    try:
        async with asyncio.timeout(timeout_s):
            data = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise ApiError(413, f"the body is too large: {error.text}") from None
    except TimeoutError:
        raise ApiError(408, f"the body did not end within {timeout_s:g} s") from None
    return _object(data)


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {_reason(error)}") from None
    if not isinstance(found, dict):
        raise ApiError(400, f"the body: expected a JSON object, got {type(found).__name__}")
    if (deep := _too_deep(found)) is not None:
        raise ApiError(400, f"{deep}: nested deeper than {MAX_DEPTH}", param=deep)
    return found


def _too_deep(body: dict[str, Any]) -> str | None:
    """The first parameter that is nested deeper than anything which walks through it may go."""
    for name, value in body.items():
        level = [value]
        for _ in range(MAX_DEPTH):
            level = [part for whole in level for part in _parts(whole)]
        if level:
            return name[:64]
    return None


def _parts(value: Any) -> list[Any]:
    """The lists and objects in a list or an object."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [part for part in inner if isinstance(part, dict | list)]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _reason(error: Exception) -> str:
    return "nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
