"""What the coordinator knows, and what it does about workers: start, end, keep some warm.

One object that the coordinator's parts share; whatever follows from a change of it is theirs.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from actors.cluster_state import PipelineRecord, Restored
from actors.kernel.actor import Context
from actors.membership import Ending, Members, Starting
from actors.messages import MAX_REASON, StartWorker, StopWorker
from actors.placement import ServiceSettings, WorkerSlot
from scheduling.errors import InvalidPlan
from transport.codec import Message
from transport.endpoint import Lane

if TYPE_CHECKING:
    from scheduling.plan import Route

_log = logging.getLogger(__name__)

MAX_FAILURES = 5
"""Attempts in a row at the same thing, after which it is given up."""


class Cluster:
    """Nodes, workers and pipelines, as they are and as they are wanted.

    `copy_until` says of nodes that must leave until when, on the loop's clock, KV may be copied.
    """

    context: Context
    """The coordinator's, set when it starts."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.epoch = 0
        self.members = Members()
        self.pipelines: dict[str, PipelineRecord] = {}
        self.routes: tuple[Route, ...] = ()
        self.copy_until: dict[str, float] = {}
        self.num_spare_failures = 0
        self.failure: str | None = None

    def adopt(self, found: Restored) -> None:
        """Know what an earlier life knew."""
        self.epoch, self.members, self.routes = found.epoch, found.members, found.routes
        self.pipelines = {record.plan.id: record for record in found.records}

    def next_epoch(self) -> int:
        """An epoch that nobody has seen."""
        self.epoch += 1
        return self.epoch

    def fail(self, reason: str) -> None:
        """The service cannot be; the first reason stays."""
        _log.error("service failed reason=%s", reason)
        self.failure = self.failure or reason[:MAX_REASON]

    def named(self, name: str) -> PipelineRecord:
        """A pipeline by its name, or the only one; raises `InvalidPlan`."""
        if name in self.pipelines:
            return self.pipelines[name]
        if name or len(self.pipelines) != 1:
            known = ", ".join(self.pipelines) or "none yet"
            raise InvalidPlan(f"pipeline {name!r}: expected one of: {known}")
        return next(iter(self.pipelines.values()))

    def start_worker(self, slot: WorkerSlot) -> None:
        """Have a node start a worker."""
        self.members += Starting(slot)
        start = StartWorker(worker=slot.worker, device=slot.device, num_threads=slot.num_threads)
        self.tell_node(slot.node, start)

    def start_worker_on(self, node: str, device: str) -> None:
        """Have a node start a worker that nothing needs yet, on one of its devices."""
        idle = [s for s in self.members.slots.values() if s.worker not in self.used()]
        model = replace(self._first_slot(node), device=device)
        self.start_worker(self._spare_slot(model, [s for s in idle if s.node == node]))

    def end_worker(self, name: str) -> None:
        """End a process that no longer answers: it may hang, and its place is needed.

        One that is not up is none: nobody would ever tell of its end.
        """
        if name in self.members.workers and name not in self.members.ending:
            self.members += Ending(name)
            self.tell_node(self.members.slots[name].node, StopWorker(worker=name))

    def tell_node(self, name: str, message: Message) -> None:
        """Tell a node something, if it is here."""
        if (node := self.members.nodes.get(name)) is not None:
            self.context.tell(node.ref, message, lane=Lane.CONTROL)

    def user_of(self, worker: str) -> PipelineRecord | None:
        """The pipeline that serves over a worker, if one does."""
        for record in self.pipelines.values():
            if any(stage.worker == worker for stage in record.plan.stages):
                return record
        return None

    def spares(self) -> tuple[str, ...]:
        """Workers that are up and that no pipeline uses."""
        used = self.used()
        return tuple(name for name in self.members.workers if name not in used)

    def used(self) -> set[str]:
        """Workers that a pipeline uses, or is about to."""
        records = self.pipelines.values()
        return {s.worker for r in records for plan in (r.plan, r.wanted) for s in plan.stages}

    def keep_spares(self) -> None:
        """Have as many warm workers on each node as were asked for."""
        if self.num_spare_failures >= MAX_FAILURES:
            return
        used = self.used()
        for node in self.members.nodes:
            mine = [self.members.slots[name] for name in self.members.on_node(node)]
            model = next((slot for slot in mine if slot.worker in used), self._first_slot(node))
            idle = [slot for slot in mine if slot.worker not in used]
            here = [s for s in idle if s.worker in self.members.workers]
            coming = [s for s in idle if s.worker in self.members.starting]
            num_missing = self.settings.num_spares - len(here) - len(coming)
            if num_missing > 0 and node not in self.members.leaving:
                self.start_worker(self._spare_slot(model, idle))
            for slot in here[self.settings.num_spares :] if num_missing < 0 else ():
                self.end_worker(slot.worker)

    def _first_slot(self, node: str) -> WorkerSlot:
        """A worker's place on a node where there is none yet."""
        joined = self.members.nodes[node]
        return WorkerSlot(
            worker="",
            pipeline="",
            stage=0,
            node=node,
            device=joined.devices[0],
            num_threads=joined.num_cores,
            layers=None,
        )

    def _spare_slot(self, model: WorkerSlot, idle: Sequence[WorkerSlot]) -> WorkerSlot:
        """A slot like another on its node: an old one that is free, or one with a new name."""
        for slot in idle:
            if slot.device == model.device and self.members.may_start(slot.worker):
                return slot
        taken = self.members.slots
        names = (f"{model.node}/spare-{number}" for number in range(len(taken) + 1))
        name = next(name for name in names if name not in taken)
        return replace(model, worker=name, pipeline="", stage=0, layers=None)
