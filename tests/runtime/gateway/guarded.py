"""Safeguards for tests: keys that are known here, and a clock that a test moves."""

from dataclasses import dataclass

from runtime.gateway.access import Access
from runtime.gateway.keys import ApiKey, KeyRing, Quota, Scope, sha256_of
from runtime.gateway.safeguards import Safeguards


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def secret(name: str) -> str:
    return f"rk-{name}-of-a-test"


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret(name)}"}


def api_key(
    name: str, *scopes: Scope, quota: Quota | None = None, priority: int = 0, weight: float = 1.0
) -> ApiKey:
    return ApiKey(
        id=name,
        sha256=sha256_of(secret(name)),
        scopes=scopes or ("serve",),
        quota=quota,
        priority=priority,
        weight=weight,
    )


def guarded_by(*keys: ApiKey, clock: Clock | None = None) -> Safeguards:
    ring = KeyRing(keys)
    return Safeguards(access=Access(lambda: ring, clock or Clock(), needs_key=True))
