"""Where requests wait: a fair queue between the HTTP edge and the pipelines.

The one idea: a pipeline is given as many requests as it works on at a time and few more, so that
who goes next is decided here, by priority and by fair share between keys, and not by who came
first. While no pipeline is up nobody waits here: the backend itself then holds or refuses. What a
request does with its turn stands in `admitted`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from runtime.gateway.backend import Backend, Overloaded
from runtime.gateway.punctuality import Punctuality
from runtime.gateway.terms import Terms
from runtime.telemetry.request_metrics import RequestMetrics
from scheduling.fair_queue import FairQueue

RETRY_AFTER_S = 1.0


@dataclass(frozen=True, slots=True)
class Room:
    """How many requests the pipelines that are up work on, and how many more they queue."""

    max_running: int
    max_waiting: int

    @property
    def max_dispatched(self) -> int:
        """As many as they work on, and a few at hand for when one of these ends."""
        return self.max_running + min(self.max_waiting, max(2, self.max_running // 8))

    @property
    def max_queued(self) -> int:
        """What is left of their queues stands here instead."""
        return self.max_places - self.max_dispatched

    @property
    def max_places(self) -> int:
        """Of both kinds together: no request can ever have more."""
        return self.max_running + self.max_waiting


class Waiting(Protocol):
    """What waits for its turn."""

    def grant(self) -> None:
        """Its turn has come: the place is its own until it ends."""
        ...


class Admission:
    """Gives requests their turns at a backend."""

    def __init__(
        self, backend: Backend, metrics: RequestMetrics, room: Callable[[], Room | None]
    ) -> None:
        self.backend = backend
        self.metrics = metrics
        self._room = room
        self.queue: FairQueue[Waiting] = FairQueue()
        self.num_dispatched = 0
        self.punctuality = Punctuality(metrics)
        self._most_places = 0

    @property
    def num_waiting(self) -> int:
        """Requests that wait here."""
        return len(self.queue)

    def max_sequences(self) -> int | None:
        """How many sequences one request can have at all; None while nobody can say.

        It is the most that there was room for: where a pipeline is lost for a while, a request for
        more may come back when it is up again.
        """
        room = self._room()
        if room is not None:
            self._most_places = max(self._most_places, room.max_places)
        return self._most_places or None

    def has_room(self) -> bool:
        """Whether one more request may go to the backend now; without pipelines, it decides."""
        room = self._room()
        return room is None or self.num_dispatched < room.max_dispatched

    def check_queue(self) -> None:
        """Raise `Overloaded` where no more may wait."""
        room = self._room()
        if room is not None and len(self.queue) >= room.max_queued:
            num_requests = self.num_dispatched + len(self.queue)
            message = f"{num_requests} requests are running or queued"
            raise Overloaded(message, retry_after_s=RETRY_AFTER_S)

    def check_targets(self, terms: Terms, num_tokens: int) -> None:
        """Raise `TooLate` where a request would be, and asks to be refused then."""
        may_go = not self.queue and self.has_room()
        num_before = 0 if may_go else self.queue.num_before(terms.priority) + 1
        self.punctuality.check(terms.targets, num_tokens, num_before)

    def release(self) -> None:
        """A request has ended: others may have their turn."""
        now = self.metrics.clock()
        self.punctuality.forecast.ended(now, others_wait=bool(self.queue))
        self.num_dispatched -= 1
        self.pump()

    def pump(self) -> None:
        """Give turns as long as there is room."""
        while self.queue and self.has_room():
            stream = self.queue.pop()
            assert stream is not None
            stream.grant()
