"""A node: offers its machine's devices and hosts stage workers and pipelines on them.

It starts and ends the worker processes the coordinator asks for, tells when one comes up or dies,
and holds the pipeline actors, so that no stage's death takes a pipeline along. It never decides
anything.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from actors.attention import Attention
from actors.bring_up import pipeline_name
from actors.kernel.actor import Actor, LaterReply
from actors.kernel.errors import ActorError
from actors.kernel.ref import Ref
from actors.kernel.supervision import TEMPORARY, Down, DownReason
from actors.link_probing import measure_link
from actors.messages import (
    MAX_REASON,
    AreYouThere,
    DrainNode,
    JoinNode,
    JoinRefused,
    LeaveNow,
    LogLine,
    MeasureLink,
    OpenPipeline,
    PipelineLost,
    PipelineOpen,
    ProbeFrame,
    StartWorker,
    StopWorker,
    WorkerDown,
    WorkerUp,
)
from actors.pipeline import PipelineActor
from transport.codec import Message
from transport.endpoint import Lane
from transport.errors import TransportError
from transport.frame import Buffer

_log = logging.getLogger(__name__)

JOIN_TIMEOUT_S = 10.0
WORKER_GRACE_S = 3.0
COORDINATOR_GRACE_S = 120.0
"""How long a node serves on without a coordinator."""
RETRY_S = 0.2
LEAST_NOTICE_S = 1.0
ORDERLY = (DownReason.NORMAL, DownReason.SHUTDOWN)


class NodeRefused(Exception):
    """The coordinator does not want this node; the text says why."""


class Worker(Protocol):
    """A running stage worker, a process or its emulation."""

    @property
    def pid(self) -> int:
        """The operating system's id of the process."""
        ...

    async def wait(self) -> str:
        """Wait for its end and say how it ended."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Ask it to end, and end it by force after `grace_s`."""
        ...


StartsWorker = Callable[[StartWorker, Callable[[str], None]], Awaitable[Worker]]
"""Starts the worker a message asks for; the second argument takes each line it writes."""


