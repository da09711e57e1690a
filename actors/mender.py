"""Brings pipelines to what is wanted of them: opened, changed over, or moved with all requests.

It takes one step at a time for each pipeline, as `reconcile` decides, and looks again when that is
done or something happened. It never decides what is wanted.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from actors.bring_up import (
    BringUp,
    BroughtUp,
    ChangedOver,
    NotBroughtUp,
    ask_all,
    bring_up,
    change_over,
    hand_over,
)
from actors.cluster import MAX_FAILURES, Cluster
from actors.cluster_state import PipelineRecord
from actors.kernel.ref import Ref
from actors.messages import (
    LOADING,
    LOST,
    MAX_REASON,
    READY,
    RECOVERING,
    ChangeStatus,
    PhaseReport,
    SettleEpoch,
)
from actors.reconcile import Await, Change, Open, Present, Stay, decide
from actors.weights_policy import weight_policy
from transport.codec import Message

_log = logging.getLogger(__name__)

SOON_S = 2.0
"""A pipeline that is lost so soon after it was ready has failed again."""
RETRY_S = 0.2
SETTLE_TIMEOUT_S = 5.0
HAND_OVER_TIMEOUT_S = 30.0


class LookAgain(Message, frozen=True, tag="look_again"):
    """What is to be done now? The coordinator's note to itself, never on the wire."""


