"""Who may do what: every request has a caller, and no caller gets past its quota.

With no keys configured everybody is the same caller, who may do everything. With keys, `/v1/` asks
for one with the scope `serve`, `/admin/` for `admin`, `/metrics` for `metrics`; those in `OPEN` ask
for none, nor do the dashboard's files, which hold nothing. What a request uses is counted by who
makes its tokens, through `Caller.meter`.
"""

import ipaddress
import math
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web
from yarl import URL

from runtime.gateway.errors import ApiError
from runtime.gateway.faults import Handler
from runtime.gateway.keys import MAX_KEY_CHARACTERS, KeyRing, Quota, Scope
from runtime.gateway.quotas import Meter, Meters, Refusal
from runtime.gateway.targets import Targets

ANONYMOUS = "anonymous"
OPEN = frozenset({"/health", "/ready", "/version", "/openapi.json", "/", "/dashboard"})
PAGE = "/dashboard/"
"""The page's files, which say nothing of the service."""
SERVED = frozenset({"/tokenize", "/detokenize", "/tokenizer_info"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Whose request it is.

    Attributes:
        id: of its key; `anonymous` where there are none.
        meter: where what it uses is counted.
        weight: its share beside the others'.
        priority: of its requests, where they do not say.
        may_be_urgent: whether they may ask for a lesser number, as where there are no keys.
        targets: of its requests, where they do not say.
    """

    id: str
    meter: Meter
    weight: float = 1.0
    priority: int = 0
    may_be_urgent: bool = False
    targets: Targets | None = None


CALLER = web.RequestKey("caller", Caller)


def caller_of(request: web.Request) -> Caller:
    """Whose request it is; it has passed the middleware."""
    return request[CALLER]


class Access:
    """The rules of one service.

    Args:
        ring: gives the keys that are good now.
        clock: seconds that never go back.
        needs_key: whether keys were configured; if all are revoked, nobody gets in.
        quota: of callers whose keys have none.
        is_local: whether the operator's endpoints are on loopback. Without keys, they are then for
            who asks for this machine by an address or as `localhost` only: a page elsewhere whose
            name was made to point here (DNS rebinding) would pass for one of our own.
    """

    def __init__(
        self,
        ring: Callable[[], KeyRing],
        clock: Callable[[], float],
        *,
        needs_key: bool = False,
        quota: Quota | None = None,
        is_local: bool = False,
    ) -> None:
        self.is_local = is_local
        self.ring = ring
        self.clock = clock
        self.needs_key = needs_key
        self._meters = Meters(quota or Quota())

    def caller(self, request: web.Request, scope: Scope) -> Caller:
        """Whose request it is, by its key; raises `ApiError` 401 or 403."""
        now = self.clock()
        if not self.needs_key:
            return Caller(
                id=ANONYMOUS, meter=self._meters.of(ANONYMOUS, None, now), may_be_urgent=True
            )
        key = self.ring().find(_secret(request))
        if key is None:
            raise _unauthorized("the API key is not known here, or was revoked", "invalid_api_key")
        if not key.may(scope):
            message = f"key {key.id} may not do this: it has {', '.join(key.scopes)}, not {scope}"
            raise ApiError(403, message, code="insufficient_scope", kind="permission_error")
        meter = self._meters.of(key.id, key.quota, now)
        return Caller(
            id=key.id,
            meter=meter,
            weight=key.weight,
            priority=key.priority,
            targets=key.slo,
        )

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let a request through to its handler, or refuse it."""
        scope = scope_of(request.path)
        if scope is None:
            return await handler(request)
        if scope == "admin" and self.is_local and not self.needs_key:
            _check_host(request)
        caller = request[CALLER] = self.caller(request, scope)
        if scope != "serve" or request.method != "POST":
            return await handler(request)
        return await self._metered(request, handler, caller.meter)

    async def _metered(
        self, request: web.Request, handler: Handler, meter: Meter
    ) -> web.StreamResponse:
        refusal = meter.enter(self.clock())
        if refusal is not None:
            raise _too_many(refusal, meter.headers(self.clock()))
        try:
            return await handler(request)
        except ApiError as error:
            error.headers = meter.headers(self.clock()) | error.headers
            raise
        finally:
            meter.leave()

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """A signal's receiver: tell a caller what is left, on answers that begin now."""
        caller = request.get(CALLER)
        if caller is not None and scope_of(request.path) == "serve":
            response.headers.update(caller.meter.headers(self.clock()))


def open_access(clock: Callable[[], float]) -> Access:
    """Everybody may do everything."""
    return Access(KeyRing, clock)


def scope_of(path: str) -> Scope | None:
    """What a path asks of a key; None where it is open to all."""
    if path in OPEN or path.startswith(PAGE):
        return None
    if path == "/metrics":
        return "metrics"
    # Whatever is neither the clients' nor known to be open counts as the operator's.
    return "serve" if path.startswith("/v1/") or path in SERVED else "admin"


def _check_host(request: web.Request) -> None:
    """Raise `ApiError` 403 where this machine was asked for by another's name."""
    asked = request.headers.get("Host", "localhost")  # every browser sends one
    if not _is_this_machine(asked):
        message = (
            f"Host: expected localhost or an address, got {asked[:80]!r}; without API keys the "
            f"operator's endpoints are only for this machine: ask for it as 127.0.0.1, or make "
            f"keys with `remuda api-keys create`"
        )
        raise ApiError(403, message, code="wrong_host", kind="permission_error")


def _is_this_machine(asked: str) -> bool:
    try:
        host = URL.build(scheme="http", authority=asked).host or ""
        if host == "localhost" or host.endswith(".localhost"):
            return True
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _secret(request: web.Request) -> str:
    header = request.headers.get("Authorization", "")
    kind, _, secret = header.partition(" ")
    secret = secret.strip()
    if kind.lower() != "bearer" or not 0 < len(secret) <= MAX_KEY_CHARACTERS:
        raise _unauthorized(
            "an API key is needed: send it as `Authorization: Bearer KEY`", "missing_api_key"
        )
    return secret


def _unauthorized(message: str, code: str) -> ApiError:
    headers = {"WWW-Authenticate": 'Bearer realm="remuda"'}
    return ApiError(401, message, code=code, kind="authentication_error", headers=headers)


def _too_many(refusal: Refusal, headers: dict[str, str]) -> ApiError:
    wait_s = max(1, math.ceil(refusal.retry_after_s))
    message = f"quota: {refusal.what}; come back in {wait_s} s"
    headers = headers | {"Retry-After": str(wait_s)}
    return ApiError(429, message, code=refusal.code, kind="rate_limit_error", headers=headers)
