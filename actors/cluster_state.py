"""What the coordinator knows of its pipelines, and how that outlives it.

A record is changed by the coordinator alone. What is stored is enough for another life to take up a
running service: who is here, what is planned, which actor serves at which epoch with which workers.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import msgspec

from actors.bring_up import BringUp
from actors.kernel.ref import Ref
from actors.membership import Members
from actors.messages import (
    LOST,
    READY,
    RECOVERING,
    ChangeStatus,
    LoadProgress,
    PhaseReport,
    PipelineStages,
    PlanReport,
    StageReady,
)
from scheduling.placement import Phase
from scheduling.plan import NodeId, PipelinePlan, Route, WorkerId


class StateStore(Protocol):
    """Where a coordinator's state outlives it."""

    def load(self) -> bytes | None:
        """What was saved last, if anything."""
        ...

    def save(self, state: bytes) -> None:
        """Keep this; what was saved before is not needed any more."""
        ...


@dataclass(frozen=True, slots=True)
class Wish:
    """An operator's change that is under way, and who waits to hear of it."""

    answer: Callable[[PlanReport], None]
    moves: tuple[str, ...]

    def reply(self, epoch: int, *, reason: str = "", phases: tuple[PhaseReport, ...] = ()) -> None:
        """It is done, or, with a reason, it is not."""
        report = PlanReport(
            is_done=not reason, reason=reason, epoch=epoch, phases=phases, moves=self.moves
        )
        self.answer(report)


@dataclass(slots=True)
class PipelineRecord:
    """One pipeline: what serves, what is wanted of it, and how far that is.

    Attributes:
        plan: over which it serves, or served.
        wanted: over which it is to serve; the same, but while something is under way or missing.
        epoch: of the last attempt.
        served_epoch: the one it serves at.
        opened_epoch: the one in which its actor began.
        home: its actor.
        home_node: the node where that lives.
        serving: which life of each worker it uses.
        stages: what those told when they were ready.
        lost: workers it cannot reach any more.
        wish: the operator's change that `wanted` is for, if it is for one.
        phase: how far the change is that is under way, if one is.
    """

    plan: PipelinePlan
    wanted: PipelinePlan
    epoch: int = 0
    opened_epoch: int = 0
    served_epoch: int = 0
    state: str = LOST
    reason: str = ""
    home: Ref | None = None
    home_node: str = ""
    serving: dict[str, Ref] = field(default_factory=dict)
    stages: tuple[StageReady, ...] = ()
    lost: set[Ref] = field(default_factory=set)
    loaded: dict[int, LoadProgress] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    is_busy: bool = False
    has_served: bool = False
    ready_at: float = 0.0
    num_failures: int = 0
    is_handing_over: bool = False
    wish: Wish | None = None
    lost_at: float = 0.0
    last_change: ChangeStatus | None = None
    phase: str | None = None

    def noticed_for(self, now: float) -> float:
        """How long it is known, in seconds, that something of it is lost; 0 if nothing is."""
        return now - self.lost_at if self.state == RECOVERING else 0.0

    @property
    def num_loaded_bytes(self) -> int:
        """Weights that its stages have loaded in the present attempt."""
        return sum(progress.num_bytes for progress in self.loaded.values())

    def begin(self, plan: PipelinePlan, epoch: int, state: str) -> None:
        """An attempt at a plan is under way."""
        self.wanted = replace(plan, phase=self.plan.phase)
        self.epoch, self.state, self.is_busy = epoch, state, True
        self.loaded = {}

    def opened(
        self, home: Ref, wanted: BringUp, stages: tuple[StageReady, ...], now: float
    ) -> None:
        """Its actor is there."""
        self.home, self.home_node = home, wanted.plan.stages[0].node
        self.opened_epoch = wanted.epoch
        self.changed(wanted, stages, now)

    def changed(self, wanted: BringUp, stages: tuple[StageReady, ...], now: float) -> None:
        """It serves over what was wanted; its phase may have been changed meanwhile."""
        self.plan = replace(wanted.plan, phase=self.plan.phase)
        self.stages, self.served_epoch = stages, wanted.epoch
        self.serving = {s.worker: wanted.workers[s.worker] for s in wanted.plan.stages}
        self.lost.clear()
        self.state, self.has_served, self.ready_at = READY, True, now

    def found(self, told: PipelineStages, members: Members) -> None:
        """It serves over other stages than was known here; a worker that is not up is lost."""
        stages = []
        serving: dict[str, Ref] = {}
        for number, spec in enumerate(told.stages):
            worker = members.worker_at(spec.ref)
            slot = members.slots.get(worker or "")
            place = self.plan.stages[min(number, len(self.plan.stages) - 1)]
            stages.append(
                replace(
                    place,
                    stage=number,
                    worker=place.worker if slot is None else WorkerId(slot.worker),
                    node=place.node if slot is None else NodeId(slot.node),
                    device=place.device if slot is None else slot.device,
                    start=spec.start,
                    end=spec.end,
                )
            )
            serving[stages[-1].worker] = spec.ref
        self.plan = replace(self.plan, stages=tuple(stages), num_blocks=told.num_blocks)
        self.wanted, self.serving, self.served_epoch = self.plan, serving, told.epoch

    def flip(self, phase: Phase) -> None:
        """It serves another part of requests from now on, over the stages it has or is to have."""
        self.plan = replace(self.plan, phase=phase)
        self.wanted = replace(self.wanted, phase=phase)

    def lose_home(self) -> None:
        """Its actor is gone, and with it whatever its workers hold for it."""
        self.home, self.home_node, self.serving = None, "", {}
        self.lost.clear()


