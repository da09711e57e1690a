"""How much of a quota is left: pure, told the time, one meter for each caller.

The one idea: a balance that fills up to its limit within a minute. A request takes one from that of
requests; of tokens it takes as many as it turns out to use, so that the balance may fall below
nothing, and no more is let in until it is above it again. A prompt larger than a minute's tokens is
therefore served, and paid for by waiting.
"""

from collections import OrderedDict
from dataclasses import dataclass

from runtime.gateway.keys import Quota

MINUTE_S = 60.0
MAX_METERS = 10_000
"""Callers that are remembered; of those idle with full balances, nothing is lost."""
CONCURRENCY_RETRY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A quota that is used up: which one, in words, and when to come back, in seconds."""

    what: str
    code: str
    retry_after_s: float


class Balance:
    """What fills up with `per_minute` a minute, up to as much; 0 is without bound."""

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._left = float(per_minute)
        self._at = now

    def left(self, now: float) -> float:
        """What is left, below 0 if more was taken."""
        gained = max(0.0, now - self._at) * self.per_minute / MINUTE_S
        self._left, self._at = min(float(self.per_minute), self._left + gained), now
        return self._left

    def take(self, amount: float, now: float) -> None:
        """Take some, whether it is there or not."""
        self._left = self.left(now) - amount

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until there is as much, 0 if there is."""
        missing = amount - self.left(now)
        return max(0.0, missing * MINUTE_S / self.per_minute) if self.per_minute else 0.0


class Meter:
    """One caller's balances, and how many of its requests are under way."""

    def __init__(self, quota: Quota, now: float) -> None:
        self.quota = quota
        self.requests = Balance(quota.requests_per_minute, now)
        self.tokens = Balance(quota.tokens_per_minute, now)
        self.num_running = 0

    def change(self, quota: Quota, now: float) -> None:
        """Go by another quota from now on; what is under way stays counted."""
        self.quota = quota
        self.requests = Balance(quota.requests_per_minute, now)
        self.tokens = Balance(quota.tokens_per_minute, now)

    def enter(self, now: float) -> Refusal | None:
        """Count a request that begins, or say why it may not."""
        refusal = self._refusal(now)
        if refusal is None:
            self.requests.take(1, now)
            self.num_running += 1
        return refusal

    def leave(self) -> None:
        """A request that was counted is over."""
        self.num_running -= 1

    def headers(self, now: float) -> dict[str, str]:
        """OpenAI's headers for the balances that are bounded."""
        found: dict[str, str] = {}
        for name, balance in (("requests", self.requests), ("tokens", self.tokens)):
            if balance.per_minute:
                found[f"x-ratelimit-limit-{name}"] = str(balance.per_minute)
                found[f"x-ratelimit-remaining-{name}"] = str(max(0, int(balance.left(now))))
                reset_s = balance.wait_s(balance.per_minute, now)
                found[f"x-ratelimit-reset-{name}"] = duration(reset_s)
        return found

    def _refusal(self, now: float) -> Refusal | None:
        quota = self.quota
        if quota.max_concurrent and self.num_running >= quota.max_concurrent:
            what = f"{self.num_running} requests are under way, of {quota.max_concurrent} allowed"
            return _refusal(what, "concurrency_limit_exceeded", CONCURRENCY_RETRY_S)
        if (wait_s := self.requests.wait_s(1, now)) > 0:
            what = f"{quota.requests_per_minute} requests a minute are allowed"
            return _refusal(what, "rate_limit_exceeded", wait_s)
        if (wait_s := self.tokens.wait_s(1, now)) > 0:
            what = f"{quota.tokens_per_minute} tokens a minute are allowed"
            return _refusal(what, "rate_limit_exceeded", wait_s)
        return None


class Meters:
    """The meters of all callers, by their ids."""

    def __init__(self, default: Quota) -> None:
        self._default = default
        self._meters: OrderedDict[str, Meter] = OrderedDict()

    def of(self, caller: str, quota: Quota | None, now: float) -> Meter:
        """A caller's meter; a quota that was changed begins anew, but for what is under way."""
        wanted = self._default if quota is None else quota
        meter = self._meters.get(caller)
        if meter is None:
            meter = self._meters[caller] = Meter(wanted, now)
        elif meter.quota != wanted:
            meter.change(wanted, now)
        self._meters.move_to_end(caller)
        if len(self._meters) > MAX_METERS:
            self._meters.popitem(last=False)
        return meter


def duration(seconds: float) -> str:
    """A time as OpenAI writes it.

    Example:
        >>> duration(0.25), duration(61.5), duration(0)
        ('250ms', '1m1.5s', '0s')
    """
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"


def _refusal(what: str, code: str, retry_after_s: float) -> Refusal:
    return Refusal(what=what, code=code, retry_after_s=retry_after_s)
