"""Words in which the tests of the batcher speak."""

from collections.abc import Iterable

from scheduling.batcher import Batcher, BatcherSettings, Output, Step
from scheduling.blocks import BlockPool
from scheduling.sequence import Sequence

TOKEN = 7
STOP = 9


def make_batcher(
    *,
    num_blocks: int = 1000,
    block_tokens: int = 4,
    prefix_sharing: bool = False,
    **changes: int,
) -> Batcher:
    values = {
        "max_running": 64,
        "max_waiting": 64,
        "max_step_tokens": 512,
        "max_in_flight": 3,
        "num_stages": 2,
        "max_model_tokens": 2048,
    }
    settings = BatcherSettings(prefix_sharing=prefix_sharing, **(values | changes))
    return Batcher(settings, BlockPool(num_blocks, block_tokens))


def make_sequence(
    name: str = "a", *, length: int = 4, max_tokens: int = 100, min_tokens: int = 0
) -> Sequence:
    return Sequence(
        request_id=name,
        token_ids=[1] * length,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        stop_token_ids=frozenset({STOP}),
    )


def take(batcher: Batcher) -> Step:
    step = batcher.next_step()
    assert step is not None
    return step


def give(batcher: Batcher, step: Step, token: int = TOKEN) -> list[Output]:
    return batcher.complete(step.number, [token] * len(step.slots))


def names(step: Step) -> list[str]:
    return [slot.sequence.request_id for slot in step.slots]


def spans(step: Step) -> list[tuple[int, int, bool]]:
    return [(slot.start, slot.length, slot.samples) for slot in step.slots]


def add_all(batcher: Batcher, sequences: Iterable[Sequence]) -> None:
    for sequence in sequences:
        batcher.add(sequence)


def give_names(batcher: Batcher) -> list[str]:
    step = take(batcher)
    give(batcher, step)
    return names(step)
