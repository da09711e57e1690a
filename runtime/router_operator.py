"""The gateway's operator in a real service: its wishes become questions to the coordinator."""

import json
from typing import Any, TypeVar

from actors.kernel.ref import Ref
from actors.kernel.system import ActorSystem
from actors.messages import (
    ChangePlan,
    DrainNode,
    FlipPhases,
    GetPlan,
    GetSteps,
    MoveRequest,
    PlanDocument,
    PlanReport,
    RouteStatus,
    StepsDocument,
)
from actors.router import RouterActor
from actors.stream import Stream
from runtime.coordinator_answers import ask_coordinator
from runtime.dashboard.kills import HOW_TO_ALLOW_KILLS, ProcessKills
from runtime.gateway.operator import FlipWish, LinkFault, PlanWish, Unsupported
from runtime.link_orders import HOW_TO_ALLOW, LinkOrders
from runtime.reports import ChangeReport, Phase
from transport.codec import Message

CHANGE_TIMEOUT_S = 900.0
MOVE_TIMEOUT_S = 90.0
FLIP_TIMEOUT_S = 10.0
GRACE_S = 10.0

_M = TypeVar("_M", bound=Message)


class RouterOperator:
    """`Operator` over the coordinator, and the router of the same process.

    Without `links` those of the service cannot be disturbed, without `kills` no process be killed.
    """

    def __init__(
        self,
        router: RouterActor,
        system: ActorSystem,
        coordinator: Ref,
        links: LinkOrders | None = None,
        kills: ProcessKills | None = None,
    ) -> None:
        self._router = router
        self._system = system
        self._coordinator = coordinator
        self._links = links
        self._kills = kills

    async def change_plan(self, wish: PlanWish) -> ChangeReport:
        """Give a pipeline other stages while it serves."""
        message = ChangePlan(
            pipeline=wish.pipeline,
            layers=wish.layers,
            num_stages=wish.stages,
            plan=b"" if wish.plan is None else json.dumps(wish.plan).encode(),
            is_dry_run=wish.dry_run,
        )
        return await self._ask(message, CHANGE_TIMEOUT_S)

    async def present_plan(self) -> dict[str, Any]:
        """The plan that serves, as `change_plan` takes it, with what is predicted of it."""
        answer = await self._answer(GetPlan(), PlanDocument, GRACE_S)
        plan: dict[str, Any] = json.loads(answer.plan)
        if answer.planner:
            plan["planner"] = json.loads(answer.planner)
        return plan

    async def measured_steps(self) -> dict[str, Any]:
        """What the last steps of each stage asked of it, and how long they took."""
        answer = await self._answer(GetSteps(), StepsDocument, GRACE_S)
        steps: dict[str, Any] = json.loads(answer.steps)
        return steps

    async def drain(self, node: str, deadline_s: float) -> ChangeReport:
        """Move everything off a node."""
        return await self._ask(DrainNode(node=node, deadline_s=deadline_s), deadline_s + GRACE_S)

    async def move(self, request: str, pipeline: str) -> ChangeReport:
        """Move a running request to another pipeline."""
        stream = next((s for s in self._router.streams if s.request == request), None)
        if stream is None or not stream.pipeline:
            epoch = self._router.plan.epoch if self._router.plan is not None else 0
            reason = f"no request {request!r} runs here"
            return ChangeReport(done=False, reason=reason, epoch=epoch, phases=(), moves=())
        message = MoveRequest(
            request=stream.wire_name, from_pipeline=stream.pipeline, to_pipeline=pipeline
        )
        return await self._ask(message, MOVE_TIMEOUT_S)

    async def kill(self, target: str) -> None:
        """End a process that this service's own launcher started."""
        if self._kills is None:
            raise Unsupported(f"processes of this service cannot be killed: {HOW_TO_ALLOW_KILLS}")
        await self._kills.kill(target)

    def kill_targets(self) -> list[str]:
        """What `kill` takes, by name."""
        return [] if self._kills is None else self._kills.targets()

    async def flip(self, wish: FlipWish) -> ChangeReport:
        """Have pipelines serve other phases, without touching a stage."""
        routes = tuple(
            RouteStatus(prefill=prefill, decode=decode, weight=weight)
            for (prefill, decode), weight in wish.routes.items()
        )
        phases = tuple(wish.phases.items())
        message = FlipPhases(phases=phases, routes=routes, is_dry_run=wish.dry_run)
        return await self._ask(message, FLIP_TIMEOUT_S)

    async def fault(self, fault: LinkFault) -> None:
        """Disturb links for a while; returns when they are whole again."""
        await self._disturbable().disturb(fault)

    async def fault_targets(self) -> list[str]:
        """What stands at the ends of links that can be disturbed, by name."""
        return await self._disturbable().targets()

    def _disturbable(self) -> LinkOrders:
        if self._links is None:
            raise Unsupported(f"links of this service stay whole: {HOW_TO_ALLOW}")
        return self._links

    def requests(self) -> list[dict[str, Any]]:
        """Every request that is under way."""
        return [_request(stream) for stream in self._router.streams]

    async def _ask(self, message: Message, timeout_s: float) -> ChangeReport:
        answer = await self._answer(message, PlanReport, timeout_s)
        phases = tuple(Phase(p.phase, round(p.duration_s, 6), p.num_bytes) for p in answer.phases)
        return ChangeReport(
            done=answer.is_done,
            reason=answer.reason,
            epoch=answer.epoch,
            phases=phases,
            moves=answer.moves,
        )

    async def _answer(self, message: Message, kind: type[_M], timeout_s: float) -> _M:
        return await ask_coordinator(
            self._system, self._coordinator, message, kind, timeout_s=timeout_s
        )


def _request(stream: Stream) -> dict[str, Any]:
    return {
        "id": stream.request,
        "pipeline": stream.pipeline or None,
        "prompt_tokens": len(stream.generate.token_ids),
        "delivered_tokens": len(stream.delivered),
        "recoveries": stream.num_recoveries,
    }
