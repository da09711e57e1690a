"""Workers that were out of reach drop what they were told to drop meanwhile.

The one idea: nothing is dropped of a pipeline while it is not known what that serves over, since
its actor may serve all the time and not have said so yet. Such a worker waits until it has.
"""

from actors.cluster import Cluster
from actors.cluster_state import PipelineRecord
from actors.kernel.ref import Ref
from actors.messages import SettleEpoch, WorkerUp
from transport.endpoint import Lane


class Settler:
    """Settles workers with each pipeline, at once or when that has said what it serves over."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._waiting: dict[str, dict[str, Ref]] = {}  # by pipeline, then by worker

    def settle(self, worker: WorkerUp) -> None:
        """A worker is in reach again."""
        for pipeline, record in self._cluster.pipelines.items():
            if record.serving:
                self._settle_with(record, worker.ref)
            else:
                self._waiting.setdefault(pipeline, {})[worker.worker] = worker.ref

    def settle_the_rest(self) -> None:
        """It may be known by now what more pipelines serve over."""
        for pipeline in tuple(self._waiting):
            record = self._cluster.pipelines.get(pipeline)
            if record is None:
                del self._waiting[pipeline]
            elif record.serving and not record.is_busy:
                for worker in self._waiting.pop(pipeline).values():
                    self._settle_with(record, worker)

    def _settle_with(self, record: PipelineRecord, worker: Ref) -> None:
        served = record.served_epoch
        is_used = worker in record.serving.values()
        order = SettleEpoch(pipeline=record.plan.id, epoch=served if is_used else 0, upto=served)
        self._cluster.context.tell(worker, order, lane=Lane.CONTROL)
