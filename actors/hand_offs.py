"""All hand-offs of a pipeline: those that wait until their requests are served, and the others.

The one idea: the ring says when steps went or came, and all that a hand-off does follows from that.
What one request's is like stands in `hand_off`.
"""

import asyncio
import logging

import msgspec

from actors.hand_off import HandOff, NoRoom
from actors.kernel.ref import Ref
from actors.messages import Generate, HandOffCounts, Taker
from actors.request_moves import Giver
from actors.stage_change import ChangeFailed
from actors.step_ring import StepRing
from actors.turns import Turns

_log = logging.getLogger(__name__)

MAX_UNDER_WAY = 16
"""Hand-offs of one pipeline at a time; the others wait, and their requests are served meanwhile."""
MAX_LATE = 2
"""Of these, how many whose first token was there before: there is no haste, and few stand still."""
MAX_COPYING = 4
"""Of these, how many copy to one taker at a time: enough to fill a link, few enough to be soon."""


class HandOffs:
    """A pipeline's hand-offs; `look` is to be called at every turn of its ring."""

    def __init__(self, giver: Giver, ring: StepRing) -> None:
        self._giver, self._ring = giver, ring
        self._waiting: dict[str, HandOff] = {}
        self._under_way: dict[str, HandOff] = {}
        self._turns: dict[Ref, Turns] = {}
        self._is_closed = False
        self._ended = asyncio.Event()
        self.counts = HandOffCounts()

    def want(self, message: Generate) -> None:
        """Hand a request that was just taken off once it is served, if that is worth it.

        It is not where no token follows the first, nor for less than a block.
        """
        num_tokens = len(message.token_ids)
        num_left = message.max_tokens - num_tokens + (message.num_prompt_tokens or num_tokens)
        if message.hand_off and num_left > 1 and num_tokens >= self._ring.block_tokens:
            wanted = HandOff(self._ring, message.request, message.hand_off)
            self._waiting[message.request] = wanted

    def send_on(self, request: str, takers: tuple[Taker, ...]) -> None:
        """Hand a request off that was to end here, as when this pipeline got another phase."""
        sequence = self._ring.batcher.sequence(request)
        if sequence is None or request in self._waiting or request in self._under_way:
            return
        if sequence.num_generated < sequence.max_tokens - 1:
            self._waiting[request] = HandOff(self._ring, request, takers)

    def forget(self, request: str) -> None:
        """It ended, or its reader is gone; one that is under way finds that out by itself."""
        self._waiting.pop(request, None)

    def is_under_way(self, request: str) -> bool:
        """Whether some of it may be at another pipeline already."""
        return request in self._under_way

    def takers_of(self, request: str) -> tuple[Taker, ...]:
        """Where a request is still to go; nowhere once it goes."""
        found = self._waiting.get(request) or self._under_way.get(request)
        return () if found is None or found.is_giving else found.takers

    async def close(self) -> None:
        """Begin no more, and wait until none is under way; whoever waits has a deadline."""
        self._is_closed = True
        for found in self._under_way.values():
            found.close()
        while self._under_way:
            self._ended.clear()
            await self._ended.wait()

    def reopen(self) -> None:
        """Go on with hand-offs after all."""
        self._is_closed = False

    def look(self) -> None:
        """Begin what can begin, park who is about to have a first token, tell who got further."""
        if not self._waiting and not self._under_way:
            return
        if self._waiting and not self._is_closed:
            self._begin()
        has_freed = [found.tend() for found in tuple(self._under_way.values())]
        if any(has_freed):
            self._ring.pump()

    def _begin(self) -> None:
        now = self._ring.context.loop_time()
        for sequence in self._ring.running:
            if len(self._under_way) >= MAX_UNDER_WAY:
                return
            found = self._waiting.get(sequence.request_id)
            if found is None or found.not_before > now or sequence.cancelled:
                continue
            if not found.has_first_token(sequence) or self._num_late < MAX_LATE:
                del self._waiting[found.request]
                self._under_way[found.request] = found
                found.begin(sequence)
                self._ring.context.start_task(self._run(found))

    @property
    def _num_late(self) -> int:
        return sum(found.was_late for found in self._under_way.values())

    async def _run(self, found: HandOff) -> None:
        began = self._ring.context.loop_time()
        try:
            mover = await found.run(self._giver, self._turns_of)
            self._count(
                num_done=1,
                num_bytes=mover.num_bytes,
                num_saved_bytes=mover.num_saved_bytes,
                num_present_blocks=mover.num_present,
                num_present_bytes=mover.num_present_bytes,
                seconds=self._ring.context.loop_time() - began,
            )
        except NoRoom as error:
            self._stay(found)
            _log.debug("not handed off yet request=%s reason=%s", found.request, error)
        except (ChangeFailed, TimeoutError) as error:
            self._give_up(found, str(error) or "it got no further")
        finally:
            del self._under_way[found.request]
            found.free()
            if not self._under_way:  # others that are may hold them, though nobody's turn it is
                self._turns.clear()
            self._ended.set()
        self._ring.pump()

    def _turns_of(self, taker: Ref) -> Turns:
        return self._turns.setdefault(taker, Turns(MAX_COPYING))

    def _stay(self, found: HandOff) -> None:
        """It is served here, for now."""
        if self._ring.batcher.sequence(found.request) is None:
            return
        self._waiting[found.request] = found.again()
        if found.is_first_try:
            self._count(num_stayed=1)

    def _give_up(self, found: HandOff, reason: str) -> None:
        if self._ring.batcher.sequence(found.request) is None:
            return  # it ended, or its reader is gone: nothing is left to be handed off
        if self._is_closed:  # whoever gets all of our requests is to hand it off
            self._waiting[found.request] = found.again()
            return
        self._count(num_failed=1)
        _log.info("not handed off request=%s reason=%s", found.request, reason)

    def _count(self, *, seconds: float = 0.0, **more: int) -> None:
        before = self.counts
        counted = {name: getattr(before, name) + number for name, number in more.items()}
        total_s = before.seconds + seconds
        self.counts = msgspec.structs.replace(before, seconds=total_s, **counted)
