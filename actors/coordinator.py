"""The coordinator: holds the desired plan, and brings the service to it again and again.

It waits for the nodes, has them start a worker for every stage, gives each worker its layers once
all have measured their devices, and opens a pipeline when its stages are ready. Whatever is lost
later, it looks at what is there and takes the next step towards what is wanted (`reconcile`).
What it knows is journalled at every change, so that its next life takes up a running service
without touching it. Requests never pass through here.
"""

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial

from actors.attention import Attention, Excuses
from actors.calibrating import Calibrator, LookAtSteps
from actors.cluster import Cluster
from actors.cluster_state import (
    READY,
    PipelineRecord,
    StateStore,
    restored,
    stored,
)
from actors.cluster_status import missing_parts, plan_status, route_statuses
from actors.flips import routes_of
from actors.kernel.actor import Actor, LaterReply
from actors.kernel.errors import ActorError
from actors.kernel.ref import Ref
from actors.kernel.supervision import Down
from actors.link_probing import LinkProber, LookAtLinks
from actors.membership import NodeLost
from actors.mender import LookAgain, Mender
from actors.messages import (
    AreYouThere,
    ChangePhase,
    ChangePlan,
    ClosePipeline,
    DrainNode,
    Fence,
    FlipPhases,
    GetPipelineStages,
    GetPlan,
    GetProcesses,
    GetSteps,
    JoinNode,
    JoinRefused,
    LoadProgress,
    LogLine,
    MoveRequest,
    PipelineDegraded,
    PipelineLost,
    PipelineOpen,
    PipelineShort,
    PipelineStages,
    PlanChanged,
    PlanDocument,
    ProcessInfo,
    Progress,
    RegisterRouter,
    SettleEpoch,
    StepsDocument,
    Subscribe,
    Welcome,
    WorkerDown,
    WorkerUp,
    WorkloadSeen,
)
from actors.operations import DrainOver, Operations
from actors.phase_following import PhaseFollower
from actors.placement import ServiceSettings, plan_pipelines, wanted_workers
from actors.process_addresses import process_addresses
from actors.relief import Relief
from actors.replanning import Compute, LookAtPlan, Replanner
from actors.route_encoding import route_encoding
from actors.step_report import measured_stages, steps_document
from scheduling.errors import SchedulingError
from scheduling.learnt_rates import LearntRate
from scheduling.link_rate import LinkRate
from transport.codec import Message
from transport.endpoint import Lane
from transport.errors import TransportError
from transport.frame import Buffer

_log = logging.getLogger(__name__)

JOIN_PATIENCE_S = 2.0
"""How long a node waits for the life before it to be missed."""
FIND_TIMEOUT_S = 5.0


class JoinOver(Message, frozen=True, tag="join_over"):
    """Is the name that a node wants free by now? The coordinator's note to itself."""

    node: str


