"""The coordinator: holds the desired plan, brings the service up and says how it stands.

It waits for the nodes, has them start a worker for every stage, gives each worker its layers once
all have measured their devices, and opens a pipeline when its stages are ready. A pipeline that
loses a stage comes up again at the next epoch, with a new worker in the lost one's place.
Requests never pass through here.
"""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from actors.bring_up import BringUp, BroughtUp, bring_up
from actors.kernel.actor import Actor
from actors.kernel.ref import Ref
from actors.kernel.supervision import Down
from actors.messages import (
    JoinNode,
    JoinRefused,
    LoadProgress,
    LogLine,
    PipelineLost,
    PipelineStatus,
    PlanChanged,
    Progress,
    RegisterRouter,
    StageReady,
    StageStatus,
    StartWorker,
    StopWorker,
    Subscribe,
    Welcome,
    WorkerDown,
    WorkerUp,
)
from actors.placement import (
    ServiceSettings,
    WorkerSlot,
    missing_nodes,
    plan_pipelines,
    wanted_workers,
)
from scheduling.errors import SchedulingError
from scheduling.plan import PipelinePlan, StagePlan
from transport.codec import Message
from transport.endpoint import Lane
from transport.frame import Buffer

_log = logging.getLogger(__name__)

MAX_RESTARTS = 5
RESTART_PERIOD_S = 60.0
LOST_GRACE_S = 5.0
"""A lost pipeline's worker is missed within this; if none is, the pipeline is stuck."""
MAX_REASON = 4096

LOADING, READY, LOST = "loading", "ready", "lost"


@dataclass(slots=True)
class _Pipeline:
    """What is known of one pipeline: its plan, and how far it is."""

    plan: PipelinePlan
    epoch: int
    state: str = LOADING
    reason: str = ""
    ref: Ref | None = None
    stages: tuple[StageReady, ...] = ()
    loaded: dict[int, LoadProgress] = field(default_factory=dict)


class LookAgain(Message, frozen=True, tag="look_again"):
    """Is a lost pipeline coming back? The coordinator's note to itself, never on the wire."""

    pipeline: str
    epoch: int


