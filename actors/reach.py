"""The pipelines that a router may send to: planned, ready, and in reach from here.

The one idea: what the coordinator says of a pipeline counts only while its actor is watched and no
word of its end came. One that fell out of reach, the way and maybe not the actor being lost, is
looked for as long as it is planned; its requests go on elsewhere.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence

from actors.asking import answer_of
from actors.kernel.actor import Context
from actors.kernel.ref import Ref
from actors.messages import READY, GetPipelineLoad, PipelineStatus, PlanChanged, RegisterRouter
from transport.codec import Message
from transport.endpoint import Lane

RETRY_S = 1.0
"""How often one that fell out of reach is looked for, and how long an answer may take."""


class Reach:
    """A router's newest plan, and which actors of it are in reach.

    `on_found` is called when one is in reach again.
    """

    context: Context
    """The router's, set when it starts."""

    def __init__(self, coordinator: Ref, pid: int, on_found: Callable[[], None]) -> None:
        self._coordinator, self._pid, self._on_found = coordinator, pid, on_found
        self.plan: PlanChanged | None = None
        self.has_been_ready = False
        self._known: set[Ref | None] = set()
        self._in_reach: set[Ref | None] = set()

    def register(self) -> None:
        """Ask the coordinator for the plan, now and whenever it changes."""
        self.context.watch(self._coordinator)
        self.context.tell(self._coordinator, self._registration(), lane=Lane.CONTROL)

    def take(self, plan: PlanChanged, busy: Collection[Ref | None]) -> None:
        """A newer plan; actors that are `busy` with requests stay known though it has them not."""
        self.plan = plan
        for status in plan.pipelines:
            if status.ref is not None and status.ref not in self._known:
                self._watch(status.ref)
        self._known &= {status.ref for status in plan.pipelines} | set(busy)
        self.has_been_ready = self.has_been_ready or bool(self.open_pipelines())

    def open_pipelines(self) -> list[PipelineStatus]:
        """Those that requests may be sent to."""
        return [p for p in self._planned() if p.state == READY and p.ref in self._in_reach]

    def not_ready_reason(self) -> str | None:
        """What is missing before requests can be served, or None."""
        if self.plan is None:
            return "the coordinator has not announced a plan yet"
        if self.plan.missing:
            return "; ".join(self.plan.missing)
        return None if self.open_pipelines() else "no pipeline is ready"

    def name_of(self, ref: Ref) -> str | None:
        """The pipeline that an actor is planned as."""
        names = {status.ref: status.pipeline for status in self._planned()}
        return names.get(ref)

    def want(self, pipeline: Ref) -> None:
        """It has requests of ours; if it is gone already, the watch says so."""
        if pipeline not in self._in_reach:
            self._watch(pipeline)

    def lose(self, ref: Ref | None) -> None:
        """It ends, or is out of reach: nothing new for it."""
        self._in_reach.discard(ref)

    def look_for(self, ref: Ref) -> None:
        """Find one again that is out of reach, as long as it is wanted."""
        self.context.start_task(self._look_for(ref))

    async def _look_for(self, ref: Ref) -> None:
        """Ask again and again.

        Its process counts as lost here, so that another life there may answer; the watch of `ref`
        itself then says so.
        """
        is_coordinator = ref == self._coordinator
        question = self._registration() if is_coordinator else GetPipelineLoad()
        whichever = ref.whichever()
        is_found = False
        while not is_found and (is_coordinator or self.name_of(ref) is not None):
            await asyncio.sleep(RETRY_S)
            answer = await answer_of(self.context, whichever, question, Message, timeout_s=RETRY_S)
            is_found = answer is not None
        if not is_found:
            self._known.discard(ref)  # a plan that names it again has it watched again
        else:
            self.context.watch(ref)
            self._in_reach.add(ref)
            self._on_found()

    def _watch(self, pipeline: Ref) -> None:
        self._known.add(pipeline)
        self._in_reach.add(pipeline)
        self.context.watch(pipeline)

    def _planned(self) -> Sequence[PipelineStatus]:
        return self.plan.pipelines if self.plan is not None else ()

    def _registration(self) -> RegisterRouter:
        return RegisterRouter(ref=self.context.self_ref, pid=self._pid)
