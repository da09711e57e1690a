"""What a client did wrong, or what we could not do for it, in OpenAI's error shape."""

from reprlib import Repr
from typing import Any

_quote = Repr()
_quote.maxlevel, _quote.maxlist, _quote.maxdict = 2, 4, 4
_quote.maxstring = _quote.maxlong = _quote.maxother = 60
MAX_QUOTED = 100
"""Characters of a refused value that are quoted back; it may be as deep and as long as a body."""


class ApiError(Exception):
    """An answer that is an error: `status` and the four fields that OpenAI's schema asks for."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.kind = kind
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}


def server_error(
    status: int, message: str, code: str, retry_after_s: int | None = None
) -> ApiError:
    """An answer that is not the client's fault; where it may try again it is told when."""
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    kind = "rate_limit_error" if status == 429 else "server_error"
    return ApiError(status, message, code=code, kind=kind, headers=headers)


def refused(param: str, expected: str, got: object) -> ApiError:
    """A parameter whose value cannot be honoured; quotes a bounded part of it."""
    shown = _quote.repr(got)[:MAX_QUOTED]
    return ApiError(400, f"{param}: expected {expected}, got {shown}", param=param)
