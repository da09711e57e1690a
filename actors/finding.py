"""Whether they are still there: nodes, workers and pipelines that may have been there all the time.

The one idea: where the coordinator itself was away, or is another life of it, what it knows is
old. It asks those it knows of, under a deadline, and takes their word; only who does not answer is
lost. Nothing that runs is touched by being asked.
"""

import logging
from collections.abc import Callable

from actors.cluster import Cluster
from actors.cluster_state import PipelineRecord
from actors.kernel.errors import ActorError
from actors.kernel.ref import Ref
from actors.losses import Losses
from actors.messages import (
    AreYouThere,
    Fence,
    GetPipelineStages,
    JoinNode,
    PipelineStages,
    WorkerUp,
)
from actors.settling import Settler
from transport.codec import Message
from transport.errors import TransportError

_log = logging.getLogger(__name__)

FIND_TIMEOUT_S = 5.0


class Finder:
    """Asks who is there; `look_again` is called when an answer changes what is known."""

    def __init__(
        self, cluster: Cluster, losses: Losses, settler: Settler, look_again: Callable[[], None]
    ) -> None:
        self._cluster, self._losses, self._settler = cluster, losses, settler
        self._look_again = look_again

    def look_for(self, ref: Ref) -> None:
        """We were away ourselves: whoever answers us now was never lost."""
        members, start_task = self._cluster.members, self._cluster.context.start_task
        if (name := members.node_at(ref)) is not None:
            start_task(self._find_node(members.nodes[name]))
        elif (worker := members.worker_at(ref)) is not None:
            start_task(self._find_worker(members.workers[worker]))
        for record in self._cluster.pipelines.values():
            if record.home == ref:
                start_task(self._find_home(record, ref))

    def find_worker(self, worker: WorkerUp) -> None:
        """Watch a worker that its node still has: it may have been out of our reach alone."""
        self._cluster.context.start_task(self._find_worker(worker))

    def take_up(self, record: PipelineRecord, home: Ref) -> None:
        """Go on with a pipeline that was opened before our time."""
        record.is_busy = True
        self._cluster.context.start_task(self._take_up(record, home))

    def on_stages(self, told: PipelineStages) -> None:
        """Take a pipeline's word for what it serves over, where we do not know better.

        One that ended may have spoken before it did.
        """
        record = self._cluster.pipelines.get(told.pipeline)
        if record is None or record.is_busy or record.home is None:
            return
        if not record.serving or told.epoch > record.served_epoch:
            record.found(told, self._cluster.members)
        if told.lost:
            reason = "its actor cannot reach some of its stages"
            self._losses.lose_workers(record, told.lost, reason)
        self._look_again()

    async def _find_node(self, node: JoinNode) -> None:
        """It may also join again by itself, and is watched then."""
        is_there = await self._ask(node.ref, AreYouThere()) is not None
        known = self._cluster.members.nodes.get(node.node)
        if known is None or known.ref != node.ref:
            return
        if is_there:
            self._cluster.context.watch(node.ref)
            return
        self._losses.lose_node(node.node, "out of reach since we were away")
        self._look_again()

    async def _find_worker(self, worker: WorkerUp) -> None:
        if await self._ask(worker.ref, Fence(epoch=0)) is not None:
            self._cluster.context.watch(worker.ref)
            self._settler.settle(worker)
        elif self._cluster.members.workers.get(worker.worker) == worker:
            self._cluster.end_worker(worker.worker)

    async def _find_home(self, record: PipelineRecord, home: Ref) -> None:
        answer = await self._ask_stages(home)
        if record.home != home or record.is_handing_over:
            return
        if answer is None:
            self._losses.lose_home(record, "its actor does not answer since we were away")
            self._look_again()
            return
        self._cluster.context.watch(home)
        self.on_stages(answer)

    async def _take_up(self, record: PipelineRecord, home: Ref) -> None:
        """A change may have been made while nobody was here to note it: the pipeline knows."""
        answer = await self._ask_stages(home)
        record.is_busy = False
        if answer is not None:
            self._cluster.context.watch(home)
            self.on_stages(answer)
        elif record.home == home:
            self._losses.lose_home(record, "its actor does not answer")
        self._look_again()

    async def _ask_stages(self, home: Ref) -> PipelineStages | None:
        answer = await self._ask(home, GetPipelineStages())
        return answer if isinstance(answer, PipelineStages) else None

    async def _ask(self, ref: Ref, question: Message) -> Message | None:
        """The answer of whoever lives there now; None if none came in time."""
        try:
            return await self._cluster.context.ask(
                ref.whichever(), question, timeout_s=FIND_TIMEOUT_S
            )
        except (ActorError, TransportError) as error:
            _log.warning("no answer from=%s to=%s error=%s", ref, type(question).__name__, error)
            return None
