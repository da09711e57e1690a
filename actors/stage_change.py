"""A pipeline's stages change under its requests: moved, cut anew or replaced, and all go on.

Planned, the KV that new stages lack is copied while the old ones serve, then in a pause between two
steps what came meanwhile. After a loss nothing serves, so all is copied in the pause, and what died
with a stage is computed again in its layers alone, from the hidden states that the stage before it
remembers (upstream backup: Hwang et al., ICDE 2005) or, at the front, from the tokens. What no log
holds is computed from its beginning. Until the commit nothing of the old epoch was touched.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Protocol

import numpy as np

from actors.kernel.actor import Context
from actors.kernel.errors import ActorError
from actors.kernel.ref import Ref
from actors.messages import (
    BlocksSent,
    ChangeAborted,
    ChangeStages,
    Fence,
    PhaseReport,
    ReplayFrom,
    ReplayStep,
    SendBlocks,
    StagesChanged,
    StageSpec,
)
from actors.step_batch import forward_batch
from actors.swap import Copying, LayerMove, Rebuild, Resident, need
from scheduling.sequence import Sequence as TokenSequence
from scheduling.step import Slot
from transport.codec import Message
from transport.errors import TransportError

BUSY = "another change is under way"
"""Why a pipeline refuses a change that it would make a little later."""
GROUP_BLOCKS = 64
"""So many blocks are copied, where time is short, before the clock is looked at again."""
MAX_REPLAYS_IN_FLIGHT = 4
MAX_REASON = 4096


class ChangeFailed(Exception):
    """A change cannot be completed; the text says why."""


class Ring(Protocol):
    """What a change needs of the pipeline that it changes."""

    context: Context
    epoch: int
    stages: tuple[StageSpec, ...]
    num_blocks: int
    block_tokens: int
    max_step_tokens: int

    @property
    def lost(self) -> frozenset[Ref]:
        """Workers of the present stages that are gone."""
        ...

    @property
    def unlogged(self) -> frozenset[int]:
        """Blocks of whose entries not all stages remember what they gave out."""
        ...

    @property
    def running(self) -> Sequence[TokenSequence]:
        """The sequences that hold blocks."""
        ...

    def check(self, stages: Sequence[StageSpec]) -> None:
        """Raise `ChangeFailed` if one of these is gone."""
        ...

    def paused(self) -> AbstractContextManager[None]:
        """Send no step while this is held."""
        ...

    async def drained(self) -> None:
        """Wait until no step is in flight."""
        ...

    async def replay(self, to: Ref, message: ReplayFrom | ReplayStep) -> None:
        """Send a batch to be computed again, and wait until it was."""
        ...

    def next_step_number(self) -> int:
        """A number for a step that is not the batcher's."""
        ...

    def preempt(self, request: str) -> None:
        """Have a sequence computed from its beginning."""
        ...

    def commit(
        self, wanted: ChangeStages, unlogged: frozenset[int], numbers: Mapping[int, int]
    ) -> None:
        """Go on over the new stages; `numbers` are the new ids of blocks that have one."""
        ...


async def change_stages(
    ring: Ring, wanted: ChangeStages, on_phase: Callable[[str], None]
) -> StagesChanged | ChangeAborted:
    """Make a change, or leave everything as it was and say why; each phase is told as it begins."""
    change = _Change(ring, wanted, on_phase)
    try:
        async with asyncio.timeout(wanted.deadline_s):
            return await change.run()
    except TimeoutError:
        reason = f"not done within {wanted.deadline_s:g} s"
    except ChangeFailed as failed:
        reason = str(failed)[:MAX_REASON]
    except ExceptionGroup as failures:
        first = failures.exceptions[0]
        if not isinstance(first, ChangeFailed):
            raise
        reason = str(first)[:MAX_REASON]
    return ChangeAborted(epoch=wanted.epoch, phase=change.phase, reason=reason)


