"""Has nodes measure the links between them, one at a time: when a node joins, and seldom after.

The coordinator orders, a node measures by frames on the bulk lane, and what it found is handed on.
Nodes beyond a number are not measured: their links count as what is usual.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from types import MappingProxyType

from actors.cluster import Cluster
from actors.kernel.actor import Context
from actors.kernel.errors import ActorError
from actors.kernel.ref import Ref
from actors.messages import MAX_REASON, LinkMeasured, MeasureLink, ProbeFrame
from actors.situation import ends_of
from scheduling.roofline import LinkRate
from transport.codec import Message
from transport.endpoint import Lane
from transport.errors import TransportError
from transport.probe import FRAME_TIMEOUT_S, MAX_PROBE_S, probe

_log = logging.getLogger(__name__)

MAX_NODES = 64
"""Nodes whose links are measured; those that serve first."""
AGAIN_S = 600.0
"""How long a measurement counts."""
RETRY_S = 60.0
ANSWER_GRACE_S = 2.0

Ends = tuple[str, str]


class LookAtLinks(Message, frozen=True, tag="look_at_links"):
    """Is there a link to be measured? The coordinator's note to itself, never on the wire."""


def links_between(nodes: Iterable[str], serving: Iterable[str]) -> tuple[Ends, ...]:
    """The links that are to be measured: between those that serve first, in a fixed order."""
    first = set(serving)
    chosen = sorted(nodes, key=lambda name: (name not in first, name))[:MAX_NODES]
    return tuple(ends_of(one, other) for one, other in combinations(chosen, 2))


class LinkProber:
    """Orders one measurement after another; `on_measured` takes each.

    Where links are `known` beforehand, as in a simulation, none is measured: each is told when both
    its nodes are here.
    """

    def __init__(
        self,
        cluster: Cluster,
        on_measured: Callable[[str, str, LinkRate], None],
        known: Mapping[Ends, LinkRate] = MappingProxyType({}),
    ) -> None:
        self._cluster = cluster
        self._on_measured = on_measured
        self._known = known
        self._told_of = frozenset[str]()
        self._due_at: dict[Ends, float] = {}
        self._is_probing = False
        self._next_look: float | None = None

    def look(self) -> None:
        """A timer has fired."""
        self._next_look = None
        self.note()

    def note(self) -> None:
        """Nodes may have come or gone: begin with what is due."""
        self._tell_known()
        if self._is_probing or self._known or not self._is_wanted():
            return
        cluster, now = self._cluster, self._cluster.context.loop_time()
        serving = (s.node for r in cluster.pipelines.values() for s in r.plan.stages)
        here = [name for name in cluster.members.nodes if name not in cluster.members.leaving]
        links = links_between(here, serving)
        self._due_at = {ends: self._due_at.get(ends, now) for ends in links}
        if not links:
            return
        ends = min(links, key=self._due_at.__getitem__)
        wait_s = self._due_at[ends] - now
        if wait_s > 0:
            self._look_in(wait_s)
            return
        self._is_probing = True
        cluster.context.start_task(self._measure(ends))

    def _is_wanted(self) -> bool:
        """Whether plans, phases or encodings are chosen by what links give."""
        settings = self._cluster.settings
        is_auto = settings.kv_transport == "auto" and not settings.is_fixed
        return settings.may_be_replanned or is_auto or settings.targets is not None

    def _tell_known(self) -> None:
        before, here = self._told_of, frozenset(self._cluster.members.nodes)
        if here == before:
            return
        self._told_of = here
        for ends, rate in self._known.items():
            if here.issuperset(ends) and not before.issuperset(ends):
                self._on_measured(*ends, rate)

    def _look_in(self, delay_s: float) -> None:
        at = self._cluster.context.loop_time() + delay_s
        if self._next_look is None or at < self._next_look:
            self._next_look = at
            self._cluster.context.schedule(delay_s, LookAtLinks())

    async def _measure(self, ends: Ends) -> None:
        one, other = (self._cluster.members.nodes[name].ref for name in ends)
        try:
            answer = await self._cluster.context.ask(
                one, MeasureLink(peer=other), timeout_s=MAX_PROBE_S + ANSWER_GRACE_S
            )
            failure = answer.failure if isinstance(answer, LinkMeasured) else "no measurement came"
        except (ActorError, TransportError) as error:
            answer, failure = None, str(error)
        finally:
            self._is_probing = False
        self._take(ends, answer, failure)
        self.note()

    def _take(self, ends: Ends, answer: Message | None, failure: str | None) -> None:
        now = self._cluster.context.loop_time()
        self._due_at[ends] = now + (AGAIN_S if failure is None else RETRY_S)
        if failure is not None or not isinstance(answer, LinkMeasured):
            _log.warning("link not measured between=%s,%s reason=%s", *ends, failure)
            return
        _log.info(
            "link measured between=%s,%s latency_ms=%.3f mbytes_per_s=%.1f",
            *ends,
            answer.latency_s * 1000,
            answer.bytes_per_s / 1e6,
        )
        rate = LinkRate(bytes_per_s=answer.bytes_per_s, latency_s=answer.latency_s)
        self._on_measured(*ends, rate)


async def measure_link(context: Context, peer: Ref) -> LinkMeasured:
    """A node's part: what its link to another is like, or why that cannot be told."""

    async def send(num_bytes: int) -> object:
        return await context.ask(
            peer,
            ProbeFrame(),
            buffers=(bytes(num_bytes),),
            lane=Lane.BULK,
            timeout_s=FRAME_TIMEOUT_S,
        )

    try:
        found = await probe(send, context.loop_time)
    except (ActorError, TransportError, TimeoutError) as error:
        failure = (str(error) or f"no answer within {FRAME_TIMEOUT_S:g} s")[:MAX_REASON]
        return LinkMeasured(latency_s=0.0, bytes_per_s=1.0, failure=failure)
    return LinkMeasured(latency_s=found.latency_s, bytes_per_s=found.bytes_per_s)