class CoordinatorActor(Actor):
    """Brings one service up and keeps it up."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._epoch = 0
        self._nodes: dict[str, JoinNode] = {}
        self._slots: dict[str, WorkerSlot] = {}
        self._workers: dict[str, WorkerUp] = {}
        self._starting: set[str] = set()
        self._ending: set[str] = set()
        self._renewed: set[str] = set()
        self._pipelines: dict[str, _Pipeline] = {}
        self._routers: dict[Ref, None] = {}
        self._launchers: dict[Ref, None] = {}
        self._restarts: deque[float] = deque(maxlen=MAX_RESTARTS)
        self._failure: str | None = None

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        """Take what nodes, workers, stages, routers and launchers tell."""
        match message:
            case JoinNode():
                return self._on_join(message)
            case WorkerUp():
                self._on_worker_up(message)
            case WorkerDown():
                self._on_worker_down(message)
            case LoadProgress():
                self._on_progress(message)
            case PipelineLost():
                self._mark_lost(message.pipeline, message.epoch, message.reason)
            case LookAgain():
                self._look_again(message)
            case RegisterRouter() | Subscribe():
                self._on_listener(message)
            case LogLine():
                for launcher in self._launchers:
                    self.context.tell(launcher, message)
            case Down():
                self._on_down(message)
            case _:
                _log.warning("unexpected message type=%s", type(message).__name__)
        return None

    # --- members

    def _on_join(self, message: JoinNode) -> Message:
        if message.node in self._nodes:
            return JoinRefused(reason=f"a node named {message.node!r} is here already")
        wanted = self._settings.wait_nodes
        if wanted and message.node not in wanted:
            names = ", ".join(wanted)
            return JoinRefused(reason=f"node {message.node!r} is not in the plan; it has: {names}")
        self._nodes[message.node] = message
        self.context.watch(message.ref)
        _log.info("node joined node=%s devices=%s", message.node, ",".join(message.devices))
        self._start_missing_workers()
        self._publish()
        return Welcome(epoch=self._epoch)

    def _on_listener(self, message: RegisterRouter | Subscribe) -> None:
        group = self._routers if isinstance(message, RegisterRouter) else self._launchers
        group[message.ref] = None
        self.context.watch(message.ref)
        self.context.tell(message.ref, self._status(), lane=Lane.CONTROL)

    def _on_down(self, down: Down) -> None:
        self._routers.pop(down.ref, None)
        self._launchers.pop(down.ref, None)
        for name in [n for n, node in self._nodes.items() if node.ref == down.ref]:
            self._on_node_lost(name, str(down.reason))
        for name in [n for n, worker in self._workers.items() if worker.ref == down.ref]:
            self._on_worker_silent(name)

    def _on_node_lost(self, name: str, reason: str) -> None:
        _log.error("node lost node=%s reason=%s", name, reason)
        del self._nodes[name]
        for slot in [s for s in self._slots.values() if s.node == name]:
            self._workers.pop(slot.worker, None)
            self._starting.discard(slot.worker)
            self._ending.discard(slot.worker)
            self._renewed.discard(slot.worker)
            self._mark_lost(slot.pipeline, self._epoch, f"node {name} was lost ({reason})")
        self._publish()

    # --- workers

    def _start_missing_workers(self) -> None:
        if self._failure is not None:
            return
        if not self._slots and not self._missing_nodes():
            self._choose_slots()
        for slot in self._slots.values():
            is_wanted = slot.worker not in self._workers and slot.worker not in self._starting
            if is_wanted and slot.node in self._nodes:
                self._start_worker(slot)

    def _choose_slots(self) -> None:
        try:
            slots = wanted_workers(self._settings, self._nodes)
        except SchedulingError as error:
            self._fail(str(error))
        else:
            self._slots = {slot.worker: slot for slot in slots}

    def _start_worker(self, slot: WorkerSlot) -> None:
        self._starting.add(slot.worker)
        start = StartWorker(worker=slot.worker, device=slot.device, num_threads=slot.num_threads)
        self.context.tell(self._nodes[slot.node].ref, start, lane=Lane.CONTROL)

    def _on_worker_up(self, message: WorkerUp) -> None:
        if message.worker not in self._slots:
            return
        self._workers[message.worker] = message
        self._starting.discard(message.worker)
        self.context.watch(message.ref)
        _log.info(
            "worker up worker=%s device=%s gflops_per_s=%.0f gbytes_per_s=%.1f "
            "layer_overhead_us=%.0f",
            message.worker,
            message.device_name,
            message.flops_per_s / 1e9,
            message.bytes_per_s / 1e9,
            message.layer_overhead_s * 1e6,
        )
        self._bring_up_lost()
        self._publish()

    def _on_worker_down(self, message: WorkerDown) -> None:
        slot = self._slots.get(message.worker)
        if slot is None:
            return
        self._workers.pop(message.worker, None)
        self._starting.discard(message.worker)
        self._ending.discard(message.worker)
        what = f"stage {slot.stage} on node {slot.node} ended: {message.reason}"
        if not self._has_served(slot.pipeline):
            self._fail(f"stage {slot.stage} on node {slot.node} could not start: {message.reason}")
        elif not self._may_replace(message.worker):
            self._fail(f"{what}; {MAX_RESTARTS} restarts in {RESTART_PERIOD_S:g} s did not help")
        elif slot.node in self._nodes:
            _log.warning("%s; starting it again", what)
            self._start_worker(slot)
        self._mark_lost(slot.pipeline, self._epoch, what)
        self._publish()

    def _on_worker_silent(self, name: str) -> None:
        """End a process that no longer answers: it may hang, and its place is needed."""
        slot = self._slots[name]
        if slot.node in self._nodes and name not in self._ending:
            self._ending.add(name)
            stop = StopWorker(worker=name)
            self.context.tell(self._nodes[slot.node].ref, stop, lane=Lane.CONTROL)

    def _look_again(self, note: LookAgain) -> None:
        """Renew all workers of a pipeline that was lost although none of them was.

        One of them hangs, or two cannot reach each other: from here nobody can tell which.
        """
        pipeline = self._pipelines[note.pipeline]
        names = [stage.worker for stage in pipeline.plan.stages]
        if pipeline.epoch != note.epoch or not self._are_here_to_stay(names):
            return
        if not pipeline.stages:
            self._fail(f"pipeline {note.pipeline} could not start: {pipeline.reason}")
        elif not self._may_restart():
            limit = f"{MAX_RESTARTS} restarts in {RESTART_PERIOD_S:g} s did not help"
            self._fail(f"pipeline {note.pipeline} was lost: {pipeline.reason}; {limit}")
        else:
            _log.warning("pipeline stuck, renewing its workers pipeline=%s", note.pipeline)
            self._renewed.update(names)
            for name in names:
                self._on_worker_silent(name)

    def _are_here_to_stay(self, workers: Sequence[str]) -> bool:
        """Whether no news of any of them is to come that would bring their pipeline back."""
        return all(name in self._workers and name not in self._ending for name in workers)

    def _has_served(self, pipeline: str) -> bool:
        held = self._pipelines.get(pipeline)
        return held is not None and bool(held.stages)

    def _may_replace(self, worker: str) -> bool:
        """One that was ended with its whole pipeline was counted with it."""
        if worker in self._renewed:
            self._renewed.discard(worker)
            return True
        return self._may_restart()

    def _may_restart(self) -> bool:
        now = self.context.loop_time()
        spent = len(self._restarts) == MAX_RESTARTS and now - self._restarts[0] < RESTART_PERIOD_S
        self._restarts.append(now)
        return not spent

    # --- pipelines

    def _bring_up_lost(self) -> None:
        """Bring up every pipeline that is not up and whose workers are all here."""
        lost = [plan for plan in self._plans() if self._is_lost(plan)]
        self._epoch += 1 if lost else 0
        for plan in lost:
            held = self._pipelines.get(plan.id)
            before = () if held is None else held.stages
            pipeline = self._pipelines[plan.id] = _Pipeline(plan, self._epoch, stages=before)
            self.context.start_task(self._bring_up(pipeline, self._bring_up_of(pipeline)))

    def _plans(self) -> tuple[PipelinePlan, ...]:
        """Made once, from what all workers measured: who keeps its place keeps its layers."""
        if self._pipelines:
            return tuple(pipeline.plan for pipeline in self._pipelines.values())
        if len(self._workers) < len(self._slots):
            return ()
        try:
            return plan_pipelines(self._settings, tuple(self._slots.values()), self._workers)
        except SchedulingError as error:
            self._fail(str(error))
            return ()

    def _is_lost(self, plan: PipelinePlan) -> bool:
        held = self._pipelines.get(plan.id)
        is_up = held is not None and held.state != LOST
        return not is_up and self._are_here_to_stay([stage.worker for stage in plan.stages])

    def _bring_up_of(self, pipeline: _Pipeline) -> BringUp:
        return BringUp(
            epoch=pipeline.epoch,
            plan=pipeline.plan,
            settings=self._settings,
            workers={name: worker.ref for name, worker in self._workers.items()},
            head=self._nodes[pipeline.plan.stages[0].node].ref,
            observer=self.context.self_ref,
        )

    async def _bring_up(self, pipeline: _Pipeline, wanted: BringUp) -> None:
        outcome = await bring_up(self.context, wanted)
        if pipeline.state != LOADING:  # it was lost in the meantime
            return
        if isinstance(outcome, BroughtUp):
            pipeline.ref, pipeline.stages, pipeline.state = outcome.ref, outcome.stages, READY
            _log.info("pipeline ready pipeline=%s epoch=%d", pipeline.plan.id, pipeline.epoch)
        elif outcome.refused:
            self._fail(outcome.reason)
        else:
            self._mark_lost(pipeline.plan.id, pipeline.epoch, outcome.reason)
        self._publish()

    def _mark_lost(self, name: str, epoch: int, reason: str) -> None:
        pipeline = self._pipelines.get(name)
        if pipeline is None or pipeline.state == LOST or epoch < pipeline.epoch:
            return
        _log.warning("pipeline lost pipeline=%s epoch=%d reason=%s", name, pipeline.epoch, reason)
        pipeline.state, pipeline.ref, pipeline.reason = LOST, None, reason
        self.context.schedule(LOST_GRACE_S, LookAgain(name, pipeline.epoch))
        self._publish()

    def _on_progress(self, message: LoadProgress) -> None:
        pipeline = self._pipelines.get(message.pipeline)
        if pipeline is None or message.epoch != pipeline.epoch:
            return
        pipeline.loaded[message.stage] = message
        told = [stage for p in self._pipelines.values() for stage in p.loaded.values()]
        progress = Progress(
            num_bytes=sum(stage.num_bytes for stage in told),
            total_bytes=sum(stage.total_bytes for stage in told),
        )
        for launcher in self._launchers:
            self.context.tell(launcher, progress, lane=Lane.CONTROL)

    # --- news

    def _fail(self, reason: str) -> None:
        _log.error("service failed reason=%s", reason)
        self._failure = self._failure or reason[:MAX_REASON]
        self._publish()

    def _publish(self) -> None:
        status = self._status()
        for listener in (*self._routers, *self._launchers):
            self.context.tell(listener, status, lane=Lane.CONTROL)

    def _status(self) -> PlanChanged:
        return PlanChanged(
            epoch=self._epoch,
            model=self._settings.model_name,
            pipelines=tuple(self._pipeline_status(p) for p in self._pipelines.values()),
            nodes=tuple(self._nodes),
            missing=self._missing(),
            failure=self._failure,
        )

    def _missing_nodes(self) -> tuple[str, ...]:
        if not self._slots:
            return missing_nodes(self._settings, tuple(self._nodes))
        used = dict.fromkeys(slot.node for slot in self._slots.values())
        return tuple(f"node {name}" for name in used if name not in self._nodes)

    def _missing(self) -> tuple[str, ...]:
        """What must still come before every stage is ready, in words."""
        if absent := self._missing_nodes():
            return tuple(f"waiting for {what}" for what in absent)
        workers = [
            f"waiting for stage {slot.stage} on node {slot.node} to start"
            for slot in self._slots.values()
            if slot.worker not in self._workers
        ]
        pipelines = [
            f"pipeline {name} is {pipeline.state}"
            for name, pipeline in self._pipelines.items()
            if pipeline.state != READY
        ]
        return tuple(workers or pipelines) if self._slots else ("waiting for a plan",)

    def _pipeline_status(self, pipeline: _Pipeline) -> PipelineStatus:
        plan = pipeline.plan
        return PipelineStatus(
            pipeline=plan.id,
            epoch=pipeline.epoch,
            ref=pipeline.ref,
            state=pipeline.state,
            max_running=self._settings.max_running,
            max_waiting=self._settings.max_waiting,
            stages=tuple(self._stage_status(pipeline, stage) for stage in plan.stages),
        )

    def _stage_status(self, pipeline: _Pipeline, stage: StagePlan) -> StageStatus:
        worker = self._workers.get(stage.worker)
        ready = {s.stage: s for s in pipeline.stages}.get(stage.stage)
        return StageStatus(
            stage=stage.stage,
            node=stage.node,
            device=stage.device,
            worker=stage.worker,
            pid=0 if worker is None else worker.pid,
            start=stage.start,
            end=stage.end,
            kv_blocks=pipeline.plan.num_blocks,
            weight_bytes=0 if ready is None else ready.weight_bytes,
            resident_bytes=0 if ready is None else ready.resident_bytes,
            state=pipeline.state if worker is not None else LOST,
        )
