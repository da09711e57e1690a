"""How a command talks to a service: JSON over HTTP, and sentences where that fails."""

import http.client
import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from runtime.errors import RemudaError

TIMEOUT_S = 10.0

_T = TypeVar("_T")


class CommandFailed(RemudaError):
    """A command could not do what it was asked; the text says why."""


@dataclass(frozen=True, slots=True)
class Service:
    """A running service by its URL.

    `key` is an API key with the scope `admin`, `tls` says whose certificates are trusted.
    """

    url: str
    key: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None

    def get(self, path: str, timeout_s: float = TIMEOUT_S) -> Any:
        """The JSON at a path.

        Raises:
            CommandFailed: nobody answers there, or not with JSON.
        """
        status, body = self._call(path, None, timeout_s)
        if status != 200:
            raise self._refusal(status, body)
        return body

    def post(self, path: str, fields: dict[str, Any], timeout_s: float) -> Any:
        """The JSON that an order is answered with, done (200) or not (409).

        Raises:
            CommandFailed: nobody answers there, or it refuses the order.
        """
        status, body = self._call(path, json.dumps(fields).encode(), timeout_s)
        if status not in (200, 409):
            raise self._refusal(status, body)
        return body

    def understood(self, body: Any, kind: type[_T], what: str) -> _T:
        """An answer as the record it should be.

        Raises:
            CommandFailed: it is something else.
        """
        try:
            return msgspec.convert(body, kind)
        except msgspec.ValidationError as error:
            raise self.nobody(f"it did not answer with {what}: {error}") from None

    def nobody(self, reason: str) -> CommandFailed:
        """What is said where the one who answers, if anybody, is no service of ours."""
        return CommandFailed(
            f"no Remuda service answers at {self.url} ({' '.join(reason.split())[:200]}); "
            f"start one with `python -m runtime.launch`, or name another with --url"
        )

    def _refusal(self, status: int, body: Any) -> CommandFailed:
        if isinstance(body, dict) and isinstance(body.get("error"), dict):
            return CommandFailed(str(body["error"].get("message", f"it answered {status}")))
        return self.nobody(f"it answered {status}")

    def _call(self, path: str, data: bytes | None, timeout_s: float) -> tuple[int, Any]:
        url = f"{self.url.rstrip('/')}{path}"
        if not url.startswith(("http://", "https://")):
            raise self.nobody("it is not an http(s) address")
        try:
            request = urllib.request.Request(url, data, self._headers())
            with urllib.request.urlopen(request, timeout=timeout_s, context=self.tls) as answer:
                return answer.status, self._parsed(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _parsed_or_none(error.read())
        except TimeoutError:
            late = f"{path} was not answered within {timeout_s:g} s"
            raise CommandFailed(f"{late}; `status` shows what became of it") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self.nobody(str(error)) from None

    def _headers(self) -> dict[str, str]:
        key = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return {"Content-Type": "application/json", **key}

    def _parsed(self, body: bytes) -> Any:
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise self.nobody("it did not answer with JSON") from None


def _parsed_or_none(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
