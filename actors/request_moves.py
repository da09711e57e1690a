"""Requests change hands: all of a pipeline's to another actor, or one to another pipeline.

The one idea: a request is its tokens, its sampling and its blocks, so whoever is given these goes
on where the giver stopped. The giver stops first and forgets last; in between both know the request
and none of them sends. Until the taker has said yes, the giver can go on itself.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from actors.kernel.actor import Context
from actors.kernel.errors import ActorError
from actors.kernel.ref import Ref
from actors.messages import (
    BlocksReserved,
    Generate,
    MoveOut,
    ReserveBlocks,
    SendBlocks,
    SequenceState,
    StageSpec,
    TakenOver,
    TakeOver,
)
from actors.migration import block_ids
from actors.stage_change import ChangeFailed, move_blocks, resident_of
from actors.step_ring import StepRing
from actors.swap import Copying, Resident
from scheduling.sequence import SamplingParameters
from scheduling.sequence import Sequence as TokenSequence
from transport.codec import Message
from transport.errors import TransportError

LEASE_GRACE_S = 5.0
SLACK_BLOCKS = 8
"""By how much a request may grow while it is moved."""


class Giver(Protocol):
    """Who has the requests, and knows who reads them."""

    def router_of(self, request: str) -> Ref:
        """Who reads it."""
        ...

    def give_away(self, requests: Sequence[str], to: Ref) -> None:
        """These are somebody else's now."""
        ...


async def hand_over(giver: Giver, ring: StepRing, to: Ref, timeout_s: float) -> int:
    """Give everything to another actor over the same stages; how many requests that were.

    Raises:
        ChangeFailed: it did not take them; they are still here.
    """
    with ring.paused():
        await ring.drained()
        states = [_state(giver, s, s.block_table, s.num_computed) for s in ring.sequences]
        await _give(ring.context, to, states, timeout_s)
        giver.give_away([state.generate.request for state in states], to)
    return len(states)


async def move_out(giver: Giver, ring: StepRing, wanted: MoveOut) -> None:
    """Give one request to another pipeline, its full blocks while it still runs here.

    Raises:
        ChangeFailed: it ended, or could not be moved and still runs here.
    """
    request = wanted.request
    sequence = ring.batcher.sequence(request)
    if sequence is None:
        raise ChangeFailed(f"request {request} is not here any more")
    mover = _Mover(ring, wanted)
    await mover.reserve(sequence)
    copying = await mover.copy_live(sequence)
    with ring.parked(request):
        sequence = await ring.idle(request)
        await mover.copy_rest(copying, sequence)
        sequence = await ring.idle(request)  # its reader may have gone meanwhile
        num_computed = sequence.num_computed if mover.table else 0
        state = _state(giver, sequence, mover.table, num_computed)
        await _give(ring.context, wanted.to, [state], wanted.deadline_s)
        giver.give_away([request], wanted.to)


