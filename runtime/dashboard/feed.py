"""What the page is sent: the service as it stands now, and what changed since it was told last.

The one idea: what is known at once (plan, events, tokens) is never behind what has to be asked for
(how busy stages are, what the planner says), so that a loss is shown while those who would answer
are lost. One watcher asks for all; when it leaves, another goes on.
"""

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from runtime.gateway.operator import Operator, Unavailable
from runtime.telemetry.telemetry import Telemetry

if TYPE_CHECKING:
    from runtime.telemetry.facts import ServiceFacts

FACTS_PERIOD_S = 0.5
PLANNER_PERIOD_S = 5.0
MAX_EVENTS = 256
"""Events in one message; who was away for longer is told how many are left out."""
MAX_REQUESTS = 64
"""Requests that are shown, those that came first."""


class Standing(Protocol):
    """Knows the plan without asking anybody."""

    def plan(self) -> dict[str, Any]:
        """The service's plan, as `/admin/status` shows it."""
        ...

    def not_ready_reason(self) -> str | None:
        """Why requests are not served now, or None."""
        ...


@dataclass(slots=True)
class Told:
    """What one watcher knows already."""

    event_id: int = 0
    second: int = -1
    parts: dict[str, Any] = field(default_factory=dict)


class Feed:
    """Makes messages for watchers.

    Args:
        standing: the plan.
        telemetry: events, tokens, and how busy stages are.
        operator: orders and predictions, where there are any.
        num_waiting: requests that wait in the gateway.
    """

    def __init__(
        self,
        standing: Standing,
        telemetry: Telemetry,
        operator: Operator | None,
        num_waiting: Callable[[], int],
        version: str = "",
    ) -> None:
        self._standing = standing
        self._telemetry = telemetry
        self._operator = operator
        self._num_waiting = num_waiting
        self._version = version
        self._asking = asyncio.Lock()
        self._facts: tuple[float, ServiceFacts] | None = None
        self._planner: dict[str, Any] = {"planner": None, "reason": "nobody was asked yet"}
        self.life = f"{telemetry.wall_clock():.6f}"
        """Tells this gateway from the one before it, whose events had other numbers."""

    async def keep_fresh(self) -> None:
        """Ask for all watchers until cancelled; while another does, wait to be the next."""
        async with self._asking, asyncio.TaskGroup() as asking:
            asking.create_task(self._keep_facts())
            if self._operator is not None:
                asking.create_task(self._keep_planner(self._operator))

    async def _keep_facts(self) -> None:
        while True:
            facts = await self._telemetry.facts()
            self._facts = self._telemetry.requests.clock(), facts
            await asyncio.sleep(FACTS_PERIOD_S)

    async def _keep_planner(self, operator: Operator) -> None:
        while True:
            try:
                plan = await operator.present_plan()
                planner = plan.get("planner")
                reason = "" if planner else "this service does not plan"
                self._planner = {"planner": planner, "reason": reason}
            except Unavailable as error:
                self._planner = self._planner | {"reason": str(error)}
            await asyncio.sleep(PLANNER_PERIOD_S)

    def message(self, told: Told) -> dict[str, Any]:
        """What a watcher is sent next; `told` is what it will know then."""
        first = not told.parts
        message: dict[str, Any] = {
            "at": self._telemetry.wall_clock(),
            "load": self._load(),
            "totals": self._totals(),
            "tokens": self._tokens(told),
            **self._events(told),
        }
        if first:
            message |= {"life": self.life, "version": self._version}
        for name, part in self._parts().items():
            if told.parts.get(name) != part:
                message[name] = told.parts[name] = part
        return message

    def _parts(self) -> dict[str, Any]:
        """What seldom changes, and is sent when it did."""
        operator = self._operator
        running = [] if operator is None else operator.requests()
        return {
            "plan": self._standing.plan() | {"reason": self._standing.not_ready_reason()},
            "planner": self._planner,
            "requests": running[:MAX_REQUESTS],
            "can": {
                "order": operator is not None,
                "kill": [] if operator is None else operator.kill_targets(),
            },
        }

    def _load(self) -> dict[str, Any] | None:
        """How busy pipelines and stages are; `age_s` seconds ago."""
        if self._facts is None:
            return None
        asked_at, facts = self._facts
        return {
            "age_s": round(self._telemetry.requests.clock() - asked_at, 3),
            "at": asked_at,
            "pipelines": [asdict(pipeline) for pipeline in facts.pipelines],
            "stages": [asdict(stage) for stage in facts.stages],
        }

    def _totals(self) -> dict[str, Any]:
        """Counts since this gateway began, and who waits in it now."""
        return asdict(self._telemetry.requests.totals) | {"waiting": self._num_waiting()}

    def _tokens(self, told: Told) -> dict[str, Any]:
        history = self._telemetry.requests.history
        now = history.now
        seconds = history.after(told.second)
        told.second = int(now) - 1
        return {"now": now, "seconds": seconds}

    def _events(self, told: Told) -> dict[str, Any]:
        log = self._telemetry.events
        missed = log.num_missed(told.event_id)
        after = max(told.event_id, log.last_id - MAX_EVENTS)
        entries = log.after(after, MAX_EVENTS)
        left_out = max(missed, after - told.event_id)
        told.event_id = log.last_id
        return {"events": [entry.body() for entry in entries], "missed": left_out}
