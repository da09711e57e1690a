"""The JSON object in a request, or a refusal in words."""

import asyncio
import json
from typing import Any, NoReturn

from aiohttp import web

from runtime.gateway.errors import ApiError


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
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _reason(error: Exception) -> str:
    return "nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
