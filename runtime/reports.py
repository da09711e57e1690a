"""What became of a change: the record that the service writes and a command reads."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of a change; seconds and bytes."""

    name: str
    seconds: float
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeReport:
    """What became of a change; `reason` says why not where it was not done."""

    done: bool
    reason: str
    epoch: int
    phases: tuple[Phase, ...]
    moves: tuple[str, ...]
