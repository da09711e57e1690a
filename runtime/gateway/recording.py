"""An operator whose orders are written down: who looks at the events sees what was asked for."""

from typing import Any

from runtime.gateway.operator import FlipWish, LinkFault, Operator, PlanWish
from runtime.reports import ChangeReport
from runtime.telemetry.telemetry import Telemetry


class RecordingOperator:
    """`Operator` over another one."""

    def __init__(self, operator: Operator, telemetry: Telemetry) -> None:
        self._operator = operator
        self._telemetry = telemetry

    async def change_plan(self, wish: PlanWish) -> ChangeReport:
        """Give a pipeline other stages; a dry run is no event."""
        if wish.dry_run:
            return await self._operator.change_plan(wish)
        self._telemetry.happened("change_ordered", pipeline=wish.pipeline)
        return self._over("change", await self._operator.change_plan(wish))

    async def present_plan(self) -> dict[str, Any]:
        """The plan that serves."""
        return await self._operator.present_plan()

    async def drain(self, node: str, deadline_s: float) -> ChangeReport:
        """Move everything off a node."""
        self._telemetry.happened("drain_ordered", node=node, deadline_s=deadline_s)
        return self._over("drain", await self._operator.drain(node, deadline_s), node=node)

    async def flip(self, wish: FlipWish) -> ChangeReport:
        """Have pipelines serve other phases; a dry run is no event."""
        report = await self._operator.flip(wish)
        phases = " ".join(f"{name}={phase}" for name, phase in wish.phases.items())
        return report if wish.dry_run else self._over("flip", report, phases=phases)

    async def move(self, request: str, pipeline: str) -> ChangeReport:
        """Move a running request."""
        report = await self._operator.move(request, pipeline)
        return self._over("move", report, request=request, pipeline=pipeline)

    async def fault(self, fault: LinkFault) -> None:
        """Disturb a link."""
        facts = {"fault": fault.kind, "a": fault.a, "b": fault.b, "for_s": fault.for_s}
        self._telemetry.happened("fault_ordered", **facts)
        await self._operator.fault(fault)

    async def fault_targets(self) -> list[str]:
        """What stands at the ends of links that can be disturbed."""
        return await self._operator.fault_targets()

    async def kill(self, target: str) -> None:
        """End a process."""
        self._telemetry.happened("kill_ordered", target=target)
        await self._operator.kill(target)

    def kill_targets(self) -> list[str]:
        """What `kill` takes, by name."""
        return self._operator.kill_targets()

    async def measured_steps(self) -> dict[str, Any]:
        """What the last steps of each stage asked of it, and how long they took."""
        return await self._operator.measured_steps()

    def requests(self) -> list[dict[str, Any]]:
        """Every request that is under way."""
        return self._operator.requests()

    def _over(self, what: str, report: ChangeReport, **facts: object) -> ChangeReport:
        kind = f"{what}_done" if report.done else f"{what}_refused"
        seconds = sum(phase.seconds for phase in report.phases)
        facts = facts | {"epoch": report.epoch, "seconds": round(seconds, 6)}
        self._telemetry.happened(kind, **facts, reason=report.reason)
        return report
