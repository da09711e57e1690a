"""A stage: layers of a model at work in a pipeline, one step after another.

It is a pure function of its weights, its KV blocks and the `StepInput`: no request has state
here. The event loop only carries bytes; the shard runs in the device's own thread, where the next
step may already queue while this one's result is on its way.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from actors.kernel.actor import Actor
from actors.kernel.ref import Ref
from actors.messages import (
    AssignStage,
    LoadProgress,
    StageFailed,
    StageReady,
    StepInput,
    StepOutput,
)
from models.errors import ModelError
from models.forward_batch import ForwardBatch
from models.interface import ForwardResult, Shard
from transport.codec import Message
from transport.endpoint import Lane
from transport.frame import Buffer

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

MAX_STEPS_IN_FLIGHT = 8
"""More than any pipeline keeps in flight per stage; a sender beyond it waits in the mailbox."""


@dataclass(frozen=True, slots=True)
class LoadedShard:
    """A shard with what the coordinator wants to know about it.

    Units: `resident_bytes` is the resident memory of the whole process.
    """

    shard: Shard
    weight_bytes: int
    kv_bytes: int
    resident_bytes: int


class Device(Protocol):
    """What a stage needs of the place where its tensors live."""

    def run(self, function: Callable[[], _T]) -> Awaitable[_T]:
        """Run a blocking function after all earlier ones, off the event loop."""
        ...

    def load(self, assignment: AssignStage, on_progress: Callable[[int, int], None]) -> LoadedShard:
        """Load the shard an assignment asks for; blocking. `on_progress(done, total)` in bytes."""
        ...


class StageActor(Actor):
    """Runs the steps of whichever assignment it holds; drops those of another epoch."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._assignment: AssignStage | None = None
        self._loaded: LoadedShard | None = None
        self._slots = asyncio.Semaphore(MAX_STEPS_IN_FLIGHT)
        self.num_stale_steps = 0

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        """Take assignments and steps."""
        match message:
            case StepInput():
                await self._on_step(message, buffers)
            case AssignStage():
                return await self._on_assign(message)
            case _:
                _log.warning("unexpected message type=%s", type(message).__name__)
        return None

    # --- loading

    async def _on_assign(self, wanted: AssignStage) -> Message:
        held = self._assignment
        if held is None or _shard_key(held) != _shard_key(wanted):
            self._assignment = self._loaded = None
            try:
                self._loaded = await self._load(wanted)
            except (ModelError, OSError, MemoryError) as error:
                _log.error("stage cannot load stage=%d reason=%s", wanted.stage, error)
                return StageFailed(epoch=wanted.epoch, stage=wanted.stage, reason=str(error))
        self._assignment = wanted
        return self._ready()

    async def _load(self, wanted: AssignStage) -> LoadedShard:
        loop = asyncio.get_running_loop()

        def on_progress(done: int, total: int) -> None:
            loop.call_soon_threadsafe(self._tell_progress, wanted, done, total)

        return await self._device.run(lambda: self._device.load(wanted, on_progress))

    def _tell_progress(self, wanted: AssignStage, done: int, total: int) -> None:
        progress = LoadProgress(
            epoch=wanted.epoch,
            pipeline=wanted.pipeline,
            stage=wanted.stage,
            num_bytes=done,
            total_bytes=total,
        )
        self.context.tell(wanted.observer, progress, lane=Lane.CONTROL)

    def _ready(self) -> StageReady:
        assert self._assignment is not None
        assert self._loaded is not None
        _log.info(
            "stage ready epoch=%d stage=%d layers=%d:%d weight_bytes=%d resident_bytes=%d",
            self._assignment.epoch,
            self._assignment.stage,
            self._assignment.start,
            self._assignment.end,
            self._loaded.weight_bytes,
            self._loaded.resident_bytes,
        )
        return StageReady(
            epoch=self._assignment.epoch,
            pipeline=self._assignment.pipeline,
            stage=self._assignment.stage,
            weight_bytes=self._loaded.weight_bytes,
            kv_bytes=self._loaded.kv_bytes,
            resident_bytes=self._loaded.resident_bytes,
        )

    # --- steps

    async def _on_step(self, message: StepInput, buffers: Sequence[Buffer]) -> None:
        assignment, loaded = self._assignment, self._loaded
        if assignment is None or loaded is None or message.epoch != assignment.epoch:
            self.num_stale_steps += 1
            return
        batch = ForwardBatch.unpack(message.batch)
        hidden = memoryview(buffers[0]) if buffers else None
        await self._slots.acquire()
        result = self._device.run(lambda: loaded.shard.forward(batch, hidden))
        self.context.start_task(self._forward(result, message, assignment))

    async def _forward(
        self, running: Awaitable[ForwardResult], step: StepInput, assignment: AssignStage
    ) -> None:
        try:
            result = await running
        finally:
            self._slots.release()
        if result.hidden is not None:
            self.context.tell(assignment.successor, step, buffers=(result.hidden,))
        elif result.token_ids is not None:
            tokens = result.token_ids.astype(np.int32, copy=False).tobytes()
            output = StepOutput(epoch=step.epoch, step=step.step, token_ids=tokens)
            self.context.tell(assignment.successor, output)


def _shard_key(assignment: AssignStage) -> tuple[object, ...]:
    return (
        assignment.model,
        assignment.model_hash,
        assignment.start,
        assignment.end,
        assignment.dtype,
        assignment.wire_dtype,
        assignment.num_blocks,
        assignment.block_tokens,
    )