class Mender:
    """Takes steps for pipelines; `look_again` is called after each, `show` where one is halfway."""

    def __init__(
        self, cluster: Cluster, look_again: Callable[[], None], show: Callable[[], None]
    ) -> None:
        self._cluster = cluster
        self._look_again = look_again
        self._show = show

    def mend_all(self) -> None:
        """Pipelines first; once all are ready, what is left of the devices is kept warm."""
        pipelines = self._cluster.pipelines
        for record in list(pipelines.values()):
            if not record.is_busy:
                self.mend(record)
        if pipelines and all(record.state == READY for record in pipelines.values()):
            self._cluster.keep_spares()

    def mend(self, record: PipelineRecord) -> None:
        """Take the next step towards what is wanted of a pipeline."""
        if record.state == READY and not self.serves(record):
            self.note_loss(record, "a worker is gone")
        present = Present(
            plan=record.wanted,
            serves_plan=record.wanted == record.plan,
            serving=record.serving,
            lost=frozenset(record.lost),
        )
        decision = decide(
            present, self._cluster.members, self._cluster.spares(), self._cluster.settings
        )
        record.missing = ()
        match decision:
            case Stay():
                record.state = READY
                if record.home_node in self._cluster.members.leaving:
                    self._move_home(record)
            case Open(plan):
                record.begin(plan, self._cluster.next_epoch(), LOADING)
                self._cluster.context.start_task(self._open(record, self._bring_up_of(record)))
            case Change(plan):
                state = READY if self.serves(record) else RECOVERING
                record.begin(plan, self._cluster.next_epoch(), state)
                record.phase = "prepare"
                self._cluster.context.start_task(self._change(record, self._bring_up_of(record)))
            case Await(starts, missing):
                if not self.serves(record):
                    record.missing = missing
                    record.state = RECOVERING if record.serving else LOST
                for slot in starts:
                    self._cluster.start_worker(slot)

    def serves(self, record: PipelineRecord) -> bool:
        """Whether all that it uses now is there, whatever it is to use instead."""
        alive = self._cluster.members.living - record.lost
        return bool(record.serving) and alive >= {*record.serving.values()}

    def _bring_up_of(self, record: PipelineRecord) -> BringUp:
        plan = record.wanted
        alive = self._cluster.members.living - record.lost
        deadlines = self._cluster.copy_until
        return BringUp(
            epoch=record.epoch,
            plan=plan,
            settings=self._cluster.settings,
            workers={name: worker.ref for name, worker in self._cluster.members.workers.items()},
            head=self._cluster.members.nodes[plan.stages[0].node].ref,
            home=record.home,
            takes_over=False,
            lost=tuple(ref for ref in record.serving.values() if ref not in alive),
            old_epoch=record.served_epoch,
            observer=self._cluster.context.self_ref,
            copy_until=min(
                (until for s in record.plan.stages if (until := deadlines.get(s.node)) is not None),
                default=None,
            ),
            weights={
                stage.worker: weight_policy(stage, self._cluster.members, self._cluster.settings)
                for stage in plan.stages
            },
        )

    async def _open(self, record: PipelineRecord, wanted: BringUp) -> None:
        outcome = await bring_up(self._cluster.context, wanted)
        record.is_busy = False
        if isinstance(outcome, BroughtUp):
            record.opened(outcome.ref, wanted, outcome.stages, self._cluster.context.loop_time())
            self._cluster.context.watch(outcome.ref)
            _log.info("pipeline ready pipeline=%s epoch=%d", record.plan.id, record.epoch)
            if record.wish is not None:
                record.wish.reply(record.epoch)
                record.wish = None
        elif record.wish is not None:
            self.give_up_wish(record, outcome.reason)
        elif outcome.refused and not record.has_served:
            self._cluster.fail(outcome.reason)
        else:
            self.note_failure(record, outcome.reason)
        self._look_again()

    async def _change(self, record: PipelineRecord, wanted: BringUp) -> None:
        before, cause = record.serving, _cause(record)
        noticed_s = record.noticed_for(self._cluster.context.loop_time())
        outcome = await change_over(self._cluster.context, wanted)
        record.is_busy, record.phase = False, None
        if record.home != wanted.home:  # whatever it answered, it has ended since
            outcome = NotBroughtUp("the pipeline's actor was lost meanwhile", refused=False)
        if isinstance(outcome, ChangedOver):
            record.changed(wanted, outcome.stages, self._cluster.context.loop_time())
            record.last_change = _change_status(outcome, cause, noticed_s, record.num_loaded_bytes)
            _log.info(
                "pipeline changed pipeline=%s epoch=%d cause=%s recomputed=%.2f preempted=%d %s",
                record.plan.id,
                record.epoch,
                cause,
                record.last_change.recomputed,
                record.last_change.num_preempted,
                " ".join(f"{p.phase}_s={p.duration_s:.3f}" for p in record.last_change.phases),
            )
            workers = dict.fromkeys((*before.values(), *record.serving.values()))
            record.phase = "release"
            self._show()
            await self._release(record, workers)
        elif self.serves(record):
            _log.warning("change given up pipeline=%s reason=%s", record.plan.id, outcome.reason)
            self.give_up_wish(record, outcome.reason)
            self._cluster.context.schedule(RETRY_S, LookAgain())
            return
        else:
            self.give_up_wish(record, outcome.reason)
            self.note_failure(record, outcome.reason)
            return
        self._look_again()

    async def _release(self, record: PipelineRecord, workers: Iterable[Ref]) -> None:
        """Wait until no worker holds anything of the old epoch, and tell whoever wished for it."""
        wish, record.wish = record.wish, None
        began = self._cluster.context.loop_time()
        settled = SettleEpoch(pipeline=record.plan.id, epoch=record.epoch, upto=record.epoch)
        await ask_all(self._cluster.context, workers, settled, timeout_s=SETTLE_TIMEOUT_S)
        if record.phase == "release":  # and not another change's already
            record.phase = None
        if wish is not None:
            duration_s = self._cluster.context.loop_time() - began
            release = PhaseReport(phase="release", duration_s=duration_s, num_bytes=0)
            told = record.last_change.phases if record.last_change is not None else ()
            wish.reply(record.epoch, phases=(*told, release))

    def give_up_wish(self, record: PipelineRecord, reason: str) -> None:
        """Leave a pipeline as it is, and tell the operator why."""
        record.wanted = record.plan
        if not record.has_served and record.wish is not None:  # it was to be added
            del self._cluster.pipelines[record.plan.id]
        if record.wish is not None:
            record.wish.reply(self._cluster.epoch, reason=reason[:MAX_REASON])
            record.wish = None

    def _move_home(self, record: PipelineRecord) -> None:
        """Its stages are elsewhere already: its actor, with all requests, follows them."""
        record.begin(record.plan, self._cluster.next_epoch(), READY)
        record.is_handing_over = True
        wanted = replace(self._bring_up_of(record), home=None, takes_over=True)
        self._cluster.context.start_task(self._hand_over(record, wanted))

    async def _hand_over(self, record: PipelineRecord, wanted: BringUp) -> None:
        assert record.home is not None
        outcome = await hand_over(self._cluster.context, wanted, record.home, HAND_OVER_TIMEOUT_S)
        record.is_busy = record.is_handing_over = False
        if isinstance(outcome, BroughtUp):
            record.opened(outcome.ref, wanted, outcome.stages, self._cluster.context.loop_time())
            self._cluster.context.watch(outcome.ref)
            _log.info("pipeline moved pipeline=%s to=%s", record.plan.id, record.home_node)
        else:
            _log.warning("pipeline not moved reason=%s", outcome.reason)
            self.lose_home(record, outcome.reason)
        self._look_again()

    def note_failure(self, record: PipelineRecord, reason: str) -> None:
        """An attempt failed: try again soon, unless that was tried often enough."""
        record.num_failures += 1
        record.state, record.reason, record.wanted = LOST, reason, record.plan
        _log.warning("pipeline not up pipeline=%s reason=%s", record.plan.id, reason)
        if record.num_failures >= MAX_FAILURES:
            tries = f"{record.num_failures} attempts in a row did not help"
            self._cluster.fail(f"pipeline {record.plan.id} was lost: {reason}; {tries}")
        self._cluster.context.schedule(RETRY_S, LookAgain())

    def lose_home(self, record: PipelineRecord, reason: str, *, late_s: float = 0.0) -> None:
        """A pipeline's actor is gone, and with it the owner of its KV."""
        self.note_loss(record, reason, late_s=late_s)
        record.lose_home()

    def note_loss(self, record: PipelineRecord, reason: str, *, late_s: float = 0.0) -> None:
        """A pipeline that served does not any more; one that never stays up ends the service.

        It was lost up to `late_s` before that was noticed.
        """
        _log.warning("pipeline lost pipeline=%s reason=%s", record.plan.id, reason)
        if record.state == READY:
            lasted_s = self._cluster.context.loop_time() - record.ready_at - late_s
            has_stayed = lasted_s >= SOON_S
            record.num_failures = 0 if has_stayed else record.num_failures + 1
            record.lost_at = self._cluster.context.loop_time()
        record.state, record.reason = RECOVERING, reason
        if record.num_failures >= MAX_FAILURES:
            tries = f"{record.num_failures} attempts in a row did not help"
            self._cluster.fail(f"pipeline {record.plan.id} was lost: {reason}; {tries}")


def _cause(record: PipelineRecord) -> str:
    if record.wish is not None:
        return "swap"
    return "recovery" if record.state == RECOVERING else "drain"


def _change_status(
    outcome: ChangedOver, cause: str, noticed_s: float, num_bytes: int
) -> ChangeStatus:
    changed = outcome.changed
    prepare = PhaseReport(phase="prepare", duration_s=outcome.prepare_s, num_bytes=num_bytes)
    return ChangeStatus(
        epoch=changed.epoch,
        cause=cause,
        noticed_s=noticed_s,
        phases=(prepare, *changed.phases),
        recomputed=changed.num_rebuilt / changed.num_whole if changed.num_whole else 0.0,
        num_preempted=changed.num_preempted,
    )
