"""What happens when an actor ends: who is told, who starts it again, how often and how soon.

The words are OTP's. A supervision belongs to the child it is given for; whoever spawned the child
is its supervisor. Nothing here waits or knows a clock: the decisions are pure.
"""

import enum
import random
from collections import deque
from dataclasses import dataclass, field

from actors.kernel.ref import Ref
from transport.codec import Message


class DownReason(enum.StrEnum):
    """Why a watched actor is gone."""

    NORMAL = "normal"  # it ended by itself, its work done
    SHUTDOWN = "shutdown"  # it was stopped in order
    ERROR = "error"  # it failed, or there was no such actor
    KILLED = "killed"  # it did not stop within its grace
    NO_CONNECTION = "no_connection"  # its process is out of reach: it may still run


class Down(Message, frozen=True, tag="down"):
    """A watched actor is gone; `ref` is the one that was watched."""

    ref: Ref
    reason: DownReason
    text: str


class Restart(enum.Enum):
    """After which ends an actor is started again."""

    PERMANENT = "permanent"  # after every end but a stop
    TRANSIENT = "transient"  # after a failure
    TEMPORARY = "temporary"  # never; its failure is nobody's but its watchers'


class Strategy(enum.Enum):
    """What an actor's failure means to its supervisor."""

    ONE_FOR_ONE = "one_for_one"  # start that one again
    REST_FOR_ONE = "rest_for_one"  # and those spawned after it, which may rely on it
    ESCALATE = "escalate"  # fail as well


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """How one child is looked after.

    After more than `max_restarts` in `period_s`, the failure is the supervisor's own. The n-th
    restart of a period comes after about `backoff_s * 2 ** (n - 1)` seconds, at most
    `max_backoff_s`, of which a random part of up to a half is left out, so that what failed
    together does not return together.
    """

    strategy: Strategy = Strategy.ONE_FOR_ONE
    restart: Restart = Restart.TRANSIENT
    max_restarts: int = 3
    period_s: float = 60.0
    backoff_s: float = 0.1
    max_backoff_s: float = 10.0
    stop_grace_s: float = 5.0


ESCALATE = Supervision(strategy=Strategy.ESCALATE)
"""Whoever spawned it fails with it; the default."""

TEMPORARY = Supervision(restart=Restart.TEMPORARY)
"""It may fail; only its watchers are told."""


class Verdict(enum.Enum):
    """What to do about an actor's end."""

    LET_END = "let_end"
    START_AGAIN = "start_again"
    ESCALATE = "escalate"


def judge(supervision: Supervision, *, failed: bool) -> Verdict:
    """What an end that nobody asked for leads to, restarts permitting."""
    if supervision.restart is Restart.TEMPORARY:
        return Verdict.LET_END
    if failed and supervision.strategy is Strategy.ESCALATE:
        return Verdict.ESCALATE
    starts_again = failed or supervision.restart is Restart.PERMANENT
    return Verdict.START_AGAIN if starts_again else Verdict.LET_END


@dataclass(slots=True)
class RestartBudget:
    """The restarts of one child that still count against it."""

    supervision: Supervision
    times: deque[float] = field(default_factory=deque)

    def spend(self, now: float, rng: random.Random) -> float | None:
        """Count a restart; return the seconds to wait before it, or None if there are none left."""
        limits = self.supervision
        while self.times and now - self.times[0] >= limits.period_s:
            self.times.popleft()
        if len(self.times) >= limits.max_restarts:
            return None
        self.times.append(now)
        doubled = limits.backoff_s * 2.0 ** min(len(self.times) - 1, 64)
        return min(doubled, limits.max_backoff_s) * rng.uniform(0.5, 1.0)
