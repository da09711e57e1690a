"""What a system tells about itself."""

from collections.abc import Mapping
from dataclasses import dataclass

from actors.kernel.cell import State
from actors.kernel.dead_letters import DeadLetter


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorStatistics:
    """One actor now; counts are of this start of it, restarts of its name."""

    name: str
    generation: int
    state: State
    num_waiting: int
    num_waiting_bytes: int
    num_handled: int
    num_restarts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemStatistics:
    """A system now; dead letters are counted since it started."""

    actors: tuple[ActorStatistics, ...]
    dead_letters: Mapping[DeadLetter, int]
    num_asks_pending: int
    num_watches: int
