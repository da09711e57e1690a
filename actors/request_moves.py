"""Requests change hands: all of a pipeline's to another actor, or one to another pipeline.

The one idea: a request is its tokens, its sampling and its blocks, so whoever is given these goes
on where the giver stopped. The giver stops first and forgets last; in between both know the request
and none of them sends. Until the taker has said yes, the giver can go on itself.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np

from actors.kernel.ref import Ref
from actors.messages import Generate, MoveOut, SequenceState, Taker
from actors.mover import Mover, give
from actors.stage_change import ChangeFailed
from actors.step_ring import StepRing
from actors.swap import Copying
from models.sampling_extras import needs
from scheduling.sequence import SamplingParameters
from scheduling.sequence import Sequence as TokenSequence

LEASE_GRACE_S = 5.0
SLACK_BLOCKS = 8
"""By how much a request may grow while it is moved."""


class Giver(Protocol):
    """Who has the requests, and knows who reads them."""

    def router_of(self, request: str) -> Ref:
        """Who reads it."""
        ...

    def takers_of(self, request: str) -> tuple[Taker, ...]:
        """Where it is still to be handed off to."""
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
        states = [
            state_of(giver, s, s.block_table, s.num_computed, s.num_exact_blocks)
            for s in ring.sequences
        ]
        await give(ring.context, to, states, timeout_s)
        giver.give_away([state.generate.request for state in states], to)
    return len(states)


async def move_out(giver: Giver, ring: StepRing, wanted: MoveOut) -> None:
    """Give one request to another pipeline, its full blocks while it still runs here.

    Raises:
        ChangeFailed: it ended, or could not be moved and still runs here.
    """
    request = wanted.request
    mover = Mover(ring, request, wanted.to, wanted.deadline_s)
    try:
        await _move(giver, ring, wanted, mover)
    except (ChangeFailed, asyncio.CancelledError):
        mover.release()
        raise


async def _move(giver: Giver, ring: StepRing, wanted: MoveOut, mover: Mover) -> None:
    request = wanted.request
    sequence = ring.present(request)
    if sequence.block_table:  # one that waits has none to be moved, and is computed there
        num_blocks = num_blocks_to_move(sequence, ring.block_tokens)
        digests = ring.batcher.prefix_digests(sequence)
        await mover.reserve(num_blocks, wanted.deadline_s + LEASE_GRACE_S, digests=digests)
    copying = await _copy_live(mover, sequence)
    with ring.parked(request):
        sequence = await ring.idle(request)
        resident = mover.resident(sequence)
        await mover.copy(resident, copying.rest([resident]))
        sequence = await ring.idle(request)  # its reader may have gone meanwhile
        num_computed = sequence.num_computed if mover.table else 0
        num_exact = mover.num_exact_blocks(sequence)
        state = state_of(giver, sequence, mover.table, num_computed, num_exact)
        await give(ring.context, wanted.to, [state], wanted.deadline_s)
        giver.give_away([request], wanted.to)


async def _copy_live(mover: Mover, sequence: TokenSequence) -> Copying:
    """Copy full blocks in rounds while the request runs."""
    copying = Copying({})
    while True:
        resident = mover.resident(sequence)
        blocks = copying.next_round([resident])
        if not blocks:
            return copying
        await mover.copy(resident, blocks)
        copying = copying.after([resident], len(blocks))


def num_blocks_to_move(
    sequence: TokenSequence, block_tokens: int, slack: int = SLACK_BLOCKS
) -> int:
    """Blocks that a taker needs for a request: it grows while it is moved."""
    most = sequence.num_prompt_tokens + sequence.max_tokens
    return -(-min(most, sequence.num_tokens + slack * block_tokens) // block_tokens)


# --- a sequence as it travels


def state_of(
    giver: Giver,
    sequence: TokenSequence,
    table: Sequence[int],
    num_computed: int,
    num_exact_blocks: int | None,
) -> SequenceState:
    """All that a request is, with the taker's blocks and what is in them."""
    takers = giver.takers_of(sequence.request_id)
    return SequenceState(
        generate=msgspec.structs.replace(generate_of(sequence), hand_off=takers),
        router=giver.router_of(sequence.request_id),
        num_computed=num_computed,
        blocks=np.asarray(table, "<i4").tobytes(),
        num_exact_blocks=num_exact_blocks,
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
        computes_all=bool(message.extras) and needs(message.extras).prompt_logprobs,
    )
