"""What an operator can ask of a service: another plan, a drain, a flip, a move, or a fault.

Whoever serves it decides how; whoever asks knows neither HTTP nor a pipeline.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from runtime.reports import ChangeReport


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanWish:
    """Other stages for a pipeline: one of `layers`, `stages` and `plan` says which."""

    pipeline: str = ""
    layers: str = ""
    stages: int = 0
    plan: dict[str, Any] | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFault:
    """The links between two sets of processes are to be cut (`partition`) or slowed (`slow-link`).

    `a` and `b` are names out of `fault_targets`; how slow, where None, the service decides.
    """

    kind: str
    a: str
    b: str
    for_s: float
    latency_s: float | None = None
    bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipWish:
    """Other phases for some pipelines, by their ids.

    `routes` are weights above 0 by the ids of where requests begin and of where they go on.
    """

    phases: Mapping[str, str]
    routes: Mapping[tuple[str, str], float] = field(default_factory=dict)
    dry_run: bool = False


class Unavailable(Exception):
    """Nobody can decide on a change now; the text says why."""


class Unsupported(Exception):
    """This service cannot do that at all; the text says why."""


class Operator(Protocol):
    """What an operator can ask of a service; all raise `Unavailable`."""

    async def change_plan(self, wish: PlanWish) -> ChangeReport:
        """Give a pipeline other stages while it serves."""
        ...

    async def present_plan(self) -> dict[str, Any]:
        """The plan that serves, as `change_plan` takes it.

        Its key `planner`, if it is there, says what is predicted of it and what is proposed.
        """
        ...

    async def measured_steps(self) -> dict[str, Any]:
        """What the last steps of each stage asked of it, and how long they took."""
        ...

    async def drain(self, node: str, deadline_s: float) -> ChangeReport:
        """Move everything off a node."""
        ...

    async def move(self, request: str, pipeline: str) -> ChangeReport:
        """Move a running request to another pipeline."""
        ...

    async def flip(self, wish: FlipWish) -> ChangeReport:
        """Have pipelines serve other phases, without touching a stage."""
        ...

    async def fault(self, fault: LinkFault) -> None:
        """Disturb a link for a while; returns when it is whole again.

        Raises:
            ApiError: there are no such links.
            Unsupported: links of this service cannot be disturbed.
        """
        ...

    async def fault_targets(self) -> list[str]:
        """What stands at the ends of links that can be disturbed, by name.

        Raises:
            Unsupported: links of this service cannot be disturbed.
        """
        ...

    async def kill(self, target: str) -> None:
        """End a process of this machine at once, as a fault would.

        Raises:
            ApiError: there is no such process, or it is not ours to end.
            Unsupported: processes of this service cannot be killed over HTTP.
        """
        ...

    def kill_targets(self) -> list[str]:
        """What `kill` takes, by name; nothing where it is not supported."""
        ...

    def requests(self) -> list[dict[str, Any]]:
        """Every request that is under way."""
        ...
