"""What operators order of the plan: other stages for a pipeline, other pipelines, other phases.

An order changes what is wanted; whoever brings that about tells here when it is done. It never
moves anything itself. Nodes that are to leave are `draining`'s, requests `request_orders`'.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial

from actors.cluster import Cluster
from actors.cluster_state import PipelineRecord, Wish
from actors.draining import Drains
from actors.flips import Flips
from actors.kernel.actor import LaterReply
from actors.mender import LookAgain, Mender
from actors.messages import (
    READY,
    ChangePlan,
    ClosePipeline,
    PhaseReport,
    PlanReport,
    WorkerDown,
)
from actors.order_report import order_report
from actors.plan_document import served_plan
from actors.target_plan import describe_moves, new_pipeline, read_json, target_of
from scheduling.errors import InvalidPlan, SchedulingError
from scheduling.plan import PipelinePlan, Plan, Route, check
from scheduling.plan_difference import difference
from transport.codec import Message
from transport.endpoint import Lane

_log = logging.getLogger(__name__)

REACH_TIMEOUT_S = 600.0


class Operations:
    """Orders under way; `look_again` is called after each that changes what is wanted."""

    def __init__(
        self,
        cluster: Cluster,
        mender: Mender,
        drains: Drains,
        look_again: Callable[[], None],
        device_memory: Callable[[], Mapping[tuple[str, str], int]],
    ) -> None:
        self.device_memory = device_memory
        self._cluster = cluster
        self._mender, self._drains = mender, drains
        self._look_again = look_again
        self._flips = Flips(cluster)
        self._report = partial(order_report, cluster)
        self._num_going = 0

    @property
    def is_busy(self) -> bool:
        """Whether an order is under way that changes what serves."""
        wished = any(record.wish is not None for record in self._cluster.pipelines.values())
        return self._drains.is_busy or self._num_going > 0 or wished

    def present_plan(self) -> Plan:
        """The plan that serves."""
        cluster = self._cluster
        return Plan(
            epoch=cluster.epoch,
            model=cluster.settings.model_name,
            pipelines=tuple(record.plan for record in cluster.pipelines.values()),
            routes=cluster.routes,
        )

    def change_plan(self, message: ChangePlan) -> Message | None:
        """Other stages for a pipeline; None where the answer comes later."""
        try:
            data = read_json(message.plan) if message.plan else None
            if isinstance(data, dict) and "pipelines" in data:
                plan = served_plan(data, self._cluster, self.device_memory())
                return self._change_whole(plan, message)
            record = self._cluster.named(message.pipeline)
            later: list[LaterReply] = []
            answer = self._change_one(record, message, lambda report: later[0].reply(report))
            if answer is None:
                later.append(self._cluster.context.reply_later())
            return answer
        except SchedulingError as error:
            return self._report(reason=str(error))

    def _change_one(
        self, record: PipelineRecord, message: ChangePlan, answer: Callable[[PlanReport], None]
    ) -> PlanReport | None:
        """Begin a change; None if its report comes later. Raises `SchedulingError`."""
        cluster = self._cluster
        target = target_of(
            message, record.plan, cluster.members, cluster.spares(), cluster.settings
        )
        _check_same_phase(message, target.plan, record.plan)
        target = replace(target, plan=replace(target.plan, phase=record.plan.phase))
        moves = describe_moves(record.plan, target.plan, cluster.settings.cost)
        if message.is_dry_run or target.plan == record.plan:
            return self._report(moves=moves)
        if record.is_busy or record.state != READY or record.wish is not None:
            what = "changing" if record.state == READY else record.state
            return self._report(reason=f"pipeline {record.plan.id} is {what}: try again later")
        for slot in target.new_slots:
            cluster.start_worker(slot)
        record.wanted = target.plan
        record.wish = Wish(answer, moves)
        cluster.context.schedule(0.0, LookAgain())
        return None

    def give_up_wishes_for(self, down: WorkerDown) -> None:
        """A worker that a change was to use could not be started."""
        for record in list(self._cluster.pipelines.values()):
            is_for_it = any(stage.worker == down.worker for stage in record.wanted.stages)
            if record.wish is not None and is_for_it and not record.is_busy:
                self._mender.give_up_wish(record, f"worker {down.worker} ended: {down.reason}")

    # --- all pipelines at once

    def _change_whole(self, plan: Plan, message: ChangePlan) -> Message | None:
        """Change those that are in both plans, add what is new, remove what is gone."""
        cluster = self._cluster
        check(plan, len(cluster.settings.cost.layer_bytes))
        if plan.model != cluster.settings.model_name or not plan.pipelines:
            return self._report(
                reason=f"plan: expected one or more pipelines of {cluster.settings.model_name!r}",
            )
        if message.is_dry_run:
            return self._report(moves=self._moves_to(plan))
        if self._num_going:
            return self._report(reason="another plan is being gone over to: try again later")
        later = cluster.context.reply_later()
        cluster.context.start_task(self._reply_when_there(plan, later))
        return None

    def _moves_to(self, plan: Plan) -> tuple[str, ...]:
        here, cost = self._cluster.pipelines, self._cluster.settings.cost
        change = difference(self.present_plan(), plan)
        moves: list[str] = []
        for wanted in change.changed:
            moves += describe_moves(here[wanted.id].plan, wanted, cost)
        moves += [f"pipeline {p.id} is added with {len(p.stages)} stages" for p in change.added]
        moves += [f"pipeline {name} is removed" for name in change.removed]
        return (*moves, *self._flips.moves_to({p.id: p.phase for p in plan.pipelines}))

    async def _reply_when_there(self, plan: Plan, later: LaterReply) -> None:
        later.reply(await self.go_over(plan))

    async def go_over(self, plan: Plan) -> PlanReport:
        """One pipeline after another, the first that fails ends it; what is removed goes last."""
        self._num_going += 1
        try:
            return await self._go_over(plan)
        finally:
            self._num_going -= 1

    async def _go_over(self, plan: Plan) -> PlanReport:
        moves, phases = self._moves_to(plan), tuple[PhaseReport, ...]()
        change = difference(self.present_plan(), plan)
        for wanted in (*change.changed, *change.added):
            report = await self._reach(wanted)
            phases += report.phases
            if not report.is_done:
                reason = f"pipeline {wanted.id}: {report.reason}"
                return self._report(reason=reason, moves=moves, phases=phases)
        self._flips.apply({p.id: p.phase for p in plan.pipelines}, plan.routes)
        for name in change.removed:
            if name in self._cluster.pipelines:
                self._remove(name)
        self._look_again()
        return self._report(moves=moves, phases=phases)

    async def _reach(self, wanted: PipelinePlan) -> PlanReport:
        """Bring one pipeline to its plan."""
        done: asyncio.Future[PlanReport] = asyncio.get_running_loop().create_future()

        def answer(report: PlanReport) -> None:
            if not done.done():
                done.set_result(report)

        try:
            now = self._begin(wanted, answer)
            async with asyncio.timeout(REACH_TIMEOUT_S):
                return now or await done
        except SchedulingError as error:
            return self._report(reason=str(error))
        except TimeoutError:
            return self._report(reason=f"it was not there after {REACH_TIMEOUT_S:g} s")

    def _begin(
        self, wanted: PipelinePlan, answer: Callable[[PlanReport], None]
    ) -> PlanReport | None:
        record = self._cluster.pipelines.get(wanted.id)
        if record is not None:
            wanted = replace(wanted, phase=record.plan.phase)
            packed = json.dumps(asdict(wanted)).encode()
            order = ChangePlan(
                pipeline=wanted.id, layers="", num_stages=0, plan=packed, is_dry_run=False
            )
            return self._change_one(record, order, answer)
        cluster = self._cluster
        target = new_pipeline(wanted, cluster.members, cluster.used(), cluster.settings)
        for slot in target.new_slots:
            cluster.start_worker(slot)
        added = PipelineRecord(plan=wanted, wanted=wanted, wish=Wish(answer, ()))
        cluster.pipelines[wanted.id] = added
        cluster.context.schedule(0.0, LookAgain())
        return None

    def _remove(self, name: str) -> None:
        """End a pipeline; its requests go on in the others."""
        record = self._cluster.pipelines.pop(name)
        ways = self._cluster.routes
        self._cluster.routes = tuple(r for r in ways if name not in (r.prefill, r.decode))
        _log.info("pipeline removed pipeline=%s", name)
        if record.home is not None:
            order = ClosePipeline(reason=f"pipeline {name} was removed")
            self._cluster.context.tell(record.home, order, lane=Lane.CONTROL)

    # --- phases

    def flip(
        self, phases: Mapping[str, str], routes: Sequence[Route] = (), *, is_dry_run: bool = False
    ) -> PlanReport:
        """Have pipelines serve other phases from now on; no stage is touched, no request dropped.

        Args:
            phases: by pipeline; the others stay as they are.
            routes: where prefill pipelines hand off to; those that there are stay where none are
                given, as far as phases still allow them.
            is_dry_run: say what would change, and change nothing.
        """
        try:
            if self._num_going:
                raise InvalidPlan("another plan is being gone over to: try again later")
            wanted = self._flips.checked(phases, routes)
        except SchedulingError as error:
            return self._report(reason=str(error))
        moves = self._flips.moves_to(wanted)
        if not is_dry_run and (moves or routes):
            self._flips.apply(wanted, routes)
            self._look_again()
        return self._report(moves=moves)


def _check_same_phase(message: ChangePlan, wanted: PipelinePlan, present: PipelinePlan) -> None:
    """Other stages for one pipeline leave its phase as it is."""
    if message.plan and "phase" in read_json(message.plan) and wanted.phase != present.phase:
        raise InvalidPlan(
            f"pipeline {present.id!r}: expected phase {present.phase!r}, which it serves, got "
            f"{wanted.phase!r}; change it by `ctl flip {present.id} {wanted.phase}`"
        )
