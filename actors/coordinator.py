"""The coordinator: holds the desired plan, and brings the service to it again and again.

It waits for the nodes, has them start a worker for every stage, gives each worker its layers once
all have measured their devices, and opens a pipeline when its stages are ready. Whatever is lost
later, it looks at what is there and takes the next step towards what is wanted (`reconcile`).
What it knows is journalled at every change, so that its next life takes up a running service
without touching it. Requests never pass through here.

What it knows is one `Cluster`; each of its parts has one concern, and this actor says who hears
what: who comes is for `arrivals`, what goes for `losses`, who may be there still for `finding`;
orders are `operations`; what is done about it all is `mender`.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial

from actors.answers import Answers
from actors.arrivals import Arrivals, JoinOver
from actors.attention import Attention, Excuses
from actors.calibrating import Calibrator, LookAtSteps
from actors.cluster import Cluster
from actors.cluster_state import StateStore, restored, stored
from actors.cluster_status import plan_status, route_statuses
from actors.draining import DrainOver, Drains
from actors.finding import Finder
from actors.first_plan import make_plan
from actors.flips import routes_of
from actors.kernel.actor import Actor
from actors.kernel.ref import Ref
from actors.kernel.supervision import Down
from actors.link_probing import LinkProber, LookAtLinks
from actors.listeners import Listeners
from actors.losses import Losses
from actors.mender import LookAgain, Mender
from actors.messages import (
    ChangePhase,
    ChangePlan,
    DrainNode,
    FlipPhases,
    GetPlan,
    GetProcesses,
    GetSteps,
    JoinNode,
    LoadProgress,
    LogLine,
    MoveRequest,
    PipelineDegraded,
    PipelineLost,
    PipelineShort,
    PipelineStages,
    PlanChanged,
    ProcessInfo,
    RegisterRouter,
    Subscribe,
    WorkerDown,
    WorkerUp,
    WorkloadSeen,
)
from actors.operations import Operations
from actors.phase_following import PhaseFollower
from actors.placement import ServiceSettings
from actors.relief import Relief
from actors.replanning import Compute, LookAtPlan, Replanner
from actors.request_orders import move_request
from actors.route_encoding import route_encoding
from actors.settling import Settler
from scheduling.learnt_rates import LearntRate
from scheduling.link_rate import LinkRate
from transport.codec import Message
from transport.frame import Buffer

_log = logging.getLogger(__name__)


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
        self._store, self._pid = store, pid
        self._cluster = cluster = Cluster(settings)
        self._listeners = Listeners(cluster, self._status)
        self._mender = Mender(cluster, self._reconcile, self._listeners.tell_status)
        self._drains = Drains(cluster, self._reconcile)
        self._operations = Operations(
            cluster,
            self._mender,
            self._drains,
            self._reconcile,
            lambda: self._replanner.memory(),
        )

        self._excuses = Excuses(attention or Attention())
        self._losses = Losses(
            cluster,
            self._mender,
            self._operations,
            self._reconcile,
            lambda name: self._arrivals.on_name_free(name),
        )
        self._settler = Settler(cluster)
        self._finder = Finder(cluster, self._losses, self._settler, self._reconcile)
        self._arrivals = Arrivals(cluster, self._finder, self._reconcile)

        self._replanner = Replanner(cluster, self._operations, compute)
        self._calibrator = Calibrator(
            cluster, compute, self._replanner.rates_at_start, self._on_rates
        )
        self._prober = LinkProber(cluster, self._replanner.take_link, links or {})
        self._phases = PhaseFollower(
            cluster,
            self._operations,
            compute,
            self._replanner.situation_of,
            self._replanner.take_workload,
        )
        self._relief = Relief(cluster)
        self._answers = Answers(
            cluster, self._listeners, self._operations, self._replanner, self._phases
        )

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
                return self._arrivals.on_join(message)
            case ChangePlan() | DrainNode() | FlipPhases() | MoveRequest():
                return self._on_order(message)
            case GetPlan() | GetSteps() | GetProcesses():
                return self._answers.on_question(message)
            case WorkerUp():
                self._arrivals.on_worker_up(message)
            case WorkerDown() | Down():
                self._on_end(message)
            case PipelineDegraded() | PipelineLost() | PipelineShort():
                self._on_trouble(message)
            case PipelineStages():
                self._finder.on_stages(message)
            case ChangePhase():
                self._on_phase(message)
            case WorkloadSeen():
                self._phases.take(message)
            case RegisterRouter() | Subscribe():
                self._listeners.add(message)
            case LoadProgress():
                self._listeners.on_progress(message)
            case LogLine():
                self._listeners.tell_launchers(message)
            case _:
                self._on_note(message)
        return None

    def _on_order(self, order: ChangePlan | DrainNode | FlipPhases | MoveRequest) -> Message | None:
        """What an operator wants; None where the answer comes later."""
        match order:
            case ChangePlan():
                return self._operations.change_plan(order)
            case DrainNode():
                return self._drains.begin(order)
            case MoveRequest():
                return move_request(self._cluster, order)
            case FlipPhases():
                routes = routes_of(order)
                phases = dict(order.phases)
                return self._operations.flip(phases, routes, is_dry_run=order.is_dry_run)

    def _on_end(self, news: WorkerDown | Down) -> None:
        """Somebody is gone, or seems to be since we were away."""
        if isinstance(news, WorkerDown):
            self._losses.on_worker_down(news)
            return
        self._listeners.drop(news.ref)
        if self._excuses.excuse(news.ref):
            self._finder.look_for(news.ref)
        else:
            self._losses.on_down(news)

    def _on_trouble(self, news: PipelineDegraded | PipelineLost | PipelineShort) -> None:
        """A pipeline cannot go on as it is."""
        match news:
            case PipelineDegraded():
                self._losses.on_degraded(news)
            case PipelineLost():
                self._losses.on_pipeline_lost(news)
            case PipelineShort():
                self._relief.on_short(news)

    def _on_phase(self, message: ChangePhase) -> None:
        record = self._cluster.pipelines.get(message.pipeline)
        if record is not None and record.is_busy and message.epoch == record.epoch:
            record.phase = message.phase
            self._listeners.tell_status()

    def _on_note(self, note: Message) -> None:
        """What the parts have this actor reminded of."""
        match note:
            case LookAgain():
                self._reconcile()
            case LookAtPlan():
                self._replanner.look()
            case LookAtSteps():
                self._calibrator.look()
            case LookAtLinks():
                self._prober.look()
            case JoinOver():
                self._arrivals.on_join_over(note.node)
            case DrainOver():
                self._drains.on_time_over(note.node)
            case _:
                _log.warning("unexpected message type=%s", type(note).__name__)

    # --- what follows from what is there

    def _reconcile(self) -> None:
        """Take every step that can be taken now."""
        if self._cluster.failure is None:
            make_plan(self._cluster)
            self._mender.mend_all()
            self._drains.end_what_is_done()
        self._settler.settle_the_rest()
        self._replanner.note()
        self._phases.note()
        self._prober.note()
        self._calibrator.note()
        self._publish()

    def _adopt(self, saved: bytes) -> None:
        """Go on where an earlier life ended: nothing that runs is touched."""
        cluster, found = self._cluster, restored(saved)
        cluster.adopt(found)
        for node in cluster.members.nodes.values():
            self.context.watch(node.ref)
        for worker in cluster.members.workers.values():
            self.context.watch(worker.ref)
        for record in found.records:
            if record.home is not None:
                self._finder.take_up(record, record.home)
        _log.info(
            "took up a running service epoch=%d pipelines=%d", cluster.epoch, len(found.records)
        )

    # --- what is told

    def _publish(self) -> None:
        cluster = self._cluster
        self._listeners.tell_status()
        if self._store is not None:
            records = cluster.pipelines.values()
            self._store.save(stored(cluster.epoch, cluster.members, records, cluster.routes))

    def _on_rates(self, learnt: Mapping[str, LearntRate]) -> None:
        """Devices are not as fast as was thought: routers are to know."""
        self._replanner.take_rates(learnt)
        self._listeners.tell_status()

    def _status(self) -> PlanChanged:
        cluster = self._cluster
        encoding = partial(
            route_encoding, cluster.settings, cluster.members.workers, self._replanner.link_rate
        )
        own = ProcessInfo(role="coordinator", name="coordinator", pid=self._pid)
        return plan_status(
            cluster,
            (own, *self._listeners.gateways()),
            route_statuses(
                cluster.pipelines.values(), cluster.routes, self._replanner.link_rate, encoding
            ),
            self._replanner.batch_times(),
            wants_workload=self._phases.is_able,
        )
