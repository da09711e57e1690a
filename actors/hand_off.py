"""One request goes on in another pipeline from its second token on: prefill here, decode there.

The one idea: KV is append-only, so the blocks that a chunk of a prompt filled stay right, and
travel while the next chunk is computed. A request is parked as its last chunk is sent, so that
nothing of it changes any more, and each stage copies what that chunk leaves in its layers as soon
as it has run it, while the later stages still do. Whatever fails, it is not parked any more and
goes on here; what was kept for it there has a lease. (DistServe, OSDI 2024; Splitwise, ISCA 2024;
ThunderServe, MLSys 2025.)

Few copy to one taker at a time, those whose first token is there before the others. Nobody stands
still for long while it waits for its turn: it is served here until then, and may stay.

Nothing is polled: `tend` is called whenever steps went or came, and wakes who has got further.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from actors.kernel.ref import Ref
from actors.messages import Taker
from actors.mover import Mover, Outgrown, give
from actors.request_moves import SLACK_BLOCKS, Giver, num_blocks_to_move, state_of
from actors.stage_change import ChangeFailed
from actors.step_ring import StepRing
from actors.swap import Copying, Resident
from actors.turns import Turns
from scheduling.sequence import Sequence as TokenSequence

QUEUE_BLOCKS = 2
"""By how much a request may grow while it waits for its turn."""
PATIENCE_S = 0.5
"""So long it may stand still for its turn."""
SPARE_TURNS = 1
"""So many turns are left to those whose first token is there, by one that waits for its step."""
RESERVE_TIMEOUT_S = 2.0
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 8.0
"""One for which there is no room asks again after this long, each time twice as long after."""
STALL_S = 30.0
"""A hand-off of which no block was copied and no token computed for so long is given up."""
LEASE_S = 2 * STALL_S + 5.0
"""Whoever gives up does so well before the blocks that are kept for it go to somebody else."""


class NoRoom(Exception):
    """No taker has blocks to spare, or no turn came in time; the text says what was asked."""


class HandOff:
    """One request that is to be handed off.

    Attributes:
        request: its name.
        takers: pipelines that may take it, best first, and how its KV travels to each.
        was_late: its first token was there when its turn came.
        is_giving: the taker was asked to go on with it.
        retry_s: after how long it is to be tried again if there is no room for it now.
        not_before: when it may be begun, by the loop's clock.
    """

    def __init__(self, ring: StepRing, request: str, takers: tuple[Taker, ...]) -> None:
        self.request, self.takers = request, takers
        self.is_giving = self.was_late = False
        self.retry_s, self.not_before = FIRST_RETRY_S, 0.0
        self._ring = ring
        sequence = ring.present(request)
        # With more its first token is there, which one that decodes has already.
        self._num_tokens = sequence.num_tokens - sequence.is_decoding
        self._may_park = True
        self._is_queued = False
        self._is_parked = False
        self._is_closing = False
        self._seen: tuple[int, ...] | None = None
        self._news = asyncio.Event()
        self._until: asyncio.Timeout | None = None
        self._extended_at = 0.0

    def again(self) -> "HandOff":
        """The same, to be tried later."""
        later = HandOff(self._ring, self.request, self.takers)
        later._num_tokens = self._num_tokens
        later.not_before = self._ring.context.loop_time() + self.retry_s
        later.retry_s = min(2 * self.retry_s, LONGEST_RETRY_S)
        return later

    @property
    def is_first_try(self) -> bool:
        """Whether it was never tried before."""
        return self.not_before == 0

    # --- what every turn of the ring may mean

    def has_first_token(self, sequence: TokenSequence) -> bool:
        """Whether its first token is there."""
        return sequence.num_tokens > self._num_tokens

    def begin(self, sequence: TokenSequence) -> None:
        """Its turn came; one that has tokens by now is served here until its blocks are there."""
        self.was_late = self.has_first_token(sequence)
        self._may_park = not self.was_late

    def tend(self) -> bool:
        """Park or free it, and wake who waits if it got further; whether it was freed."""
        sequence = self._ring.batcher.sequence(self.request)
        is_freed = False
        if sequence is not None:
            is_able = self._may_park and not self._is_queued
            should_park = is_able and self._has_or_gets_first_token(sequence)
            is_freed = self._is_parked and not should_park
            if should_park != self._is_parked:
                self._park(parked=should_park)
        seen = None if sequence is None else _how_far(sequence)
        if seen is None or seen != self._seen:
            self._seen = seen
            self._news.set()
        return is_freed

    def close(self) -> None:
        """Give it up now, unless the taker is being asked."""
        self._is_closing = True
        if not self.is_giving and self._until is not None and not self._until.expired():
            self._until.reschedule(self._ring.context.loop_time())

    def free(self) -> None:
        """Let it take part in steps, if it is still ours."""
        if self._is_parked:
            self._park(parked=False)

    def _park(self, *, parked: bool) -> None:
        self._is_parked = parked
        self._ring.batcher.park(self.request, parked=parked)

    # --- its course

    async def run(self, giver: Giver, turns_of: Callable[[Ref], Turns]) -> Mover:
        """All of it; who copied its KV, with the bytes of that.

        Raises:
            NoRoom: no taker has blocks to spare, or no turn came in time.
            ChangeFailed: it ended, or could not be given, and goes on here.
            TimeoutError: it got no further for `STALL_S`.
        """
        async with asyncio.timeout(STALL_S) as self._until:
            if self._is_closing:
                raise ChangeFailed("its pipeline's requests are being handed over")
            mover = await self._reserved()
            try:
                await self._copy_while_computed(mover, turns_of(mover.to))
                await self._give(giver, mover)
            except (NoRoom, ChangeFailed, asyncio.CancelledError):
                mover.release()
                raise
            self._is_parked = False  # it is not ours to free
            giver.give_away([self.request], mover.to)
            return mover

    async def _give(self, giver: Giver, mover: Mover) -> None:
        sequence = self._ring.present(self.request)  # its reader may have gone meanwhile
        self.is_giving = True
        state = state_of(giver, sequence, mover.table, sequence.num_computed)
        await give(self._ring.context, mover.to, [state], STALL_S / 2)

    async def _reserved(self) -> Mover:
        """The first taker that has room keeps blocks for what the request has, and may get."""
        asked: list[str] = []
        for taker in self.takers:
            slack = SLACK_BLOCKS if self.was_late else QUEUE_BLOCKS
            sequence = self._ring.present(self.request)
            num_blocks = num_blocks_to_move(sequence, self._ring.block_tokens, slack)
            mover = Mover(
                self._ring, self.request, taker.ref, RESERVE_TIMEOUT_S, encoding=taker.encoding
            )
            try:
                await mover.reserve(num_blocks, LEASE_S, is_hand_off=True)
            except ChangeFailed as failed:
                mover.release()
                asked.append(f"{taker.ref}: {failed}")
                continue
            except asyncio.CancelledError:
                mover.release()
                raise
            mover.timeout_s = STALL_S
            self._extended_at = self._ring.context.loop_time()
            return mover
        raise NoRoom("; ".join(asked))

    async def _copy_while_computed(self, mover: Mover, turns: Turns) -> None:
        """Copy blocks as steps fill them, and what is left when the first token is there."""
        copying = Copying({})
        while True:
            if copying.full([self._resident(mover)]):
                async with self._turn(turns, is_urgent=False):
                    copying = await self._copy_full(mover, copying)
            if self._is_parked and turns.num_free > SPARE_TURNS:
                async with self._turn(turns, is_urgent=True):
                    copying = await self._copy_behind_step(mover, copying)
                    if self.has_first_token(self._ring.present(self.request)):
                        # In the same turn: if it waited for another it might be served meanwhile,
                        # and what it got would stand in a block that counts as copied.
                        await self._copy_rest(mover, copying)
                        return
            if self.has_first_token(self._ring.present(self.request)):
                async with self._turn(turns, is_urgent=True):
                    await self._copy_rest(mover, copying)
                return
            await self._wait_for_news()

    async def _copy_full(self, mover: Mover, copying: Copying) -> Copying:
        resident = self._resident(mover)
        blocks = copying.full([resident])
        await mover.copy(resident, blocks)
        self._got_further(mover)
        return copying.after([resident], len(blocks))

    async def _copy_behind_step(self, mover: Mover, copying: Copying) -> Copying:
        """Have each stage copy what its last step here leaves there, as soon as it has run it."""
        step = self._ring.batcher.step_of(self.request)
        if step is None:
            return copying
        resident = self._resident(mover, with_step=True)
        blocks = copying.rest([resident])
        await mover.copy(resident, blocks, after_step=step)
        while self._ring.batcher.step_of(self.request) == step:
            await self._wait_for_news()
        if not self._is_at_rest(self._ring.present(self.request)):
            return copying  # the step was forgotten, and what it filled is computed again
        self._got_further(mover)
        whole = replace(resident, num_full=len(resident.blocks))  # it is parked: they do not grow
        return copying.after([whole], len(blocks))

    async def _copy_rest(self, mover: Mover, copying: Copying) -> None:
        """Our turn: park it, once what it got while it waited is copied, and copy the rest."""
        if not self._is_parked:
            copying = await self._copy_full(mover, copying)
            self._may_park = True
            self.tend()
            copying = await self._copy_behind_step(mover, copying)
        while not self._is_at_rest(sequence := self._ring.present(self.request)):
            await self._wait_for_news()
        if not sequence.block_table:
            raise ChangeFailed("its blocks were taken from it")
        resident = self._resident(mover)
        await mover.copy(resident, copying.rest([resident]))
        self._got_further(mover)

    def _resident(self, mover: Mover, *, with_step: bool = False) -> Resident:
        try:
            return mover.resident(self._ring.present(self.request), with_step=with_step)
        except Outgrown as outgrown:
            raise NoRoom(str(outgrown)) from None

    async def _wait_for_news(self) -> None:
        self._news.clear()
        await self._news.wait()

    def _got_further(self, mover: Mover) -> None:
        """Whoever waits for it waits from now on."""
        now = self._ring.context.loop_time()
        if self._until is not None and not self._until.expired() and not self._is_closing:
            self._until.reschedule(now + STALL_S)
        if now - self._extended_at > STALL_S / 2:
            self._extended_at = now
            mover.extend(LEASE_S)

    # --- its turn

    @asynccontextmanager
    async def _turn(self, turns: Turns, *, is_urgent: bool) -> AsyncIterator[None]:
        """Our turn to copy to a taker; if it is long in coming the request is served meanwhile."""
        losing_patience = asyncio.get_running_loop().call_later(PATIENCE_S, self._queue)
        try:
            async with turns.taken(is_urgent=is_urgent):
                losing_patience.cancel()
                if self._is_queued:
                    self._end_queueing()
                yield
        finally:
            losing_patience.cancel()

    def _queue(self) -> None:
        self._is_queued = True
        if self.tend():
            self._ring.pump()

    def _end_queueing(self) -> None:
        """What it got meanwhile is copied while it runs on, so that it is parked the shorter."""
        self._is_queued = False
        self._may_park = not self.has_first_token(self._ring.present(self.request))
        self.tend()

    # --- how far it is

    def _has_or_gets_first_token(self, sequence: TokenSequence) -> bool:
        """Whether its first token is there, or comes with the step under way."""
        if self.has_first_token(sequence):
            return True
        return sequence.in_flight and sequence.num_in_flight == sequence.num_remaining

    def _is_at_rest(self, sequence: TokenSequence) -> bool:
        """Whether its first token is there and no step has it any more."""
        return self._is_parked and self.has_first_token(sequence) and not sequence.in_flight


def _how_far(sequence: TokenSequence) -> tuple[int, ...]:
    return (
        sequence.num_computed,
        sequence.num_in_flight,
        sequence.num_tokens,
        sequence.residency,
    )
