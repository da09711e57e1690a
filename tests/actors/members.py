"""Nodes and workers as membership knows them, in a few words."""

from collections.abc import Sequence

from actors.kernel.ref import Ref
from actors.membership import Members, Starting
from actors.messages import JoinNode, WorkerUp
from actors.placement import WorkerSlot
from scheduling.plan import NodeId, PipelineId, PipelinePlan, StagePlan, WorkerId
from tests.actors.wanted import MB


def ref(name: str, life: int = 1) -> Ref:
    return Ref(address=f"tcp://{name}", incarnation=life, name="actor", generation=1)


def join(node: str, life: int = 1, *, devices: Sequence[str] = ("cpu",)) -> JoinNode:
    return JoinNode(
        node=node,
        ref=ref(f"node-{node}", life),
        devices=tuple(devices),
        num_cores=8,
        version="1",
    )


def slot(worker: str, *, stage: int = 0, device: str = "cpu") -> WorkerSlot:
    """A worker's place; its name begins with that of its node."""
    return WorkerSlot(
        worker=worker,
        pipeline="0",
        stage=stage,
        node=worker.split("/")[0],
        device=device,
        num_threads=4,
        layers=None,
    )


def up(worker: str, life: int = 1, *, memory_bytes: int = 1000 * MB) -> WorkerUp:
    return WorkerUp(
        worker=worker,
        ref=ref(worker, life),
        pid=life,
        device="cpu",
        device_name="played",
        memory_bytes=memory_bytes,
        flops_per_s=1e12,
        bytes_per_s=1e9,
        layer_overhead_s=0.0,
    )


def members_of(*workers: str) -> Members:
    """The nodes of these workers, and the workers, all up."""
    members = Members()
    for node in dict.fromkeys(worker.split("/")[0] for worker in workers):
        members += join(node)
    for number, worker in enumerate(workers):
        members = members + Starting(slot(worker, stage=number)) + up(worker)
    return members


def plan_of(ranges: Sequence[tuple[int, int]], workers: Sequence[str]) -> PipelinePlan:
    """A pipeline's plan: these layers on these workers."""
    return PipelinePlan(
        id=PipelineId("0"),
        stages=tuple(
            StagePlan(
                stage=number,
                node=NodeId(worker.split("/")[0]),
                worker=WorkerId(worker),
                device="cpu",
                start=start,
                end=end,
            )
            for number, ((start, end), worker) in enumerate(zip(ranges, workers, strict=True))
        ),
        num_blocks=40,
        block_tokens=4,
    )
