"""A router's news of its requests, for whoever plans: what came, what ended, how long it stood.

The one idea: all is counted where requests come and go anyway, and told every few seconds as a sum,
so that the message has the same size whatever the load. Nothing is told while nothing came, and no
timer runs then. Of a router's requests only those that ended in order count as ended.

What a router sees of queueing is the time that it held a request itself, and, of one that goes on
in another pipeline, the time from its first token to its second.
"""

from collections.abc import Callable

from actors.messages import WorkloadSeen
from actors.rephasing import workload_seen
from actors.stream import Stream
from scheduling.phases.profiler import Tally
from transport.codec import Message

TELL_S = 2.0
"""How often a router tells what came."""


class TellWorkload(Message, frozen=True, tag="tell_workload"):
    """Is there anything to tell? The router's note to itself, never on the wire."""


class WorkloadTeller:
    """Counts one router's requests; `tell` sends news, `remind` has `look` called after a while."""

    def __init__(
        self, tell: Callable[[WorkloadSeen], None], remind: Callable[[float], object], at_s: float
    ) -> None:
        self._tell, self._remind = tell, remind
        self._tally = Tally(at_s)
        self._is_wanted = self._is_due = self._has_news = False

    def want(self, *, is_wanted: bool, at_s: float) -> None:
        """Whether anybody plans by it; what came while nobody did is of no use."""
        if is_wanted and not self._is_wanted:
            self._tally = Tally(at_s)
        self._is_wanted = is_wanted

    def arrived(self, at_s: float) -> None:
        """A request came."""
        if self._is_wanted:
            self._tally.arrived(at_s)
            self._note()

    def ended(self, stream: Stream) -> None:
        """A request ended in order."""
        if self._is_wanted:
            self._tally.finished(
                len(stream.generate.token_ids),
                len(stream.delivered),
                prefill_queue_s=stream.held_s,
                decode_queue_s=stream.between_s,
            )
            self._note()

    def look(self, name: str, at_s: float) -> None:
        """A timer has fired: tell, and go on while there is anything."""
        self._is_due = False
        if self._is_wanted and self._has_news:
            self._has_news = False
            self._tell(workload_seen(name, self._tally.take(at_s)))
            self._remind_once()

    def _note(self) -> None:
        self._has_news = True
        self._remind_once()

    def _remind_once(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._remind(TELL_S)
