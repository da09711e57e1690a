"""Nodes that are to leave: emptied as far as time allows, then let go.

The one idea: that a node is leaving is a fact of the cluster, and what it has goes elsewhere for
that reason (`reconcile`); here it is only seen when nothing is left on it, or its time is over.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from actors.cluster import Cluster
from actors.kernel.actor import LaterReply
from actors.membership import Leaving
from actors.messages import DrainNode, LeaveNow, PhaseReport
from actors.order_report import order_report
from transport.codec import Message

_log = logging.getLogger(__name__)

COPY_SHARE = 0.8
"""Of the time that a node has to leave, for KV: what is left is for the pipeline to go on."""


class DrainOver(Message, frozen=True, tag="drain_over"):
    """A node's time is over, empty or not. The coordinator's note to itself, never on the wire."""

    node: str


@dataclass(frozen=True, slots=True)
class Drain:
    """A node that is being emptied, and who waits for that."""

    later: LaterReply
    moves: tuple[str, ...]
    began: float


class Drains:
    """Nodes that are being emptied; `look_again` is called when one begins to be."""

    def __init__(self, cluster: Cluster, look_again: Callable[[], None]) -> None:
        self._cluster, self._look_again = cluster, look_again
        self._drains: dict[str, Drain] = {}

    @property
    def is_busy(self) -> bool:
        """Whether a node is being emptied."""
        return bool(self._drains)

    def begin(self, message: DrainNode) -> Message | None:
        """A node is to leave; None where the answer comes later."""
        cluster, node = self._cluster, message.node
        if (reason := self._reason_against(node)) is not None:
            return order_report(cluster, reason=reason)
        uses = self._uses_of(node)
        cluster.members += Leaving(node)
        now = cluster.context.loop_time()
        cluster.copy_until[node] = now + COPY_SHARE * message.deadline_s
        self._drains[node] = Drain(cluster.context.reply_later(), uses, now)
        cluster.context.schedule(message.deadline_s, DrainOver(node))
        _log.info("draining node=%s deadline_s=%g", node, message.deadline_s)
        self._look_again()
        return None

    def end_what_is_done(self) -> None:
        """Let nodes go that are empty now."""
        for node in list(self._drains):
            if self._is_empty(node):
                self._end(node, "")

    def on_time_over(self, node: str) -> None:
        """Let a node go, though not empty: what it still has is rebuilt elsewhere."""
        self._end(node, "its time was over before it was empty")

    def _reason_against(self, node: str) -> str | None:
        members = self._cluster.members
        if node not in members.nodes:
            return f"no node {node!r} is here; these are: {', '.join(members.nodes)}"
        if node in self._drains:
            return f"node {node!r} is being drained already"
        others = [n for n in members.nodes if n != node and n not in members.leaving]
        if self._uses_of(node) and not others:
            return f"no other node is here to take over from {node!r}"
        return None

    def _uses_of(self, node: str) -> tuple[str, ...]:
        """What a node has that must go elsewhere, in words."""
        records = self._cluster.pipelines.values()
        stages = tuple(
            f"stage {stage.stage} of pipeline {record.plan.id} (layers {stage.start}:{stage.end})"
            for record in records
            for stage in record.plan.stages
            if stage.node == node
        )
        homes = tuple(
            f"the requests of pipeline {record.plan.id}"
            for record in records
            if record.home_node == node
        )
        return stages + homes

    def _is_empty(self, node: str) -> bool:
        busy = any(record.is_busy for record in self._cluster.pipelines.values())
        return not busy and not self._uses_of(node)

    def _end(self, node: str, failure: str) -> None:
        drain = self._drains.pop(node, None)
        if drain is None:
            return
        self._cluster.copy_until.pop(node, None)
        duration_s = self._cluster.context.loop_time() - drain.began
        phases = (PhaseReport(phase="drain", duration_s=duration_s, num_bytes=0),)
        drain.later.reply(
            order_report(self._cluster, reason=failure, moves=drain.moves, phases=phases)
        )
        _log.info("drained node=%s empty=%s", node, not failure)
        self._cluster.tell_node(node, LeaveNow())
