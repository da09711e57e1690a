"""What the coordinator answers whoever asks: the plan, the steps, where every process listens.

Of each stage's steps only the stage itself knows, so it is asked before the answer is given.
"""

import json

from actors.cluster import Cluster
from actors.kernel.actor import LaterReply
from actors.listeners import Listeners
from actors.messages import (
    GetPlan,
    GetProcesses,
    GetSteps,
    PlanDocument,
    Processes,
    StepsDocument,
)
from actors.operations import Operations
from actors.phase_following import PhaseFollower
from actors.process_addresses import process_addresses
from actors.replanning import Replanner
from actors.step_report import measured_stages, steps_document


class Answers:
    """Gathers what is asked for from those who know it."""

    def __init__(
        self,
        cluster: Cluster,
        listeners: Listeners,
        operations: Operations,
        replanner: Replanner,
        phases: PhaseFollower,
    ) -> None:
        self._cluster, self._listeners, self._operations = cluster, listeners, operations
        self._replanner, self._phases = replanner, phases

    def on_question(self, question: GetPlan | GetSteps | GetProcesses) -> Processes | None:
        """What somebody wants to know; None where stages are asked first."""
        context = self._cluster.context
        match question:
            case GetProcesses():
                return process_addresses(self._cluster, context.self_ref, self._listeners.routers)
            case GetPlan():
                context.start_task(self._tell_plan(context.reply_later()))
            case GetSteps():
                context.start_task(self._tell_steps(context.reply_later()))
        return None

    async def _tell_plan(self, later: LaterReply) -> None:
        measured = await measured_stages(self._cluster)
        planner = {**self._replanner.report(measured), "phases": self._phases.report()}
        answer = PlanDocument(
            plan=json.dumps(self._operations.present_plan().to_dict()).encode(),
            planner=json.dumps(planner).encode(),
        )
        later.reply(answer)

    async def _tell_steps(self, later: LaterReply) -> None:
        told = steps_document(self._cluster, await measured_stages(self._cluster))
        later.reply(StepsDocument(steps=json.dumps(told).encode()))
