"""A service as a chaos run asks it: its status, its model, whether it is ready, its links."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from runtime.chaos.strikes import Disturb, Swap
from runtime.control.service import CommandFailed, Service
from runtime.control.status import KEYS

ANSWER_TIMEOUT_S = 10.0
POLL_S = 0.2
GRACE_S = 30.0
CHANGE_TIMEOUT_S = 300.0


class Site:
    """One service over one session; raises `CommandFailed` where it does not do as asked."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url.rstrip("/")
        self._service = Service(self.url)

    async def status(self) -> dict[str, Any]:
        """The JSON of `/admin/status`."""
        _, body = await self._ask("GET", "/admin/status")
        if not isinstance(body, dict) or not body.keys() >= KEYS:
            raise self._service.nobody("it did not answer with a service's status")
        return body

    async def model(self) -> str:
        """The name of the model that it serves."""
        _, body = await self._ask("GET", "/v1/models")
        try:
            return str(body["data"][0]["id"])
        except (LookupError, TypeError):
            raise self._service.nobody("it did not answer with its models") from None

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until it is ready; meanwhile it may be gone altogether."""
        await wait_for_nothing(self._missing, timeout_s, "ready")

    async def disturb(self, strike: Disturb) -> None:
        """Have it disturb links of its own; returns when they are whole again."""
        timeout_s = strike.for_s + GRACE_S
        status, body = await self._ask("POST", "/admin/fault", strike.fields(), timeout_s)
        if status != 200:
            raise CommandFailed(_message(body) or f"{strike}: it answered {status}")

    async def link_ends(self) -> tuple[str, ...]:
        """What stands at the ends of links that it can disturb; nothing where it may not."""
        status, body = await self._ask("GET", "/admin/fault")
        return () if status in (404, 501) else _targets(status, body)

    async def require_link(self, a: str, b: str) -> None:
        """Make sure that it can disturb the links between two targets."""
        ends = _targets(*await self._ask("GET", "/admin/fault"))
        for name in (a, b):
            if name not in ends and f"node:{name}" not in ends:
                raise CommandFailed(f"the service has no {name}; there are {', '.join(ends)}")

    async def swap(self, strike: Swap) -> str:
        """Have it move layers; why not, where it refuses to."""
        fields = {"pipeline": strike.pipeline, "layers": strike.layers}
        status, body = await self._ask("POST", "/admin/plan", fields, CHANGE_TIMEOUT_S)
        if status == 409:
            return str(body.get("reason") or "it was not done")
        if status != 200:
            raise CommandFailed(_message(body) or f"{strike}: it answered {status}")
        return ""

    async def _missing(self) -> str:
        try:
            status, body = await self._ask("GET", "/health")
        except CommandFailed as error:
            return str(error)
        return "" if status == 200 else str(body.get("reason") or f"it answered {status}")

    async def _ask(
        self,
        method: str,
        path: str,
        fields: dict[str, Any] | None = None,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> tuple[int, Any]:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self.session.request(
                method, self.url + path, json=fields, timeout=timeout
            ) as answer:
                return answer.status, await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise self._service.nobody(str(error) or type(error).__name__) from None


async def wait_for_nothing(
    missing: Callable[[], Awaitable[str]], timeout_s: float, state: str
) -> None:
    """Ask what is missing until that is nothing; raises `CommandFailed` if it stays something."""
    reason = ""
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                reason = await missing()
                if not reason:
                    return
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise CommandFailed(f"not {state} within {timeout_s:g} s: {reason}") from None


def _targets(status: int, body: Any) -> tuple[str, ...]:
    if status != 200:
        raise CommandFailed(_message(body) or f"GET /admin/fault: it answered {status}")
    return tuple(str(name) for name in body["targets"])


def _message(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("message", "")) if isinstance(error, dict) else ""
