"""States of a plan for tests."""

from actors.messages import ChangeStatus, PhaseReport, PipelineStatus, PlanChanged, StageStatus


def stage(worker: str = "w0", state: str = "ready", number: int = 0) -> StageStatus:
    return StageStatus(
        stage=number,
        node="a",
        device="cpu",
        worker=worker,
        pid=1,
        start=0,
        end=4,
        kv_blocks=8,
        weight_bytes=100,
        resident_bytes=200,
        state=state,
    )


def pipeline(
    *stages: StageStatus,
    name: str = "0",
    state: str = "ready",
    epoch: int = 1,
    phase: str | None = None,
    change: ChangeStatus | None = None,
) -> PipelineStatus:
    return PipelineStatus(
        pipeline=name,
        epoch=epoch,
        ref=None,
        state=state,
        max_running=4,
        max_waiting=4,
        stages=stages or (stage(),),
        last_change=change,
        phase=phase,
    )


def change(epoch: int = 2, cause: str = "swap") -> ChangeStatus:
    phases = (("copy", 1.0, 500), ("pause", 0.25, 0), ("delta", 0.125, 20), ("commit", 0.125, 0))
    return ChangeStatus(
        epoch=epoch,
        cause=cause,
        noticed_s=0.0,
        phases=tuple(PhaseReport(phase=p, duration_s=s, num_bytes=b) for p, s, b in phases),
        recomputed=0.5,
        num_preempted=3,
    )


def plan(*pipelines: PipelineStatus, nodes: tuple[str, ...] = ("a",)) -> PlanChanged:
    return PlanChanged(
        epoch=1, model="horse", pipelines=pipelines, nodes=nodes, missing=(), failure=None
    )
