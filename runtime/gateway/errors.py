"""What a client did wrong, or what we could not do for it, in OpenAI's error shape."""

from typing import Any


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
        return error_body(str(self), self.kind, self.param, self.code)


def error_body(message: str, kind: str, param: str | None, code: str | None) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refused(param: str, expected: str, got: object) -> ApiError:
    """A parameter whose value cannot be honoured; quotes a bounded part of it."""
    shown = repr(got)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return ApiError(400, f"{param}: expected {expected}, got {shown}", param=param)
