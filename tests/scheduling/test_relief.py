"""Who leaves a pipeline that is short of blocks, and which other one takes it."""

import pytest

from scheduling.placement import PHASES, Phase
from scheduling.relief import Room, choose_taker, may_relieve
from tests.scheduling.batching import add_all, give, give_names, make_batcher, make_sequence, take


def test_nobody_goes_while_everybody_could_have_one_more_block() -> None:
    batcher = make_batcher(num_blocks=4, block_tokens=4, num_stages=1)
    add_all(batcher, [make_sequence("old"), make_sequence("young")])
    give(batcher, take(batcher))
    assert batcher.surplus() is None


def test_the_youngest_goes_before_the_blocks_run_out() -> None:
    batcher = make_batcher(num_blocks=4, block_tokens=4, num_stages=1)
    add_all(batcher, [make_sequence(name) for name in ("old", "middle", "young")])
    give(batcher, take(batcher))
    assert batcher.statistics().num_preemptions == 0
    assert (found := batcher.surplus()) is not None
    assert found.request_id == "young"


def test_the_first_that_waits_for_blocks_goes_before_those_that_run() -> None:
    batcher = make_batcher(num_blocks=3, block_tokens=4, num_stages=1)
    add_all(batcher, [make_sequence(name) for name in ("old", "middle", "young", "last")])
    give_names(batcher)
    assert (found := batcher.surplus()) is not None
    assert found.request_id == "last"


def test_whoever_waits_for_a_place_and_not_for_blocks_stays() -> None:
    batcher = make_batcher(num_blocks=40, block_tokens=4, num_stages=1, max_running=2)
    add_all(batcher, [make_sequence(name) for name in ("old", "middle", "young")])
    give_names(batcher)
    assert batcher.surplus() is None


def test_the_only_one_stays_and_so_does_one_that_grows_no_more() -> None:
    alone = make_batcher(num_blocks=1, block_tokens=4, num_stages=1)
    alone.add(make_sequence("alone"))
    give_names(alone)
    assert alone.surplus() is None
    ending = make_batcher(num_blocks=2, block_tokens=4, num_stages=1)
    add_all(ending, [make_sequence("old"), make_sequence("young", max_tokens=1)])
    take(ending)
    assert ending.surplus() is None


def test_one_that_is_about_to_move_is_not_named_again() -> None:
    batcher = make_batcher(num_blocks=3, block_tokens=4, num_stages=1)
    add_all(batcher, [make_sequence(name) for name in ("old", "middle", "young")])
    give(batcher, take(batcher))
    batcher.park("young")
    assert (found := batcher.surplus()) is not None
    assert found.request_id == "middle"


def room(name: str, free: int, running: int = 0, waiting: int = 0) -> Room:
    return Room(pipeline=name, num_free_blocks=free, num_running=running, num_waiting=waiting)


@pytest.mark.parametrize(
    ("rooms", "taker"),
    [
        ([], None),
        ([room("a", 7)], "a"),
        ([room("a", 6)], None),
        ([room("a", 9, running=1)], "a"),
        ([room("a", 8, running=1)], None),
        ([room("a", 100, waiting=1)], None),
        ([room("a", 20), room("b", 30)], "b"),
        ([room("b", 20), room("a", 20)], "a"),
    ],
)
def test_the_taker_has_the_most_left_and_is_not_short_afterwards(
    rooms: list[Room], taker: str | None
) -> None:
    assert choose_taker(rooms, num_blocks=5) == taker


@pytest.mark.parametrize(
    ("giver", "takers"),
    [
        ("both", {"both", "prefill"}),
        ("prefill", {"both", "prefill"}),
        ("decode", {"both", "decode"}),
    ],
)
def test_a_decode_pipeline_relieves_none_that_serves_prompts(
    giver: Phase, takers: set[Phase]
) -> None:
    assert {taker for taker in PHASES if may_relieve(giver, taker)} == takers
