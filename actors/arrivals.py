"""Who comes: nodes that join, with what they already have, and workers that are up.

The one idea: a node's word is how things are on it. One that was here before says which of its
workers and pipelines' actors live, and these go on. A name is one node's at a time: who wants a
name that another has waits a while for that one to be missed.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from actors.cluster import Cluster
from actors.finding import Finder
from actors.messages import (
    ClosePipeline,
    JoinNode,
    JoinRefused,
    PipelineOpen,
    Welcome,
    WorkerDown,
    WorkerUp,
)
from transport.codec import Message
from transport.endpoint import Lane

if TYPE_CHECKING:
    from actors.kernel.actor import LaterReply

_log = logging.getLogger(__name__)

JOIN_PATIENCE_S = 2.0
"""How long a node waits for the life before it to be missed."""


class JoinOver(Message, frozen=True, tag="join_over"):
    """Is the name that a node wants free by now? The coordinator's note to itself."""

    node: str


class Arrivals:
    """Takes in nodes and workers; `look_again` is called after each."""

    def __init__(self, cluster: Cluster, finder: Finder, look_again: Callable[[], None]) -> None:
        self._cluster, self._finder, self._look_again = cluster, finder, look_again
        self._waiting: dict[str, tuple[JoinNode, LaterReply]] = {}

    def on_join(self, message: JoinNode) -> Message | None:
        """A node wants to join; None where the answer comes later."""
        known = self._cluster.members.nodes.get(message.node)
        wanted = self._cluster.settings.wait_nodes
        if wanted and message.node not in wanted:
            names = ", ".join(wanted)
            return JoinRefused(reason=f"node {message.node!r} is not in the plan; it has: {names}")
        if known is None or known.ref == message.ref:
            return self._welcome(message)
        if message.node in self._waiting:
            return _refusal(message.node)
        self._waiting[message.node] = (message, self._cluster.context.reply_later())
        self._cluster.context.schedule(JOIN_PATIENCE_S, JoinOver(message.node))
        return None

    def on_name_free(self, name: str) -> None:
        """The node that had a name was lost: whoever waits for the name is welcome."""
        if (waiting := self._waiting.pop(name, None)) is not None:
            waiting[1].reply(self._welcome(waiting[0]))

    def on_join_over(self, name: str) -> None:
        """The node that has the name lives after all."""
        if (waiting := self._waiting.pop(name, None)) is not None:
            waiting[1].reply(_refusal(name))

    def on_worker_up(self, message: WorkerUp) -> None:
        """A worker has measured its device, and can be given layers."""
        self._cluster.members += message
        if self._cluster.members.workers.get(message.worker) is message:
            self._cluster.context.watch(message.ref)
            _log.info(
                "worker up worker=%s device=%s gflops_per_s=%.0f gbytes_per_s=%.1f "
                "layer_overhead_us=%.0f",
                message.worker,
                message.device_name,
                message.flops_per_s / 1e9,
                message.bytes_per_s / 1e9,
                message.layer_overhead_s * 1e6,
            )
        self._look_again()

    def _welcome(self, message: JoinNode) -> Welcome:
        self._cluster.members += message
        self._cluster.context.watch(message.ref)
        self._take_workers_of(message)
        for opened in message.pipelines:
            self._take_pipeline_of(message.node, opened)
        _log.info("node joined node=%s devices=%s", message.node, ",".join(message.devices))
        self._look_again()
        return Welcome(epoch=self._cluster.epoch)

    def _take_workers_of(self, joined: JoinNode) -> None:
        """A node that was here before says which of its workers live: that is how it is."""
        alive = {up.worker: up for up in joined.workers}
        for name in self._cluster.members.on_node(joined.node):
            if name in alive:
                self._cluster.members += alive[name]
                self._finder.find_worker(alive[name])
            elif name in self._cluster.members.workers:
                self._cluster.members += WorkerDown(
                    worker=name, pid=0, reason="its node has it no more"
                )

    def _take_pipeline_of(self, node: str, opened: PipelineOpen) -> None:
        """A node that comes back has a pipeline's actor: it goes on, unless another has begun."""
        record = self._cluster.pipelines.get(opened.pipeline)
        if record is not None and record.home == opened.ref:
            return
        if record is None or record.home is not None or record.is_busy:
            reason = "another life of it serves already"
            self._cluster.context.tell(opened.ref, ClosePipeline(reason=reason), lane=Lane.CONTROL)
            return
        record.home, record.home_node, record.opened_epoch = opened.ref, node, opened.epoch
        self._finder.take_up(record, opened.ref)


def _refusal(node: str) -> JoinRefused:
    return JoinRefused(reason=f"a node named {node!r} is here already")