class NodeActor(Actor):
    """Hosts workers and pipelines on one machine."""

    def __init__(
        self,
        join: JoinNode,
        coordinator: Ref,
        start_worker: StartsWorker,
        *,
        forwards_logs: bool,
        on_leave: Callable[[], None],
        notice: Callable[[], Awaitable[float]] | None = None,
        attention: Attention | None = None,
    ) -> None:
        self._notice = notice
        self._attention = attention or Attention()
        self._join = join
        self._on_leave = on_leave
        self._up: dict[str, WorkerUp] = {}
        self._coordinator = coordinator
        self._start_worker = start_worker
        self._forwards_logs = forwards_logs
        self._wanted: set[str] = set()
        self._workers: dict[str, Worker] = {}
        self._pipelines: dict[Ref, OpenPipeline] = {}

    async def on_start(self) -> None:
        """Join the cluster, or fail with the coordinator's reason."""
        await self._offer()
        self.context.watch(self._coordinator)
        if self._notice is not None:
            self.context.start_task(self._heed(self._notice()))
        _log.info("joined node=%s devices=%s", self._join.node, ",".join(self._join.devices))

    async def _offer(self) -> None:
        """Say who is here; raises `NodeRefused` if the coordinator does not want that."""
        pipelines = tuple(
            PipelineOpen(epoch=opened.epoch, pipeline=opened.pipeline, ref=ref)
            for ref, opened in self._pipelines.items()
        )
        join = msgspec.structs.replace(
            self._join, workers=tuple(self._up.values()), pipelines=pipelines
        )
        answer = await self.context.ask(self._coordinator, join, timeout_s=JOIN_TIMEOUT_S)
        if isinstance(answer, JoinRefused):
            raise NodeRefused(answer.reason)

    async def _heed(self, notice: Awaitable[float]) -> None:
        """Once this machine is about to be taken away, have others take over; then leave."""
        left_s = max(await notice, LEAST_NOTICE_S)
        order = DrainNode(node=self._join.node, deadline_s=left_s)
        try:
            await self.context.ask(self._coordinator, order, timeout_s=left_s + JOIN_TIMEOUT_S)
        except (ActorError, TransportError) as error:
            _log.warning("nobody takes over node=%s reason=%s", self._join.node, error)

    async def on_stop(self) -> None:
        """End every worker, in parallel, by force where it does not end itself."""
        async with asyncio.TaskGroup() as stopping:
            for worker in self._workers.values():
                stopping.create_task(worker.stop(WORKER_GRACE_S))

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        """Start and stop workers, open pipelines, pass on what workers tell."""
        match message:
            case StartWorker():
                self._on_start_worker(message)
            case StopWorker():
                self.context.start_task(self._stop_worker(message.worker))
            case WorkerUp():
                self._on_worker_up(message)
            case OpenPipeline():
                return self._open_pipeline(message)
            case AreYouThere() | ProbeFrame():
                return None
            case MeasureLink():
                self.context.start_task(self._measure(message, self.context.reply_later()))
            case LeaveNow():
                _log.info("leaving node=%s", self._join.node)
                self._on_leave()
            case Down():
                self._on_down(message)
            case _:
                _log.warning("unexpected message type=%s", type(message).__name__)
        return None

    async def _measure(self, wanted: MeasureLink, later: LaterReply) -> None:
        later.reply(await measure_link(self.context, wanted.peer))

    # --- workers

    def _on_start_worker(self, wanted: StartWorker) -> None:
        if wanted.worker in self._wanted:
            _log.warning("worker is here already worker=%s", wanted.worker)
            if (up := self._up.get(wanted.worker)) is not None:
                self._tell(up)
            return
        self._wanted.add(wanted.worker)
        self.context.start_task(self._run_worker(wanted))

    async def _run_worker(self, wanted: StartWorker) -> None:
        pid, reason = await self._live(wanted)
        self._wanted.discard(wanted.worker)
        self._tell(WorkerDown(worker=wanted.worker, pid=pid, reason=reason[:MAX_REASON]))

    async def _live(self, wanted: StartWorker) -> tuple[int, str]:
        """A worker from its start to its end: which process it was, and how it ended."""
        try:
            worker = await self._start_worker(
                wanted, lambda line: self._on_line(wanted.worker, line)
            )
        except OSError as error:
            return 0, f"its process did not start: {error}"
        self._workers[wanted.worker] = worker
        reason = await worker.wait()
        del self._workers[wanted.worker]
        self._up.pop(wanted.worker, None)
        return worker.pid, reason

    def _on_worker_up(self, message: WorkerUp) -> None:
        """Pass it on, unless it is of a life that has ended: its name may have begun another."""
        worker = self._workers.get(message.worker)
        is_starting = worker is None and message.worker in self._wanted
        if is_starting or (worker is not None and worker.pid == message.pid):
            self._up[message.worker] = message
            self._tell(message)

    async def _stop_worker(self, name: str) -> None:
        if (worker := self._workers.get(name)) is None:
            _log.warning("no such worker to stop worker=%s", name)
            return
        await worker.stop(WORKER_GRACE_S)

    def _on_line(self, worker: str, line: str) -> None:
        if self._forwards_logs:
            self._tell(LogLine(source=worker, line=line[:MAX_REASON]))

    def _tell(self, message: Message) -> None:
        self.context.tell(self._coordinator, message, lane=Lane.CONTROL)

    def _on_down(self, down: Down) -> None:
        if down.ref == self._coordinator:
            if down.reason in ORDERLY:
                raise ConnectionError(f"the coordinator ended ({down.reason})")
            _log.warning("coordinator lost, looking for it reason=%s", down.reason)
            self.context.start_task(self._find_coordinator())
        if (opened := self._pipelines.pop(down.ref, None)) is not None:
            reason = f"its actor ended ({down.reason}) {down.text}"[:MAX_REASON]
            self._tell(PipelineLost(epoch=opened.epoch, pipeline=opened.pipeline, reason=reason))

    async def _find_coordinator(self) -> None:
        """Go on without it, and offer what is here to its next life; give up at last."""
        give_up_at = self.context.loop_time() + COORDINATOR_GRACE_S
        while True:
            try:
                await self._offer()
            except (ActorError, TransportError) as error:
                if self._attention.was_away:  # the time that we slept is not the coordinator's
                    give_up_at = self.context.loop_time() + COORDINATOR_GRACE_S
                if self.context.loop_time() > give_up_at:
                    raise ConnectionError(f"the coordinator was lost: {error}") from None
                await asyncio.sleep(RETRY_S)
            else:
                self.context.watch(self._coordinator)
                _log.info("coordinator found again node=%s", self._join.node)
                return

    # --- pipelines

    def _open_pipeline(self, wanted: OpenPipeline) -> PipelineOpen:
        actor = PipelineActor(wanted, self._coordinator, self._attention)
        name = pipeline_name(wanted.pipeline, wanted.epoch)
        ref = self.context.spawn(actor, name=name, supervision=TEMPORARY)
        self._pipelines[ref] = wanted
        self.context.watch(ref)
        return PipelineOpen(epoch=wanted.epoch, pipeline=wanted.pipeline, ref=ref)