@dataclass(slots=True)
class _Clock:
    """Times the phases of a change and counts what they move."""

    now: Callable[[], float]
    began: float
    reports: list[PhaseReport]

    def close(self, phase: str, num_bytes: int) -> None:
        report = PhaseReport(phase=phase, duration_s=self.now() - self.began, num_bytes=num_bytes)
        self.reports.append(report)
        self.began = self.now()


class _Change:
    """One change from its beginning to its commit."""

    def __init__(self, ring: Ring, wanted: ChangeStages, on_phase: Callable[[str], None]) -> None:
        self._ring = ring
        self._on_phase = on_phase
        self._wanted = wanted
        self._need = need(ring.stages, wanted.stages, ring.lost)
        self._renumbers = wanted.num_blocks != ring.num_blocks
        self._starts_over = self._need.is_hopeless or bool(ring.lost and self._renumbers)
        self._numbers: dict[int, int] = {}
        self._num_rebuilt = 0
        self._num_whole = 0
        self._num_layers = wanted.stages[-1].end
        self._num_preempted = 0
        now = ring.context.loop_time
        self._copy_until = None if wanted.copy_s is None else now() + wanted.copy_s
        self._clock = _Clock(now, now(), [])
        self.phase = "copy"

    async def run(self) -> StagesChanged:
        ring, is_planned = self._ring, not self._ring.lost
        ring.check(self._wanted.stages)
        copying = Copying({})
        if is_planned and not self._starts_over:
            self._begin("copy")
            copying = await self._copy_live(copying)
        with ring.paused():
            self._begin("pause")
            if not is_planned:
                await self._fence()
            await ring.drained()
            ring.check(self._wanted.stages)
            self._clock.close("pause", 0)
            self._begin("delta")
            if self._starts_over:
                self._preempt(ring.running)
            elif self._renumbers:
                self._fit()
            self._clock.close("delta", await self._copy_rest(copying))
            if self._need.rebuilds:
                self._begin("rebuild")
                for rebuild in self._need.rebuilds:
                    await self._rebuild(rebuild)
                self._clock.close("rebuild", 0)
            ring.check(self._wanted.stages)
            ring.commit(self._wanted, self._unlogged(), self._numbers)
        self._clock.close("commit", 0)
        return StagesChanged(
            epoch=self._wanted.epoch,
            phases=tuple(self._clock.reports),
            num_rebuilt=self._num_rebuilt,
            num_whole=self._num_whole,
            num_preempted=self._num_preempted,
        )

    def _begin(self, phase: str) -> None:
        self.phase = phase
        self._on_phase(phase)

    # --- copying

    async def _copy_live(self, copying: Copying) -> Copying:
        """Copy full blocks in rounds while the pipeline serves."""
        num_bytes = 0
        while blocks := copying.next_round(residents := self._residents()):
            num_copied, num_bytes_more = await self._copy(blocks)
            num_bytes += num_bytes_more
            copying = copying.after(residents, num_copied)
            if num_copied < len(blocks):
                break
        self._clock.close("copy", num_bytes)
        return copying

    async def _copy_rest(self, copying: Copying) -> int:
        """Copy what is left, now that nothing is added; who is left behind is computed again."""
        residents = self._residents()
        num_copied, num_bytes = await self._copy(copying.rest(residents))
        left_behind = copying.left_behind(residents, num_copied)
        self._preempt([s for s in self._ring.running if s.request_id in left_behind])
        return num_bytes

    def _residents(self) -> list[Resident]:
        """Who is to be moved, those first whose entries would cost most to compute again."""
        running = sorted(self._ring.running, key=lambda sequence: -sequence.num_computed)
        residents = [resident_of(sequence, self._ring.block_tokens) for sequence in running]
        return [self._with_stable_ids(r) for r in residents] if self._renumbers else residents

    def _with_stable_ids(self, resident: Resident) -> Resident:
        """Blocks from the first one on that gets another number are copied in the pause alone."""
        limit = self._wanted.num_blocks
        stable = takewhile(lambda block: block < limit, resident.blocks[: resident.num_full])
        return replace(resident, num_full=sum(1 for _ in stable))

    def _fit(self) -> None:
        """Find a place among fewer blocks for all that are held; the youngest may have to go."""
        limit, ring = self._wanted.num_blocks, self._ring
        youngest_last = sorted(ring.running, key=lambda sequence: sequence.arrival)
        while len(held := _held_by(youngest_last)) > limit:
            self._preempt([youngest_last.pop()])
        free = (block for block in range(limit) if block not in held)
        self._numbers = {block: next(free) for block in sorted(held) if block >= limit}

    async def _copy(self, blocks: Sequence[int]) -> tuple[int, int]:
        """Copy blocks, in order, for as long as there is time: how many, and their bytes."""
        if not self._need.moves:
            return len(blocks), 0
        group = len(blocks) if self._copy_until is None else GROUP_BLOCKS
        num_copied = num_bytes = 0
        while num_copied < len(blocks) and self._has_time():
            part = blocks[num_copied : num_copied + group]
            num_bytes += await self._copy_group(part)
            num_copied += len(part)
        return num_copied, num_bytes

    def _has_time(self) -> bool:
        return self._copy_until is None or self._ring.context.loop_time() < self._copy_until

    async def _copy_group(self, blocks: Sequence[int]) -> int:
        """Copy blocks for all layers that move; bytes in all."""
        packed = np.asarray(blocks, "<i4").tobytes()
        numbers = [self._numbers.get(block, block) for block in blocks]
        targets = np.asarray(numbers, "<i4").tobytes()
        async with asyncio.TaskGroup() as copying:
            tasks = [copying.create_task(self._move(m, packed, targets)) for m in self._need.moves]
        return sum(task.result() for task in tasks)

    async def _move(self, move: LayerMove, packed: bytes, targets: bytes) -> int:
        deadline_s = self._wanted.deadline_s
        message = SendBlocks(
            epoch=self._ring.epoch,
            start=move.start,
            end=move.end,
            blocks=packed,
            target=move.target,
            target_epoch=self._wanted.epoch,
            target_blocks=targets,
            deadline_s=deadline_s,
        )
        return (await move_blocks(self._ring.context, move.source, message)).num_bytes

    # --- rebuilding

    async def _fence(self) -> None:
        """Have every stage finish and forget the steps that were in flight when one was lost."""
        fence = Fence(epoch=self._wanted.epoch)

        async def one(stage: StageSpec) -> None:
            context, deadline_s = self._ring.context, self._wanted.deadline_s
            await _asked(context, stage.ref, fence, deadline_s, f"stopping {stage.ref}")

        async with asyncio.TaskGroup() as fencing:
            for stage in self._wanted.stages:
                fencing.create_task(one(stage))

    async def _rebuild(self, rebuild: Rebuild) -> None:
        sequences = [s for s in self._ring.running if s.num_computed]
        if rebuild.first:
            lacking = [s for s in sequences if not self._is_logged(s, rebuild)]
            self._preempt(lacking)
            sequences = [s for s in sequences if s.block_table]
        room = asyncio.Semaphore(MAX_REPLAYS_IN_FLIGHT)

        async def one(slots: list[Slot]) -> None:
            try:
                await self._replay(rebuild, slots)
            finally:
                room.release()

        async with asyncio.TaskGroup() as replaying:
            batches = replay_slots(sequences, self._ring.max_step_tokens, self._ring.block_tokens)
            for slots in batches:
                await room.acquire()
                replaying.create_task(one(slots))
        num_tokens = sum(slot.length for slots in batches for slot in slots)
        stages = self._wanted.stages
        self._num_rebuilt += num_tokens * (stages[rebuild.last].end - stages[rebuild.first].start)
        self._num_whole += num_tokens * self._num_layers

    def _is_logged(self, sequence: TokenSequence, rebuild: Rebuild) -> bool:
        num_logged = self._wanted.stages[rebuild.first - 1].num_logged_blocks
        unlogged = self._ring.unlogged
        blocks = sequence.block_table
        return unlogged.isdisjoint(blocks) and all(block < num_logged for block in blocks)

    async def _replay(self, rebuild: Rebuild, slots: list[Slot]) -> None:
        first, last = rebuild.first, rebuild.last
        kind = ReplayFrom if first else ReplayStep
        to = self._wanted.stages[max(0, first - 1)].ref
        message = kind(
            epoch=self._wanted.epoch,
            step=self._ring.next_step_number(),
            batch=forward_batch(slots, with_extras=False).pack(),
            last=last,
        )
        await self._ring.replay(to, message)

    def _preempt(self, sequences: Sequence[TokenSequence]) -> None:
        for sequence in list(sequences):
            self._num_preempted += 1
            self._num_rebuilt += sequence.num_computed * self._num_layers
            self._num_whole += sequence.num_computed * self._num_layers
            self._ring.preempt(sequence.request_id)

    def _unlogged(self) -> frozenset[int]:
        """What will not be remembered by all of the new stages: blocks by their new numbers."""
        held = _held_by(self._ring.running)
        rebuilt = {i for r in self._need.rebuilds for i in range(r.first, r.last + 1)}
        remember = all(
            stage.keeps_log or index in rebuilt
            for index, stage in enumerate(self._wanted.stages[:-1])
        )
        unlogged = held & self._ring.unlogged if remember else held
        return frozenset(self._numbers.get(block, block) for block in unlogged)


