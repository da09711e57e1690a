"""What is lost: nodes, workers, pipelines' actors, and stages that a pipeline cannot reach.

The one idea: a loss is only noted here, in what is known of the cluster; what is done about it
follows from what is left (`reconcile`). It never asks whether a loss is one: see `finding`.
"""

import logging
from collections.abc import Callable, Sequence

from actors.cluster import Cluster
from actors.cluster_state import PipelineRecord
from actors.kernel.ref import Ref
from actors.kernel.supervision import Down
from actors.membership import NodeLost
from actors.mender import Mender
from actors.messages import PipelineDegraded, PipelineLost, WorkerDown
from actors.operations import Operations

_log = logging.getLogger(__name__)


class Losses:
    """Notes what is lost; `look_again` is called after each."""

    def __init__(
        self,
        cluster: Cluster,
        mender: Mender,
        operations: Operations,
        look_again: Callable[[], None],
        on_name_free: Callable[[str], None],
    ) -> None:
        """`on_name_free` hears the name of each node that is lost: another may take it."""
        self._cluster, self._mender, self._operations = cluster, mender, operations
        self._look_again, self._on_name_free = look_again, on_name_free

    def on_down(self, down: Down) -> None:
        """An actor that was watched is gone: a node's, a worker's, or a pipeline's."""
        members = self._cluster.members
        if (node := members.node_at(down.ref)) is not None:
            self.lose_node(node, str(down.reason))
        elif (worker := members.worker_at(down.ref)) is not None:
            self._cluster.end_worker(worker)
        for record in self._cluster.pipelines.values():
            if record.home == down.ref and not record.is_handing_over:
                self._mender.lose_home(record, f"its actor is gone ({down.reason})")
        self._look_again()

    def lose_node(self, name: str, reason: str) -> None:
        """A node is gone, with its workers and the pipelines' actors that lived there."""
        _log.error("node lost node=%s reason=%s", name, reason)
        self._cluster.members += NodeLost(name)
        for record in self._cluster.pipelines.values():
            if record.home_node == name:
                self._mender.lose_home(record, f"node {name} was lost ({reason})")
        self._on_name_free(name)

    def on_worker_down(self, message: WorkerDown) -> None:
        """A node tells of a worker's end."""
        slot = self._cluster.members.slots.get(message.worker)
        if slot is None:
            return
        is_stillborn = message.worker in self._cluster.members.starting
        is_ordered = message.worker in self._cluster.members.ending
        self._cluster.members += message
        self._operations.give_up_wishes_for(message)
        using = self._cluster.user_of(message.worker)
        is_first = using is not None and not using.has_served and using.wish is None
        if is_first or (using is None and not self._cluster.pipelines):
            self._cluster.fail(
                f"stage {slot.stage} on node {slot.node} could not start: {message.reason}"
            )
        elif using is None:
            self._cluster.num_spare_failures += not is_ordered
        elif is_stillborn:
            self._mender.note_failure(using, f"worker {message.worker} ended: {message.reason}")
        _log.warning("worker ended worker=%s reason=%s", message.worker, message.reason)
        self._look_again()

    def on_degraded(self, message: PipelineDegraded) -> None:
        """A pipeline cannot reach some of its workers: to it they are lost, so they must go."""
        record = self._cluster.pipelines.get(message.pipeline)
        if record is None or not record.serving or message.epoch < record.opened_epoch:
            return
        self.lose_workers(record, message.lost, message.reason)
        self._look_again()

    def lose_workers(self, record: PipelineRecord, lost: Sequence[Ref], reason: str) -> None:
        """A pipeline has lost some of its workers, whether they live or not."""
        self._mender.note_loss(record, reason)
        record.lost.update(lost)
        for ref in lost:
            if (worker := self._cluster.members.worker_at(ref)) is not None:
                self._cluster.end_worker(worker)

    def lose_home(self, record: PipelineRecord, reason: str) -> None:
        """A pipeline's actor is gone."""
        self._mender.lose_home(record, reason)

    def on_pipeline_lost(self, message: PipelineLost) -> None:
        """A pipeline's actor gives up."""
        record = self._cluster.pipelines.get(message.pipeline)
        if record is None or message.epoch < record.opened_epoch or record.home is None:
            return
        if record.is_handing_over:
            return
        late_s = 0.0
        if message.is_stuck:  # one of its workers hangs, and nobody can tell which
            late_s = self._cluster.settings.step_deadline_s
            for stage in record.plan.stages:
                self._cluster.end_worker(stage.worker)
        self._mender.lose_home(record, message.reason, late_s=late_s)
        self._look_again()
