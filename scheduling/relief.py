"""When a pipeline is short of KV blocks, who should leave it, and for where. Pure.

The one idea: a request that moves takes its entries along, one that is preempted loses them. So
requests move as soon as the blocks may not last, and only to where they will, so that none comes
back. It never knows how a request is moved.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scheduling.placement import Phase
from scheduling.residents import Residents
from scheduling.sequence import Sequence as TokenSequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a pipeline has, and who may need it.

    Attributes:
        pipeline: its id.
        num_free_blocks: KV blocks that nobody holds.
        num_running: sequences that hold blocks and may need one more at any step.
        num_waiting: sequences that hold none yet.
    """

    pipeline: str
    num_free_blocks: int
    num_running: int
    num_waiting: int


def surplus(residents: Residents) -> TokenSequence | None:
    """Who should go elsewhere because blocks are short; None if they are not.

    The first that waits for blocks, as there is nothing of it to be copied; or, when not everybody
    who runs could have one more, the youngest of these, as it would be the first to lose its own.
    Somebody always stays, and so does who is about to end.
    """
    if not residents.running:
        return None
    if residents.is_starving:
        return residents.waiting[0]
    if residents.pool.num_free >= len(residents.running):
        return None
    eldest = min(sequence.arrival for sequence in residents.running.values())
    lasting = (
        sequence
        for sequence in residents.running.values()
        if sequence.arrival > eldest
        and not (sequence.parked or sequence.cancelled)
        and residents.may_outgrow(sequence)
    )
    return max(lasting, key=lambda sequence: sequence.arrival, default=None)


def may_relieve(giver: Phase, taker: Phase) -> bool:
    """Whether a pipeline of one phase may take requests of another that is short of blocks.

    Who goes may have to be computed from its beginning, so that decode pipelines take nothing of
    those that serve prompts; these hand off to them anyway.
    """
    return taker == "both" or (taker == "decode") == (giver == "decode")


def choose_taker(rooms: Sequence[Room], *, num_blocks: int) -> str | None:
    """The pipeline with the most room left after it took so many blocks; None if all were short.

    Ties go to the lesser id.
    """

    def left(room: Room) -> int:
        return room.num_free_blocks - num_blocks - 2 * (room.num_running + 1)

    able = [room for room in rooms if not room.num_waiting and left(room) >= 0]
    return min(able, key=lambda room: (-left(room), room.pipeline)).pipeline if able else None
