"""The outermost handler: every error leaves in OpenAI's shape, and no traceback with it.

An error before the first byte of an answer is an answer with a status. After it the status is gone,
so that the stream ends with an error event and a cut connection.
"""

import logging
import math
from collections.abc import Awaitable, Callable

from aiohttp import web

from runtime.gateway.backend import RETRY_NOT_READY_S, GenerationError, NotReady, Overloaded
from runtime.gateway.errors import ApiError, server_error
from runtime.gateway.operator import Unavailable, Unsupported
from runtime.gateway.punctuality import TooLate
from runtime.gateway.sse import ClientGone, EventStream
from runtime.telemetry.tracing.middleware import FAULT

_log = logging.getLogger(__name__)

RETRY_OVERLOADED_S = 1.0

EVENTS = web.RequestKey("events", EventStream)
"""Where a handler that streams leaves its stream, for the case that it fails."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def answer_faults(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into an answer, or into the end of the one under way."""
    try:
        return await handler(request)
    except ClientGone as gone:
        _log.info("client gone path=%s reason=%s", request.path, gone)
        request[FAULT] = "client_gone"
        return web.Response()  # the connection is cut: nobody gets it
    except web.HTTPException as error:
        return _answer(_from_http(error, request))
    except Exception as error:  # noqa: BLE001 - the gateway's outermost handler
        return await _end(request, _from_exception(error, request))


async def _end(request: web.Request, error: ApiError) -> web.StreamResponse:
    request[FAULT] = error.code or str(error.status)
    events: EventStream | None = request.get(EVENTS)
    if events is None or not events.is_open:
        return _answer(error)
    _log.warning("stream failed path=%s code=%s reason=%s", request.path, error.code, error)
    await events.fail(error)
    return events.response


def _answer(error: ApiError) -> web.Response:
    return web.json_response(error.body(), status=error.status, headers=error.headers)


def _from_http(error: web.HTTPException, request: web.Request) -> ApiError:
    """What aiohttp itself refuses: unknown paths and methods."""
    message = f"{request.method} {request.path[:256]}: {error.reason}"
    allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    return ApiError(error.status, message, headers=allow)


def _from_exception(error: Exception, request: web.Request) -> ApiError:
    match error:
        case ApiError():
            return error
        case TooLate():
            retry_s = _whole_s(error.retry_after_s)
            return server_error(429, str(error), "slo_unattainable", retry_s)
        case Overloaded():
            return _overloaded(str(error), error.retry_after_s)
        case Unavailable():
            return server_error(503, str(error), "not_ready", _whole_s(RETRY_NOT_READY_S))
        case Unsupported():
            return server_error(501, str(error), "not_supported")
        case NotReady():
            return server_error(503, str(error), "not_ready", _whole_s(error.retry_after_s))
        case GenerationError():
            return _from_generation(error)
    _log.exception("request failed method=%s path=%s", request.method, request.path)
    return server_error(500, "internal error", "internal_error")


def _from_generation(error: GenerationError) -> ApiError:
    """The word for what went wrong decides whether the same request may be sent again."""
    match error.kind:
        case "queue_full":
            return _overloaded(str(error), RETRY_OVERLOADED_S)
        case "rejected" | "no_token":
            return ApiError(400, str(error), code=error.kind)
        case "timeout" | "queue_timeout":
            return server_error(504, str(error), error.kind)
        case "internal_error":
            return server_error(500, str(error), error.kind)
    return server_error(503, str(error), error.kind, _whole_s(RETRY_NOT_READY_S))


def _overloaded(message: str, retry_after_s: float) -> ApiError:
    return server_error(429, message, "queue_full", _whole_s(retry_after_s))


def _whole_s(seconds: float) -> int:
    """What `Retry-After` takes: whole seconds, and never at once."""
    return max(1, math.ceil(seconds))