def num_blocks_to_move(sequence: TokenSequence, block_tokens: int) -> int:
    """Blocks that a taker needs for a request: it grows while it is moved."""
    most = sequence.num_prompt_tokens + sequence.max_tokens
    return -(-min(most, sequence.num_tokens + SLACK_BLOCKS * block_tokens) // block_tokens)


class _Mover:
    """One request on its way: the blocks that the taker keeps for it, and how they are filled."""

    def __init__(self, ring: StepRing, wanted: MoveOut) -> None:
        self._ring, self._wanted = ring, wanted
        self.table: list[int] = []
        self._epoch = 0
        self._stages: tuple[StageSpec, ...] = ()

    async def reserve(self, sequence: TokenSequence) -> None:
        """Have the taker keep blocks for what the request has, and for what comes meanwhile.

        One that waits has none to be moved, and is computed there.
        """
        if not sequence.block_table:
            return
        wanted = self._wanted
        num_blocks = num_blocks_to_move(sequence, self._ring.block_tokens)
        wish = ReserveBlocks(
            request=wanted.request,
            num_blocks=num_blocks,
            lease_s=wanted.deadline_s + LEASE_GRACE_S,
        )
        answer = await _asked(self._ring.context, wanted.to, wish, wanted.deadline_s)
        if not isinstance(answer, BlocksReserved) or not answer.blocks:
            raise ChangeFailed(f"there are no {num_blocks} free KV blocks")
        self.table = block_ids(answer.blocks).tolist()
        self._epoch, self._stages = answer.epoch, answer.stages

    async def copy_live(self, sequence: TokenSequence) -> Copying:
        """Copy full blocks in rounds while the request runs."""
        copying = Copying({})
        while True:
            resident = self._resident(sequence)
            blocks = copying.next_round([resident])
            if not blocks:
                return copying
            await self._copy(resident, blocks)
            copying = copying.after([resident], len(blocks))

    async def copy_rest(self, copying: Copying, sequence: TokenSequence) -> None:
        """Copy what is left, now that nothing is added any more."""
        resident = self._resident(sequence)
        await self._copy(resident, copying.rest([resident]))

    def _resident(self, sequence: TokenSequence) -> Resident:
        resident = resident_of(sequence, self._ring.block_tokens)
        if len(resident.blocks) > len(self.table):
            raise ChangeFailed(f"the request outgrew the {len(self.table)} blocks kept for it")
        return resident

    async def _copy(self, resident: Resident, blocks: Sequence[int]) -> None:
        if not blocks:
            return
        places = {block: place for place, block in enumerate(resident.blocks)}
        targets = [self.table[places[block]] for block in blocks]
        epoch = self._ring.epoch
        for source in self._ring.stages:
            for target in self._stages:
                start, end = max(source.start, target.start), min(source.end, target.end)
                if start >= end:
                    continue
                message = SendBlocks(
                    epoch=epoch,
                    start=start,
                    end=end,
                    blocks=np.asarray(blocks, "<i4").tobytes(),
                    target=target.ref,
                    target_epoch=self._epoch,
                    target_blocks=np.asarray(targets, "<i4").tobytes(),
                    deadline_s=self._wanted.deadline_s,
                )
                await move_blocks(self._ring.context, source.ref, message)


async def _give(
    context: Context, to: Ref, states: Sequence[SequenceState], timeout_s: float
) -> None:
    answer = await _asked(context, to, TakeOver(sequences=tuple(states)), timeout_s)
    if not isinstance(answer, TakenOver) or answer.failure is not None:
        raise ChangeFailed(getattr(answer, "failure", None) or "its answer was another")


async def _asked(context: Context, to: Ref, message: Message, timeout_s: float) -> Message:
    try:
        return await context.ask(to, message, timeout_s=timeout_s)
    except (ActorError, TransportError) as error:
        raise ChangeFailed(f"{to} did not answer: {error}") from None


# --- a sequence as it travels


def _state(
    giver: Giver, sequence: TokenSequence, table: Sequence[int], num_computed: int
) -> SequenceState:
    return SequenceState(
        generate=generate_of(sequence),
        router=giver.router_of(sequence.request_id),
        num_computed=num_computed,
        blocks=np.asarray(table, "<i4").tobytes(),
    )


def generate_of(sequence: TokenSequence) -> Generate:
    """The request that a sequence is, with what was generated so far."""
    sampling = sequence.sampling
    return Generate(
        request=sequence.request_id,
        token_ids=tuple(sequence.token_ids),
        num_prompt_tokens=sequence.num_prompt_tokens,
        max_tokens=sequence.max_tokens,
        min_tokens=sequence.min_tokens,
        stop_token_ids=tuple(sorted(sequence.stop_token_ids)),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        seed=sampling.seed,
        extras=sampling.extras,
    )


def sequence_of(message: Generate) -> TokenSequence:
    """The sequence that a request is."""
    return TokenSequence(
        request_id=message.request,
        token_ids=list(message.token_ids),
        num_prompt_tokens=message.num_prompt_tokens,
        max_tokens=message.max_tokens,
        min_tokens=message.min_tokens,
        stop_token_ids=frozenset(message.stop_token_ids),
        sampling=SamplingParameters(
            temperature=message.temperature,
            top_p=message.top_p,
            top_k=message.top_k,
            min_p=message.min_p,
            seed=message.seed,
            extras=message.extras,
        ),
    )
