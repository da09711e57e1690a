"""Requests go on in another pipeline from their second token on: prefill here, decode there.

The one idea: KV is append-only, so the blocks that a chunk of a prompt filled stay right, and
travel while the next chunk is computed. A request is parked as its last chunk is sent, so that with
its first token only that chunk's blocks are left to be copied, and nothing of it changes any more.
Whatever fails, it is not parked any more and goes on here; what was kept for it there has a lease.
(DistServe, OSDI 2024; Splitwise, ISCA 2024; ThunderServe, MLSys 2025.)

Few copy to one taker at a time, those whose first token is there before the others. Nobody stands
still for long while it waits for its turn: it is served here until then, and may stay.

Nothing is polled: the ring says when steps went or came, and each hand-off looks what that means
for it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from actors.kernel.ref import Ref
from actors.messages import Generate, HandOffCounts
from actors.mover import Mover, Outgrown, give
from actors.request_moves import SLACK_BLOCKS, Giver, num_blocks_to_move, state_of
from actors.stage_change import ChangeFailed
from actors.step_ring import StepRing
from actors.swap import Copying, Resident
from actors.turns import Turns
from scheduling.sequence import Sequence as TokenSequence

_log = logging.getLogger(__name__)

MAX_UNDER_WAY = 16
"""Hand-offs of one pipeline at a time; the others wait, and their requests are served meanwhile."""
MAX_COPYING = 4
"""Of these, how many copy to one taker at a time: enough to fill a link, few enough to be soon."""
QUEUE_BLOCKS = 2
"""By how much a request may grow while it waits for its turn."""
PATIENCE_S = 0.5
"""So long it may stand still for its turn."""
RESERVE_TIMEOUT_S = 2.0
STALL_S = 30.0
"""A hand-off of which no block was copied and no token computed for so long is given up."""
LEASE_S = 2 * STALL_S + 5.0
"""Whoever gives up does so well before the blocks that are kept for it go to somebody else."""


class NoRoom(Exception):
    """No taker has blocks to spare, or no turn came in time; the text says what was asked."""


@dataclass(slots=True)
class HandOff:
    """One request that is to be handed off.

    Attributes:
        request: its name.
        takers: pipelines that may take it, best first.
        num_tokens: what it came with; with more than that its first token is there.
        is_late: it was served here already when its turn came.
        may_park: it takes part in no step once its first token is there.
        is_queued: it has waited long for its turn to copy, and is served meanwhile.
        is_parked: it takes part in no step now.
        is_giving: the taker was asked to go on with it.
        seen: how far it was when that was last looked at.
        news: set when it is further.
        until: when it is given up; moved on as it gets further.
    """

    request: str
    takers: tuple[Ref, ...]
    num_tokens: int
    is_late: bool = False
    may_park: bool = True
    is_queued: bool = False
    is_parked: bool = False
    is_giving: bool = False
    seen: tuple[int, ...] | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)
    until: asyncio.Timeout | None = None
    extended_at: float = 0.0


class HandOffs:
    """All of a pipeline's hand-offs: those that wait for their turn, and those under way."""

    def __init__(self, giver: Giver, ring: StepRing) -> None:
        self._giver, self._ring = giver, ring
        self._waiting: dict[str, HandOff] = {}
        self._under_way: dict[str, HandOff] = {}
        self._turns: dict[Ref, Turns] = {}
        self._is_closed = False
        self._ended = asyncio.Event()
        self.counts = HandOffCounts()

    def want(self, message: Generate) -> None:
        """Hand a request off once it is served, if that is worth it.

        It is not where no token follows the first, nor for less than a block.
        """
        num_tokens = len(message.token_ids)
        num_left = message.max_tokens - num_tokens + (message.num_prompt_tokens or num_tokens)
        if message.hand_off and num_left > 1 and num_tokens >= self._ring.block_tokens:
            found = HandOff(message.request, message.hand_off, num_tokens)
            self._waiting[message.request] = found

    def forget(self, request: str) -> None:
        """It ended, or its reader is gone; one that is under way finds that out by itself."""
        self._waiting.pop(request, None)

    def is_under_way(self, request: str) -> bool:
        """Whether some of it may be at another pipeline already."""
        return request in self._under_way

    def takers_of(self, request: str) -> tuple[Ref, ...]:
        """Where a request is still to go; nowhere once it goes."""
        found = self._waiting.get(request) or self._under_way.get(request)
        return () if found is None or found.is_giving else found.takers

    async def close(self) -> None:
        """Begin no more, and wait until none is under way; whoever waits has a deadline."""
        self._is_closed = True
        for found in self._under_way.values():
            if not found.is_giving and found.until is not None and not found.until.expired():
                found.until.reschedule(self._ring.context.loop_time())
        while self._under_way:
            self._ended.clear()
            await self._ended.wait()

    def reopen(self) -> None:
        """Go on with hand-offs after all."""
        self._is_closed = False

    # --- what every turn of the ring may mean

    def look(self) -> None:
        """Begin what can begin, park who is about to have a first token, tell who got further."""
        if not self._waiting and not self._under_way:
            return
        if self._waiting and not self._is_closed:
            self._begin()
        has_freed = [self._tend(found) for found in tuple(self._under_way.values())]
        if any(has_freed):
            self._ring.pump()

    def _begin(self) -> None:
        for sequence in self._ring.running:
            if len(self._under_way) >= MAX_UNDER_WAY:
                return
            found = self._waiting.get(sequence.request_id)
            if found is None or sequence.cancelled:
                continue
            del self._waiting[found.request]
            found.is_late = sequence.num_tokens > found.num_tokens
            found.may_park = not found.is_late
            self._under_way[found.request] = found
            self._ring.context.start_task(self._run(found))

    def _tend(self, found: HandOff) -> bool:
        """Park or free one, and wake it if it got further; whether it was freed."""
        sequence = self._ring.batcher.sequence(found.request)
        is_freed = False
        if sequence is not None:
            is_able = found.may_park and not found.is_queued
            should_park = is_able and _has_or_gets_first_token(found, sequence)
            is_freed = found.is_parked and not should_park
            if should_park != found.is_parked:
                self._park(found, parked=should_park)
        seen = None if sequence is None else _how_far(sequence)
        if seen is None or seen != found.seen:
            found.seen = seen
            found.news.set()
        return is_freed

    def _park(self, found: HandOff, *, parked: bool) -> None:
        found.is_parked = parked
        self._ring.batcher.park(found.request, parked=parked)

    # --- one hand-off

    async def _run(self, found: HandOff) -> None:
        began = self._ring.context.loop_time()
        try:
            async with asyncio.timeout(STALL_S) as found.until:
                num_bytes = await self._hand_off(found)
            self._count(num_done=1, num_bytes=num_bytes, seconds=self._since(began))
        except NoRoom as error:
            self._count(num_stayed=1)
            _log.debug("not handed off request=%s reason=%s", found.request, error)
        except (ChangeFailed, TimeoutError) as error:
            self._give_up(found, str(error) or f"it got no further for {STALL_S:g} s")
        finally:
            del self._under_way[found.request]
            if found.is_parked:
                self._park(found, parked=False)
            self._turns = {to: turns for to, turns in self._turns.items() if not turns.is_idle}
            self._ended.set()
        self._ring.pump()

    def _give_up(self, found: HandOff, reason: str) -> None:
        if self._is_closed:  # whoever gets all of our requests is to hand it off
            again = HandOff(found.request, found.takers, found.num_tokens)
            self._waiting[found.request] = again
        elif self._ring.batcher.sequence(found.request) is not None:  # else it ended, or was left
            self._count(num_failed=1)
            _log.info("not handed off request=%s reason=%s", found.request, reason)

    def _since(self, began: float) -> float:
        return self._ring.context.loop_time() - began

    def _count(
        self,
        *,
        num_done: int = 0,
        num_stayed: int = 0,
        num_failed: int = 0,
        num_bytes: int = 0,
        seconds: float = 0.0,
    ) -> None:
        before = self.counts
        self.counts = HandOffCounts(
            num_done=before.num_done + num_done,
            num_stayed=before.num_stayed + num_stayed,
            num_failed=before.num_failed + num_failed,
            num_bytes=before.num_bytes + num_bytes,
            seconds=before.seconds + seconds,
        )

    async def _hand_off(self, found: HandOff) -> int:
        """All of it; bytes of KV that were copied.

        Raises:
            NoRoom: no taker has blocks to spare.
            ChangeFailed: it ended, or could not be given, and goes on here.
        """
        if self._is_closed:
            raise ChangeFailed("its pipeline's requests are being handed over")
        mover = await self._reserved(found)
        try:
            await self._copy_while_computed(found, mover)
            sequence = self._ring.present(found.request)  # its reader may have gone meanwhile
            found.is_giving = True
            state = state_of(self._giver, sequence, mover.table, sequence.num_computed)
            await give(self._ring.context, mover.to, [state], STALL_S / 2)
        except (NoRoom, ChangeFailed, asyncio.CancelledError):
            mover.release()
            raise
        found.is_parked = False  # it is not ours to free
        self._giver.give_away([found.request], mover.to)
        return mover.num_bytes

    async def _reserved(self, found: HandOff) -> Mover:
        """The first taker that has room keeps blocks for what the request has, and may get."""
        asked: list[str] = []
        for taker in found.takers:
            sequence = self._ring.present(found.request)
            slack = SLACK_BLOCKS if found.is_late else QUEUE_BLOCKS
            num_blocks = num_blocks_to_move(sequence, self._ring.block_tokens, slack)
            mover = Mover(self._ring, found.request, taker, RESERVE_TIMEOUT_S)
            try:
                await mover.reserve(num_blocks, LEASE_S, is_hand_off=True)
            except ChangeFailed as failed:
                mover.release()
                asked.append(f"{taker}: {failed}")
                continue
            except asyncio.CancelledError:
                mover.release()
                raise
            mover.timeout_s = STALL_S
            found.extended_at = self._ring.context.loop_time()
            return mover
        raise NoRoom("; ".join(asked))

    async def _copy_while_computed(self, found: HandOff, mover: Mover) -> None:
        """Copy blocks as steps fill them, and what is left when the first token is there."""
        copying = Copying({})
        while True:
            copying = await self._copy_full(found, mover, copying)
            sequence = self._ring.present(found.request)
            if _has_first_token(found, sequence):
                async with self._turn(found, mover, is_urgent=True):
                    await self._copy_rest(found, mover, copying)
                return
            await self._news(found)

    async def _copy_full(self, found: HandOff, mover: Mover, copying: Copying) -> Copying:
        """Copy what is full by now, if anything is."""
        if not copying.full([self._resident(found, mover)]):
            return copying
        async with self._turn(found, mover, is_urgent=False):
            return await self._copy_now(found, mover, copying)

    async def _copy_now(self, found: HandOff, mover: Mover, copying: Copying) -> Copying:
        resident = self._resident(found, mover)
        blocks = copying.full([resident])
        await mover.copy(resident, blocks)
        self._go_on(found, mover)
        return copying.after([resident], len(blocks))

    async def _copy_rest(self, found: HandOff, mover: Mover, copying: Copying) -> None:
        """Our turn: park it, once what it got while it waited is copied, and copy the rest."""
        if not found.is_parked:
            copying = await self._copy_now(found, mover, copying)
            found.may_park = True
            self._tend(found)
        while not _is_at_rest(found, sequence := self._ring.present(found.request)):
            await self._news(found)
        if not sequence.block_table:
            raise ChangeFailed("its blocks were taken from it")
        resident = self._resident(found, mover)
        await mover.copy(resident, copying.rest([resident]))
        self._go_on(found, mover)

    def _resident(self, found: HandOff, mover: Mover) -> Resident:
        try:
            return mover.resident(self._ring.present(found.request))
        except Outgrown as outgrown:
            raise NoRoom(str(outgrown)) from None

    @asynccontextmanager
    async def _turn(self, found: HandOff, mover: Mover, *, is_urgent: bool) -> AsyncIterator[None]:
        """Our turn to copy to a taker; if it is long in coming the request is served meanwhile."""
        turns = self._turns.setdefault(mover.to, Turns(MAX_COPYING))
        losing_patience = asyncio.get_running_loop().call_later(
            PATIENCE_S, lambda: self._queue(found)
        )
        try:
            async with turns.taken(is_urgent=is_urgent):
                losing_patience.cancel()
                if found.is_queued:
                    self._end_queueing(found)
                yield
        finally:
            losing_patience.cancel()

    def _queue(self, found: HandOff) -> None:
        found.is_queued = True
        if self._tend(found):
            self._ring.pump()

    def _end_queueing(self, found: HandOff) -> None:
        """What it got meanwhile is copied while it runs on, so that it is parked the shorter."""
        found.is_queued = False
        found.may_park = not _has_first_token(found, self._ring.present(found.request))
        self._tend(found)

    async def _news(self, found: HandOff) -> None:
        found.news.clear()
        await found.news.wait()

    def _go_on(self, found: HandOff, mover: Mover) -> None:
        """It got further: whoever waits for it waits from now on."""
        now = self._ring.context.loop_time()
        if found.until is not None and not found.until.expired() and not self._is_closed:
            found.until.reschedule(now + STALL_S)
        if now - found.extended_at > STALL_S / 2:
            found.extended_at = now
            mover.extend(LEASE_S)


def _has_first_token(found: HandOff, sequence: TokenSequence) -> bool:
    return sequence.num_tokens > found.num_tokens


def _has_or_gets_first_token(found: HandOff, sequence: TokenSequence) -> bool:
    """Whether its first token is there, or comes with the step under way."""
    if _has_first_token(found, sequence):
        return True
    return sequence.in_flight and sequence.num_in_flight == sequence.num_remaining


def _is_at_rest(found: HandOff, sequence: TokenSequence) -> bool:
    """Whether its first token is there and no step has it any more."""
    return found.is_parked and _has_first_token(found, sequence) and not sequence.in_flight


def _how_far(sequence: TokenSequence) -> tuple[int, ...]:
    return (
        sequence.num_computed,
        sequence.num_in_flight,
        sequence.num_tokens,
        sequence.residency,
    )
