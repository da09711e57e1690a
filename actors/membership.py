"""Who is here: nodes, and the stage workers on them. Pure: a state and an event give a state.

The one idea: a name may have many lives, and only what its present life says counts. A node that is
lost takes its workers along; a worker that was told to end counts for nobody any more. It never
knows what the workers are for.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from actors.kernel.ref import Ref
from actors.messages import JoinNode, WorkerDown, WorkerUp
from actors.placement import WorkerSlot

LOOK_S = 0.2
"""How often a decider's own timer fires."""
ABSENCE_S = 0.6
"""A timer that is silent for so long tells of an absence; others miss us after 0.8 s."""
ANEW_S = 2.0
"""How long after its wake a decider holds silence to be its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """A value: whether a decider was here itself, as its own timer tells, in seconds.

    Its absence is nobody else's silence: for `ANEW_S` after its wake it is to look again for
    whoever it misses. It knows of the wake before its timer fires again, since what it missed may
    be told first.
    """

    looked_at: float
    last_wake: float = -math.inf

    def look(self, now: float) -> "Presence":
        """The timer has fired."""
        woke = self.last_wake if now - self.looked_at < ABSENCE_S else now
        return Presence(looked_at=now, last_wake=woke)

    def woke_at(self, now: float) -> float | None:
        """When an absence ended after which silence still counts anew; None if none did."""
        wake = self.look(now).last_wake
        return wake if now - wake < ANEW_S else None


@dataclass(frozen=True, slots=True)
class NodeLost:
    """A node's actor is out of reach."""

    node: str


@dataclass(frozen=True, slots=True)
class Leaving:
    """A node is to be emptied: nothing new goes there."""

    node: str


@dataclass(frozen=True, slots=True)
class Starting:
    """A worker was told to start."""

    slot: WorkerSlot


@dataclass(frozen=True, slots=True)
class Ending:
    """A worker was told to end."""

    worker: str


Event: TypeAlias = JoinNode | NodeLost | Leaving | Starting | WorkerUp | Ending | WorkerDown


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """A value: what is known of nodes and workers.

    Attributes:
        nodes: those that are here, by name.
        leaving: nodes that are being emptied.
        slots: where each worker lives or lived, by its name.
        workers: those that are up, in their present lives.
        starting: workers that were told to start and have not said that they are up.
        ending: workers that were told to end and whose end was not yet told.
    """

    nodes: Mapping[str, JoinNode] = field(default_factory=dict)
    leaving: frozenset[str] = frozenset()
    slots: Mapping[str, WorkerSlot] = field(default_factory=dict)
    workers: Mapping[str, WorkerUp] = field(default_factory=dict)
    starting: frozenset[str] = frozenset()
    ending: frozenset[str] = frozenset()

    @property
    def living(self) -> frozenset[Ref]:
        """Workers that are up and stay so, as far as is known."""
        return frozenset(up.ref for name, up in self.workers.items() if name not in self.ending)

    def usable(self, worker: str) -> WorkerUp | None:
        """The worker if work can be given to it, now and for a while."""
        up = self.workers.get(worker)
        if up is None or worker in self.ending or self.slots[worker].node in self.leaving:
            return None
        return up

    def may_start(self, worker: str) -> bool:
        """Whether telling its node to start it would do something."""
        node = self.slots[worker].node
        is_here = worker in self.workers or worker in self.starting or worker in self.ending
        return not is_here and node in self.nodes and node not in self.leaving

    def worker_at(self, ref: Ref) -> str | None:
        """The name of the worker that lives there, if it is up."""
        return next((name for name, up in self.workers.items() if up.ref == ref), None)

    def node_at(self, ref: Ref) -> str | None:
        """The name of the node whose actor that is."""
        return next((name for name, node in self.nodes.items() if node.ref == ref), None)

    def on_node(self, node: str) -> tuple[str, ...]:
        """The names of all workers of a node, up or not."""
        return tuple(name for name, slot in self.slots.items() if slot.node == node)

    def __add__(self, event: Event) -> "Members":
        """What is known after an event."""
        match event:
            case JoinNode():
                return replace(
                    self,
                    nodes={**self.nodes, event.node: event},
                    leaving=self.leaving - {event.node},
                )
            case NodeLost():
                return self._without_node(event.node)
            case Leaving():
                return replace(self, leaving=self.leaving | {event.node})
            case Starting():
                return replace(
                    self,
                    slots={**self.slots, event.slot.worker: event.slot},
                    starting=self.starting | {event.slot.worker},
                )
            case WorkerUp():
                return self._with_worker(event)
            case Ending():
                return replace(self, ending=self.ending | {event.worker})
            case WorkerDown():
                return self._without_workers(event.worker)

    def _with_worker(self, up: WorkerUp) -> "Members":
        slot = self.slots.get(up.worker)
        if slot is None or slot.node not in self.nodes:  # or it is news of a life that is over
            return self
        return replace(
            self,
            workers={**self.workers, up.worker: up},
            starting=self.starting - {up.worker},
        )

    def _without_node(self, node: str) -> "Members":
        return replace(
            self._without_workers(*self.on_node(node)),
            nodes={name: kept for name, kept in self.nodes.items() if name != node},
            leaving=self.leaving - {node},
        )

    def _without_workers(self, *gone: str) -> "Members":
        return replace(
            self,
            workers={name: up for name, up in self.workers.items() if name not in gone},
            starting=self.starting - {*gone},
            ending=self.ending - {*gone},
        )