class StoredPipeline(msgspec.Struct, frozen=True):
    """A record as it is stored."""

    plan: PipelinePlan
    epoch: int
    opened_epoch: int
    served_epoch: int
    home: Ref | None
    home_node: str
    serving: Mapping[str, Ref]
    stages: tuple[StageReady, ...]


class StoredState(msgspec.Struct, frozen=True):
    """All that is stored; `version` is that of this layout."""

    version: int
    epoch: int
    members: Members
    pipelines: tuple[StoredPipeline, ...]
    routes: tuple[Route, ...] = ()


@dataclass(frozen=True, slots=True)
class Restored:
    """What an earlier life left."""

    epoch: int
    members: Members
    records: list[PipelineRecord]
    routes: tuple[Route, ...] = ()


VERSION = 1


def stored(
    epoch: int,
    members: Members,
    records: Iterable[PipelineRecord],
    routes: tuple[Route, ...] = (),
) -> bytes:
    """The state as bytes that `restored` reads."""
    pipelines = tuple(
        StoredPipeline(
            record.plan,
            record.epoch,
            record.opened_epoch,
            record.served_epoch,
            record.home,
            record.home_node,
            record.serving,
            record.stages,
        )
        for record in records
    )
    return msgspec.json.encode(StoredState(VERSION, epoch, members, pipelines, routes))


def restored(saved: bytes) -> Restored:
    """Read what `stored` wrote.

    Raises:
        ValueError: the bytes are no such state.
    """
    state = msgspec.json.decode(saved, type=StoredState)
    if state.version != VERSION:
        raise ValueError(f"journal: expected version {VERSION}, got {state.version}")
    records = [
        PipelineRecord(
            plan=kept.plan,
            wanted=kept.plan,
            epoch=kept.epoch,
            opened_epoch=kept.opened_epoch,
            served_epoch=kept.served_epoch,
            state=READY if kept.home is not None else LOST,
            home=kept.home,
            home_node=kept.home_node,
            serving=dict(kept.serving),
            stages=kept.stages,
            has_served=bool(kept.stages),
        )
        for kept in state.pipelines
    ]
    return Restored(state.epoch, state.members, records, state.routes)