class CoordinatorActor(Actor):
    """Brings one service up and keeps it up."""

    def __init__(
        self,
        settings: ServiceSettings,
        store: StateStore | None = None,
        *,
        pid: int = 0,
        attention: Attention | None = None,
        compute: Compute = asyncio.to_thread,
        links: Mapping[tuple[str, str], LinkRate] | None = None,
    ) -> None:
        """A life over what `store` has of an earlier one.

        `compute` runs a blocking function, the search for a better plan, off the event loop.
        `links` are those between nodes where they are known beforehand, as in a simulation.
        """
        self._excuses = Excuses(attention or Attention())
        self._cluster = Cluster(settings)
        self._mender = Mender(self._cluster, self._reconcile, self._tell_listeners)
        self._operations = Operations(
            self._cluster, self._mender, self._reconcile, lambda: self._replanner.memory()
        )
        self._replanner = Replanner(self._cluster, self._operations, compute)
        self._calibrator = Calibrator(
            self._cluster, compute, self._replanner.rates_at_start, self._on_rates
        )
        self._prober = LinkProber(self._cluster, self._replanner.take_link, links or {})
        self._phases = PhaseFollower(
            self._cluster,
            self._operations,
            compute,
            self._replanner.situation_of,
            self._replanner.take_workload,
        )
        self._relief = Relief(self._cluster)
        self._store = store
        self._pid = pid
        self._routers: dict[Ref, int] = {}
        self._launchers: dict[Ref, None] = {}
        self._unsettled: dict[str, dict[str, Ref]] = {}
        self._waiting_joins: dict[str, tuple[JoinNode, LaterReply]] = {}

    async def on_start(self) -> None:
        """Take up what an earlier life left, if it left anything."""
        self._cluster.context = self.context
        saved = self._store.load() if self._store is not None else None
        if saved is not None:
            self._adopt(saved)

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        """Take what nodes, workers, pipelines, routers and launchers tell."""
        match message:
            case JoinNode():
                return self._on_join(message)
            case WorkerUp():
                self._on_worker_up(message)
            case WorkerDown():
                self._on_worker_down(message)
            case LoadProgress():
                self._on_progress(message)
            case PipelineDegraded():
                self._on_degraded(message)
            case PipelineLost():
                self._on_pipeline_lost(message)
            case ChangePlan():
                return self._operations.change_plan(message)
            case GetPlan():
                self.context.start_task(self._present_plan(self.context.reply_later()))
            case GetSteps():
                self.context.start_task(self._tell_steps(self.context.reply_later()))
            case LookAtPlan():
                self._replanner.look()
            case LookAtSteps():
                self._calibrator.look()
            case LookAtLinks():
                self._prober.look()
            case DrainNode():
                return self._operations.drain(message)
            case FlipPhases():
                routes = routes_of(message)
                dry = message.is_dry_run
                return self._operations.flip(dict(message.phases), routes, is_dry_run=dry)
            case MoveRequest():
                return self._operations.move_request(message)
            case WorkloadSeen():
                self._phases.take(message)
            case PipelineShort():
                self._relief.on_short(message)
            case DrainOver():
                self._operations.end_drain(message.node, "its time was over before it was empty")
            case PipelineStages():
                self._on_stages(message)
            case ChangePhase():
                self._on_phase(message)
            case JoinOver():
                self._on_join_over(message.node)
            case LookAgain():
                self._reconcile()
            case GetProcesses():
                return process_addresses(self._cluster, self.context.self_ref, self._routers)
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

    def _on_join(self, message: JoinNode) -> Message | None:
        known = self._cluster.members.nodes.get(message.node)
        wanted = self._cluster.settings.wait_nodes
        if wanted and message.node not in wanted:
            names = ", ".join(wanted)
            return JoinRefused(reason=f"node {message.node!r} is not in the plan; it has: {names}")
        if known is None or known.ref == message.ref:
            return self._welcome(message)
        if message.node in self._waiting_joins:
            return _refusal(message.node)
        self._waiting_joins[message.node] = (message, self.context.reply_later())
        self.context.schedule(JOIN_PATIENCE_S, JoinOver(message.node))
        return None

    def _welcome(self, message: JoinNode) -> Welcome:
        self._cluster.members += message
        self.context.watch(message.ref)
        self._on_workers_of(message)
        for opened in message.pipelines:
            self._on_pipeline_of(message.node, opened)
        _log.info("node joined node=%s devices=%s", message.node, ",".join(message.devices))
        self._reconcile()
        return Welcome(epoch=self._cluster.epoch)

    def _on_join_over(self, name: str) -> None:
        """The node that has the name lives after all."""
        waiting = self._waiting_joins.pop(name, None)
        if waiting is not None:
            waiting[1].reply(_refusal(name))

    def _on_pipeline_of(self, node: str, opened: PipelineOpen) -> None:
        """A node that comes back has a pipeline's actor: it goes on, unless another has begun."""
        record = self._cluster.pipelines.get(opened.pipeline)
        if record is not None and record.home == opened.ref:
            return
        if record is None or record.home is not None or record.is_busy:
            reason = "another life of it serves already"
            self.context.tell(opened.ref, ClosePipeline(reason=reason), lane=Lane.CONTROL)
            return
        record.home, record.home_node, record.opened_epoch = opened.ref, node, opened.epoch
        self._take_up_pipeline(record, opened.ref)

    def _on_workers_of(self, joined: JoinNode) -> None:
        """A node that was here before says which of its workers live: that is how it is."""
        alive = {up.worker: up for up in joined.workers}
        for name in self._cluster.members.on_node(joined.node):
            if name in alive:
                self._cluster.members += alive[name]
                self.context.start_task(self._find_again(alive[name]))
            elif name in self._cluster.members.workers:
                self._cluster.members += WorkerDown(
                    worker=name, pid=0, reason="its node has it no more"
                )

    def _on_listener(self, message: RegisterRouter | Subscribe) -> None:
        if isinstance(message, RegisterRouter):
            self._routers[message.ref] = message.pid
        else:
            self._launchers[message.ref] = None
        self.context.watch(message.ref)
        self.context.tell(message.ref, self._status(), lane=Lane.CONTROL)

    def _on_down(self, down: Down) -> None:
        self._routers.pop(down.ref, None)
        self._launchers.pop(down.ref, None)
        if self._excuses.excuse(down.ref):
            self._look_for(down.ref)
            return
        self._count_as_lost(down)

    def _count_as_lost(self, down: Down) -> None:
        if (node := self._cluster.members.node_at(down.ref)) is not None:
            self._on_node_lost(node, str(down.reason))
        elif (worker := self._cluster.members.worker_at(down.ref)) is not None:
            self._cluster.end_worker(worker)
        for record in self._cluster.pipelines.values():
            if record.home == down.ref and not record.is_handing_over:
                self._mender.lose_home(record, f"its actor is gone ({down.reason})")
        self._reconcile()

    def _look_for(self, ref: Ref) -> None:
        """We were away ourselves: whoever answers us now was never lost."""
        members, start_task = self._cluster.members, self.context.start_task
        if (name := members.node_at(ref)) is not None:
            start_task(self._find_node_again(members.nodes[name]))
        elif (worker := members.worker_at(ref)) is not None:
            start_task(self._find_again(members.workers[worker]))
        for record in self._cluster.pipelines.values():
            if record.home == ref:
                start_task(self._find_home_again(record, ref))

    async def _find_node_again(self, node: JoinNode) -> None:
        """It may also join again by itself, and is watched then."""
        is_there = True
        try:
            await self.context.ask(node.ref.whichever(), AreYouThere(), timeout_s=FIND_TIMEOUT_S)
        except (ActorError, TransportError):
            is_there = False
        known = self._cluster.members.nodes.get(node.node)
        if known is None or known.ref != node.ref:
            return
        if is_there:
            self.context.watch(node.ref)
            return
        self._on_node_lost(node.node, "out of reach since we were away")
        self._reconcile()

    async def _find_home_again(self, record: PipelineRecord, home: Ref) -> None:
        answer = await self._ask_stages(record, home)
        if record.home != home or record.is_handing_over:
            return
        if answer is None:
            self._mender.lose_home(record, "its actor does not answer since we were away")
            self._reconcile()
            return
        self.context.watch(home)
        self._on_stages(answer)

    def _on_node_lost(self, name: str, reason: str) -> None:
        _log.error("node lost node=%s reason=%s", name, reason)
        self._cluster.members += NodeLost(name)
        for record in self._cluster.pipelines.values():
            if record.home_node == name:
                self._mender.lose_home(record, f"node {name} was lost ({reason})")
        if (waiting := self._waiting_joins.pop(name, None)) is not None:
            waiting[1].reply(self._welcome(waiting[0]))

    def _on_worker_up(self, message: WorkerUp) -> None:
        self._take_up(message)
        self._reconcile()

    def _take_up(self, message: WorkerUp) -> None:
        self._cluster.members += message
        if self._cluster.members.workers.get(message.worker) is not message:
            return
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

    async def _find_again(self, worker: WorkerUp) -> None:
        """Watch a worker that its node still has: it may have been out of our reach alone."""
        try:
            await self.context.ask(worker.ref.whichever(), Fence(epoch=0), timeout_s=FIND_TIMEOUT_S)
        except (ActorError, TransportError):
            if self._cluster.members.workers.get(worker.worker) == worker:
                self._cluster.end_worker(worker.worker)
        else:
            self.context.watch(worker.ref)
            self._settle(worker)

    def _settle(self, worker: WorkerUp) -> None:
        """One that was out of reach may hold what it was told to drop meanwhile.

        It drops nothing of a pipeline while we do not know what that serves over: its actor may
        serve all the time, and not have said so yet.
        """
        for pipeline, record in self._cluster.pipelines.items():
            if record.serving:
                self._settle_for(record, worker.ref)
            else:
                self._unsettled.setdefault(pipeline, {})[worker.worker] = worker.ref

    def _settle_for(self, record: PipelineRecord, worker: Ref) -> None:
        served = record.served_epoch
        is_used = worker in record.serving.values()
        order = SettleEpoch(pipeline=record.plan.id, epoch=served if is_used else 0, upto=served)
        self.context.tell(worker, order, lane=Lane.CONTROL)

    def _settle_the_rest(self) -> None:
        """What pipelines serve over is known by now of some of which it was not."""
        for pipeline in tuple(self._unsettled):
            record = self._cluster.pipelines.get(pipeline)
            if record is None:
                del self._unsettled[pipeline]
            elif record.serving and not record.is_busy:
                for worker in self._unsettled.pop(pipeline).values():
                    self._settle_for(record, worker)

    def _on_worker_down(self, message: WorkerDown) -> None:
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
        self._reconcile()

    def _reconcile(self) -> None:
        """Take every step that can be taken now."""
        if self._cluster.failure is None:
            self._make_plan()
            for record in list(self._cluster.pipelines.values()):
                if not record.is_busy:
                    self._mender.mend(record)
            if self._cluster.pipelines and all(
                r.state == READY for r in self._cluster.pipelines.values()
            ):
                self._cluster.keep_spares()
            self._operations.end_what_is_done()
        self._settle_the_rest()
        self._replanner.note()
        self._phases.note()
        self._prober.note()
        self._calibrator.note()
        self._publish()

    async def _present_plan(self, later: LaterReply) -> None:
        measured = await measured_stages(self._cluster)
        planner = {**self._replanner.report(measured), "phases": self._phases.report()}
        answer = PlanDocument(
            plan=json.dumps(self._operations.present_plan().to_dict()).encode(),
            planner=json.dumps(planner).encode(),
        )
        later.reply(answer)

    async def _tell_steps(self, later: LaterReply) -> None:
        told = steps_document(self._cluster, await measured_stages(self._cluster))
        later.reply(StepsDocument(steps=json.dumps(told).encode()))

    def _make_plan(self) -> None:
        """Made once, from what all workers measured: who keeps its place keeps its layers."""
        if self._cluster.pipelines:
            return
        try:
            if not self._cluster.members.slots:
                self._start_first_workers()
            elif len(self._cluster.members.workers) == len(self._cluster.members.slots):
                slots = tuple(self._cluster.members.slots.values())
                for plan in plan_pipelines(
                    self._cluster.settings, slots, self._cluster.members.workers
                ):
                    self._cluster.pipelines[plan.id] = PipelineRecord(plan=plan, wanted=plan)
            else:
                for name in self._cluster.members.slots:
                    if self._cluster.members.may_start(name):
                        self._cluster.start_worker(self._cluster.members.slots[name])
        except SchedulingError as error:
            self._cluster.fail(str(error))

    def _start_first_workers(self) -> None:
        if not missing_parts(self._cluster.settings, self._cluster.members, ()):
            for slot in wanted_workers(self._cluster.settings, self._cluster.members.nodes):
                self._cluster.start_worker(slot)

    def _on_degraded(self, message: PipelineDegraded) -> None:
        """A pipeline cannot reach some of its workers: to it they are lost, so they must go."""
        record = self._cluster.pipelines.get(message.pipeline)
        if record is None or not record.serving or message.epoch < record.opened_epoch:
            return
        self._lose_workers(record, message.lost, message.reason)
        self._reconcile()

    def _lose_workers(self, record: PipelineRecord, lost: Sequence[Ref], reason: str) -> None:
        self._mender.note_loss(record, reason)
        record.lost.update(lost)
        for ref in lost:
            if (worker := self._cluster.members.worker_at(ref)) is not None:
                self._cluster.end_worker(worker)

    def _on_pipeline_lost(self, message: PipelineLost) -> None:
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
        self._reconcile()

    def _on_stages(self, told: PipelineStages) -> None:
        """Take a pipeline's word for what it serves over, where we do not know better.

        One that ended may have spoken before it did.
        """
        record = self._cluster.pipelines.get(told.pipeline)
        if record is None or record.is_busy or record.home is None:
            return
        if not record.serving or told.epoch > record.served_epoch:
            record.found(told, self._cluster.members)
        if told.lost:
            self._lose_workers(record, told.lost, "its actor cannot reach some of its stages")
        self._reconcile()

    def _on_phase(self, message: ChangePhase) -> None:
        record = self._cluster.pipelines.get(message.pipeline)
        if record is not None and record.is_busy and message.epoch == record.epoch:
            record.phase = message.phase
            self._tell_listeners()

    def _on_progress(self, message: LoadProgress) -> None:
        record = self._cluster.pipelines.get(message.pipeline)
        if record is None or message.epoch != record.epoch:
            return
        record.loaded[message.stage] = message
        told = [stage for r in self._cluster.pipelines.values() for stage in r.loaded.values()]
        progress = Progress(
            num_bytes=sum(stage.num_bytes for stage in told),
            total_bytes=sum(stage.total_bytes for stage in told),
        )
        for launcher in self._launchers:
            self.context.tell(launcher, progress, lane=Lane.CONTROL)

    def _tell_listeners(self) -> None:
        status = self._status()
        for listener in (*self._routers, *self._launchers):
            self.context.tell(listener, status, lane=Lane.CONTROL)

    def _publish(self) -> None:
        self._tell_listeners()
        if self._store is not None:
            self._store.save(
                stored(
                    self._cluster.epoch,
                    self._cluster.members,
                    self._cluster.pipelines.values(),
                    self._cluster.routes,
                )
            )

    def _status(self) -> PlanChanged:
        cluster = self._cluster
        link_rate = self._replanner.link_rate
        encoding = partial(route_encoding, cluster.settings, cluster.members.workers, link_rate)
        own = ProcessInfo(role="coordinator", name="coordinator", pid=self._pid)
        gateways = (
            ProcessInfo(role="gateway", name=f"gateway-{n}", pid=pid)
            for n, pid in enumerate(self._routers.values())
        )
        return plan_status(
            cluster.epoch,
            cluster.settings,
            cluster.members,
            cluster.pipelines.values(),
            cluster.failure,
            (own, *gateways),
            route_statuses(cluster.pipelines.values(), cluster.routes, link_rate, encoding),
            self._replanner.batch_times(),
            wants_workload=self._phases.is_able,
        )

    def _on_rates(self, learnt: Mapping[str, LearntRate]) -> None:
        """Devices are not as fast as was thought: routers are to know."""
        self._replanner.take_rates(learnt)
        self._tell_listeners()

    def _adopt(self, saved: bytes) -> None:
        """Go on where an earlier life ended: nothing that runs is touched."""
        found = restored(saved)
        records = found.records
        self._cluster.epoch, self._cluster.members = found.epoch, found.members
        self._cluster.pipelines = {record.plan.id: record for record in records}
        self._cluster.routes = found.routes
        for node in self._cluster.members.nodes.values():
            self.context.watch(node.ref)
        for worker in self._cluster.members.workers.values():
            self.context.watch(worker.ref)
        for record in records:
            if record.home is not None:
                self._take_up_pipeline(record, record.home)
        _log.info(
            "took up a running service epoch=%d pipelines=%d", self._cluster.epoch, len(records)
        )

    def _take_up_pipeline(self, record: PipelineRecord, home: Ref) -> None:
        record.is_busy = True
        self.context.start_task(self._ask_home(record, home))

    async def _ask_home(self, record: PipelineRecord, home: Ref) -> None:
        """A change may have been made while nobody was here to note it: the pipeline knows."""
        answer = await self._ask_stages(record, home)
        record.is_busy = False
        if answer is not None:
            self.context.watch(home)
            self._on_stages(answer)
        elif record.home == home:
            self._mender.lose_home(record, "its actor does not answer")
        self._reconcile()

    async def _ask_stages(self, record: PipelineRecord, home: Ref) -> PipelineStages | None:
        try:
            question = GetPipelineStages()
            answer = await self.context.ask(home.whichever(), question, timeout_s=FIND_TIMEOUT_S)
        except (ActorError, TransportError) as error:
            _log.warning("pipeline does not answer pipeline=%s error=%s", record.plan.id, error)
            return None
        return answer if isinstance(answer, PipelineStages) else None


def _refusal(node: str) -> JoinRefused:
    return JoinRefused(reason=f"a node named {node!r} is here already")
