"""One request on its way to another pipeline: the blocks kept for it there, and their filling.

The one idea: blocks travel by (layer, block), so the two pipelines may be split differently: each
pair of stages that share layers copies those. Who gives the request owns the blocks at both ends
until the taker has said yes. A copy is exact unless an encoding is asked for, as hand-offs alone
do. One that broke may still have a piece on its way, so that blocks which were being written are
not let go of but left to their lease.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from actors.kernel.actor import Context
from actors.kernel.errors import ActorError
from actors.kernel.ref import Ref
from actors.messages import (
    MAX_DIGESTS,
    BlocksReserved,
    Cancel,
    ExtendLease,
    ReleaseBlocks,
    ReserveBlocks,
    SendBlocks,
    SequenceState,
    StageSpec,
    TakenOver,
    TakeOver,
)
from actors.migration import block_ids
from actors.stage_change import ChangeFailed, Ring, move_blocks, resident_of
from actors.swap import Resident
from models.kv_encoding import KvEncoding
from scheduling.sequence import Sequence as TokenSequence
from transport.codec import Message
from transport.endpoint import Lane
from transport.errors import TransportError


class Outgrown(ChangeFailed):
    """A request has more blocks by now than are kept for it."""


class Mover:
    """A request's blocks at the pipeline `to`; copies end within `timeout_s`, or fail.

    `num_bytes` travelled so far, `num_saved_bytes` fewer than without `encoding`. The first
    `num_present` blocks were there already: they may be others' as well, and are never written.
    """

    def __init__(
        self,
        ring: Ring,
        request: str,
        to: Ref,
        timeout_s: float,
        *,
        encoding: KvEncoding = "none",
    ) -> None:
        self.request, self.to, self.encoding = request, to, encoding
        self.table: list[int] = []
        self.num_bytes = self.num_saved_bytes = self.num_present = self.num_copied = 0
        self.timeout_s = timeout_s
        self._ring = ring
        self._epoch = 0
        self._stages: tuple[StageSpec, ...] = ()
        self._is_writing = False

    async def reserve(
        self,
        num_blocks: int,
        lease_s: float,
        *,
        is_hand_off: bool = False,
        digests: Sequence[bytes] = (),
    ) -> None:
        """Have the taker keep so many blocks, of which it may have the first by their digests.

        Raises:
            ChangeFailed: it has not so many to spare, or does not answer.
        """
        wish = ReserveBlocks(
            request=self.request,
            num_blocks=num_blocks,
            lease_s=lease_s,
            is_hand_off=is_hand_off,
            digests=tuple(digests[:MAX_DIGESTS]),
        )
        answer = await asked(self._ring.context, self.to, wish, self.timeout_s)
        if not isinstance(answer, BlocksReserved) or not answer.blocks:
            raise ChangeFailed(f"there are no {num_blocks} free KV blocks")
        self.table = block_ids(answer.blocks).tolist()
        self.num_present = answer.num_present
        self._epoch, self._stages = answer.epoch, answer.stages

    def extend(self, lease_s: float) -> None:
        """Have the blocks kept for longer: the request is still on its way."""
        extension = ExtendLease(request=self.request, lease_s=lease_s)
        self._ring.context.tell(self.to, extension, lane=Lane.CONTROL)

    def release(self) -> None:
        """The request does not come: the blocks can go, unless somebody may still write them."""
        if not self._is_writing:
            release = ReleaseBlocks(request=self.request)
            self._ring.context.tell(self.to, release, lane=Lane.CONTROL)

    def resident(self, sequence: TokenSequence, *, with_step: bool = False) -> Resident:
        """The request's blocks, as they are now or after the step that it is in.

        Raises:
            Outgrown: they are more than are kept for it.
        """
        resident = resident_of(sequence, self._ring.block_tokens, with_step=with_step)
        if len(resident.blocks) > len(self.table):
            raise Outgrown(f"the request outgrew the {len(self.table)} blocks kept for it")
        return replace(resident, num_present=self.num_present)

    def num_exact_blocks(self, sequence: TokenSequence) -> int | None:
        """How many of the request's first blocks there hold what computing gives; None if all."""
        num_exact = sequence.num_exact_blocks if self.encoding == "none" else 0
        return None if num_exact is None else max(num_exact, self.num_present)

    @property
    def num_present_bytes(self) -> int:
        """What those blocks would have taken on the way that were there already."""
        return self.num_present * self.num_bytes // max(1, self.num_copied)

    async def copy(
        self, resident: Resident, blocks: Sequence[int], *, after_step: int | None = None
    ) -> None:
        """Copy some of its blocks, in all layers: now, or by each stage once it has run a step.

        Raises:
            ChangeFailed: not all of them arrived.
        """
        if not blocks:
            return
        places = {block: place for place, block in enumerate(resident.blocks)}
        targets = [self.table[places[block]] for block in blocks]
        self._is_writing = True
        try:
            async with asyncio.TaskGroup() as copying:
                tasks = [
                    copying.create_task(move_blocks(self._ring.context, source, order))
                    for source, order in self._orders(blocks, targets, after_step)
                ]
        except ExceptionGroup as failures:
            first = failures.exceptions[0]
            if not isinstance(first, ChangeFailed):
                raise
            raise first from None
        self._is_writing = False
        self.num_copied += len(blocks)
        for task in tasks:
            self.num_bytes += task.result().num_bytes
            self.num_saved_bytes += task.result().saved_bytes

    def _orders(
        self, blocks: Sequence[int], targets: Sequence[int], after_step: int | None
    ) -> list[tuple[Ref, SendBlocks]]:
        """What each stage here is to send to each there: the layers that both have."""
        return [
            (source.ref, self._order((first, last), blocks, targets, target.ref, after_step))
            for source in self._ring.stages
            for target in self._stages
            if (first := max(source.start, target.start)) < (last := min(source.end, target.end))
        ]

    def _order(
        self,
        layers: tuple[int, int],
        blocks: Sequence[int],
        targets: Sequence[int],
        to: Ref,
        after_step: int | None,
    ) -> SendBlocks:
        return SendBlocks(
            epoch=self._ring.epoch,
            start=layers[0],
            end=layers[1],
            blocks=np.asarray(blocks, "<i4").tobytes(),
            target=to,
            target_epoch=self._epoch,
            target_blocks=np.asarray(targets, "<i4").tobytes(),
            deadline_s=self.timeout_s,
            encoding=self.encoding,
            after_step=after_step,
        )


async def give(
    context: Context, to: Ref, states: Sequence[SequenceState], timeout_s: float
) -> None:
    """Have another actor go on with requests.

    Raises:
        ChangeFailed: it did not take them. If it did and could not say so, or nobody waits for its
            answer any more, it is told to forget them: whoever gives goes on itself.
    """
    try:
        answer = await asked(context, to, TakeOver(sequences=tuple(states)), timeout_s)
    except (ChangeFailed, asyncio.CancelledError):
        for state in states:
            context.tell(to, Cancel(request=state.generate.request), lane=Lane.CONTROL)
        raise
    if not isinstance(answer, TakenOver) or answer.failure is not None:
        raise ChangeFailed(getattr(answer, "failure", None) or "its answer was another")


async def asked(context: Context, to: Ref, message: Message, timeout_s: float) -> Message:
    """An answer; raises `ChangeFailed` if none comes in time."""
    try:
        return await context.ask(to, message, timeout_s=timeout_s)
    except (ActorError, TransportError) as error:
        raise ChangeFailed(f"{to} did not answer: {error}") from None
