import pytest

from scheduling.batcher import Batcher, Step
from tests.scheduling.batching import (
    add_all,
    give,
    give_names,
    make_batcher,
    make_sequence,
    names,
    take,
)


def test_decoding_sequences_are_shared_out_evenly_over_the_stages() -> None:
    batcher = make_batcher()
    add_all(batcher, (make_sequence(str(n)) for n in range(5)))
    give(batcher, take(batcher))
    assert [len(take(batcher).slots), len(take(batcher).slots)] == [3, 2]
    assert batcher.next_step() is None


@pytest.mark.parametrize(("num_requests", "num_stages"), [(32, 2), (31, 2), (24, 4), (7, 3)])
def test_after_a_burst_the_decode_groups_are_even(num_requests: int, num_stages: int) -> None:
    batcher = make_batcher(num_stages=num_stages, max_in_flight=num_stages + 1, num_blocks=4000)
    add_all(batcher, (make_sequence(str(n), length=128) for n in range(num_requests)))
    sizes = decode_sizes(batcher, num_steps=60)
    groups = sizes[-num_stages:]
    assert sum(groups) == num_requests
    assert max(groups) == -(-num_requests // num_stages)


def decode_sizes(batcher: Batcher, num_steps: int) -> list[int]:
    """Run steps in order, as many in flight as may be, and give the number of slots of each."""
    in_flight: list[Step] = []
    sizes: list[int] = []
    for _ in range(num_steps):
        while (step := batcher.next_step()) is not None:
            in_flight.append(step)
            sizes.append(len(step.slots))
        give(batcher, in_flight.pop(0))
    return sizes


def test_cancelled_sequences_in_flight_have_no_part_in_the_balance() -> None:
    batcher = make_batcher()
    add_all(batcher, (make_sequence(str(n)) for n in range(4)))
    give(batcher, take(batcher))
    for name in names(take(batcher)):
        batcher.cancel(name)
    assert len(take(batcher).slots) == 1


def test_uneven_groups_even_out_when_requests_of_one_group_end() -> None:
    batcher = make_batcher()
    lengths = [3 if n < 12 else 100 for n in range(16)]
    add_all(batcher, (make_sequence(str(n), max_tokens=m) for n, m in enumerate(lengths)))
    assert sorted(decode_sizes(batcher, num_steps=20)[-2:]) == [2, 2]


def test_a_burst_of_prompts_is_spread_over_steps_so_that_later_stages_start_soon() -> None:
    batcher = make_batcher(max_step_tokens=4096, num_blocks=4000)
    add_all(batcher, (make_sequence(str(n), length=128) for n in range(64)))
    assert [take(batcher).num_tokens for _ in range(3)] == [512, 512, 512]
    assert batcher.next_step() is None


def test_a_single_stage_takes_a_burst_at_once() -> None:
    batcher = make_batcher(num_stages=1, max_step_tokens=4096, num_blocks=4000)
    add_all(batcher, (make_sequence(str(n), length=128) for n in range(32)))
    assert take(batcher).num_tokens == 4096


def test_only_prompts_go_beyond_one_step_a_stage() -> None:
    batcher = make_batcher()
    add_all(batcher, (make_sequence(str(n)) for n in range(9)))
    give(batcher, take(batcher))
    give(batcher, take(batcher))
    assert (len(take(batcher).slots), len(take(batcher).slots)) == (5, 4)
    assert batcher.next_step() is None
    batcher.add(make_sequence("new"))
    assert names(take(batcher)) == ["new"]
    batcher.add(make_sequence("newer"))
    assert batcher.next_step() is None


def test_sequences_over_the_token_budget_take_turns() -> None:
    batcher = make_batcher(num_stages=1, max_in_flight=2, max_step_tokens=4)
    add_all(batcher, (make_sequence(str(n), length=1) for n in range(6)))
    for step in (take(batcher), take(batcher)):
        give(batcher, step)
    turns = [name for _ in range(6) for name in give_names(batcher)]
    assert {name: turns.count(name) for name in turns} == dict.fromkeys("012345", 4)