def resident_of(sequence: TokenSequence, block_tokens: int, *, with_step: bool = False) -> Resident:
    """A sequence's blocks that hold computed entries, or will after the step that it is in."""
    num_computed = sequence.num_computed + (sequence.num_in_flight if with_step else 0)
    num_used = -(-num_computed // block_tokens)
    return Resident(
        sequence.request_id,
        sequence.residency,
        tuple(sequence.block_table[:num_used]),
        num_computed // block_tokens,
    )


async def move_blocks(context: Context, source: Ref, message: SendBlocks) -> BlocksSent:
    """Have a stage copy blocks to another; with the bytes copied, all of them arrived.

    Raises:
        ChangeFailed: not all of them arrived.
    """
    what = f"layers {message.start}:{message.end} from {source} to {message.target}"
    sent = await _asked(context, source, message, message.deadline_s, what)
    if not isinstance(sent, BlocksSent) or sent.failure is not None:
        raise ChangeFailed(f"{what}: {getattr(sent, 'failure', 'another answer came')}")
    return sent


def _held_by(sequences: Sequence[TokenSequence]) -> set[int]:
    return {block for sequence in sequences for block in sequence.block_table}


def replay_slots(
    sequences: Sequence[TokenSequence], max_tokens: int, block_tokens: int
) -> list[list[Slot]]:
    """All computed tokens of the sequences, in batches, each sequence's in order.

    What is in a block that several hold is computed once, and by an earlier batch than the rest of
    those that only read it.
    """
    batches: list[list[Slot]] = []
    batch_of: dict[int, int] = {}  # the last that computes something of a block
    room = 0
    for sequence in sequences:
        shared = [batch_of[b] for b in takewhile(batch_of.__contains__, sequence.block_table)]
        if max(shared, default=-1) == len(batches) - 1:
            room = 0
        start = min(len(shared) * block_tokens, sequence.num_computed)
        while start < sequence.num_computed:
            if not room:
                batches.append([])
                room = max_tokens
            length = min(room, sequence.num_computed - start)
            batches[-1].append(Slot(sequence, start, length, samples=False))
            end = start + length
            used = sequence.block_table[start // block_tokens : -(-end // block_tokens)]
            batch_of.update(dict.fromkeys(used, len(batches) - 1))
            start, room = end, room - length
    return batches


async def _asked(
    context: Context, to: Ref, message: Message, timeout_s: float, what: str
) -> Message:
    try:
        return await context.ask(to, message, timeout_s=timeout_s)
    except (ActorError, TransportError) as error:
        raise ChangeFailed(f"{what}: {error}") from None
