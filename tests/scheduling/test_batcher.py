import pytest

from scheduling.batcher import Output
from scheduling.errors import DuplicateRequest, Infeasible, InvalidStep, QueueFull
from scheduling.sequence import SamplingParameters, Sequence
from scheduling.step import NO_TOKEN
from scheduling.step_former import MAX_STEP_EXTRA_BYTES
from tests.scheduling.batching import (
    STOP,
    TOKEN,
    add_all,
    give,
    give_names,
    make_batcher,
    make_sequence,
    names,
    spans,
    take,
)


def test_a_stop_token_ends_the_request_and_is_not_delivered() -> None:
    batcher = make_batcher()
    batcher.add(make_sequence())
    assert give(batcher, take(batcher)) == [Output("a", 0, (TOKEN,), None)]
    assert give(batcher, take(batcher), STOP) == [Output("a", 1, (), "stop")]
    assert batcher.num_running == 0


def test_the_last_allowed_token_is_delivered_with_length() -> None:
    batcher = make_batcher()
    batcher.add(make_sequence(max_tokens=1))
    assert give(batcher, take(batcher)) == [Output("a", 0, (TOKEN,), "length")]
    assert batcher.next_step() is None


def test_a_stop_token_before_the_least_number_of_tokens_does_not_stop() -> None:
    batcher = make_batcher()
    batcher.add(make_sequence(min_tokens=1))
    assert give(batcher, take(batcher), STOP) == [Output("a", 0, (STOP,), None)]
    assert give(batcher, take(batcher), STOP) == [Output("a", 1, (), "stop")]


def test_a_request_continued_from_elsewhere_counts_positions_from_its_prompt() -> None:
    batcher = make_batcher()
    sequence = Sequence(
        request_id="a", token_ids=[1, 2, 3, 4, 5], max_tokens=3, num_prompt_tokens=3
    )
    batcher.add(sequence)
    step = take(batcher)
    assert spans(step) == [(0, 5, True)]
    assert give(batcher, step) == [Output("a", 2, (TOKEN,), "length")]


def test_a_long_prompt_is_computed_in_chunks_and_only_the_last_one_samples() -> None:
    batcher = make_batcher(max_step_tokens=16)
    batcher.add(make_sequence(length=40))
    steps = []
    for _ in range(3):
        steps.append(take(batcher))
        give(batcher, steps[-1])
    assert [spans(step) for step in steps] == [[(0, 16, False)], [(16, 16, False)], [(32, 8, True)]]


def test_decoding_goes_before_prompts_within_one_budget() -> None:
    batcher = make_batcher(max_step_tokens=16, num_stages=1)
    batcher.add(make_sequence("old"))
    give(batcher, take(batcher))
    batcher.add(make_sequence("new", length=40))
    step = take(batcher)
    assert names(step) == ["old", "new"]
    assert spans(step) == [(4, 1, True), (0, 15, False)]


def test_prompts_begun_go_before_prompts_waiting() -> None:
    batcher = make_batcher(max_step_tokens=16, num_stages=1)
    batcher.add(make_sequence("long", length=24))
    give(batcher, take(batcher))
    batcher.add(make_sequence("short"))
    assert names(take(batcher)) == ["long", "short"]


def test_prompts_begun_go_on_in_order_of_arrival() -> None:
    batcher = make_batcher(max_step_tokens=16)
    add_all(batcher, [make_sequence("a", length=60), make_sequence("b", length=60)])
    for step in (take(batcher), take(batcher)):
        give(batcher, step)
    assert [give_names(batcher) for _ in range(3)] == [["a"], ["a"], ["a", "b"]]


def test_some_blocks_stay_free_for_those_that_run() -> None:
    batcher = make_batcher(num_blocks=128, block_tokens=4)
    batcher.add(make_sequence("all", length=507))
    assert names(take(batcher)) == ["all"], "alone it may have every block"
    for length, admitted in ((126 * 4, False), (125 * 4, True)):
        batcher = make_batcher(num_blocks=128, block_tokens=4)
        batcher.add(make_sequence("runs", length=4))
        take(batcher)
        batcher.add(make_sequence("new", length=length))
        assert (batcher.next_step() is not None) == admitted


def test_requests_are_admitted_in_order_even_if_a_later_one_would_fit() -> None:
    batcher = make_batcher(num_blocks=10)
    batcher.add(make_sequence("runs", length=20))
    give(batcher, take(batcher))
    add_all(batcher, [make_sequence("large", length=30), make_sequence("small", length=4)])
    assert names(take(batcher)) == ["runs"]
    assert batcher.num_waiting == 2


def test_no_more_run_than_may() -> None:
    batcher = make_batcher(max_running=2)
    add_all(batcher, (make_sequence(str(n)) for n in range(5)))
    assert names(take(batcher)) == ["0", "1"]
    assert batcher.num_waiting == 3


def test_a_sequence_that_fills_every_block_ends_with_length() -> None:
    batcher = make_batcher(num_blocks=2, block_tokens=4)
    batcher.add(make_sequence(length=6))
    outputs = [give(batcher, take(batcher))[0] for _ in range(3)]
    assert [output.finish_reason for output in outputs] == [None, None, "length"]
    assert batcher.statistics().num_free_blocks == 2


def test_a_sequence_ends_with_length_at_the_end_of_the_context() -> None:
    batcher = make_batcher(max_model_tokens=6)
    batcher.add(make_sequence(length=4))
    assert give(batcher, take(batcher))[0].finish_reason is None
    assert give(batcher, take(batcher))[0].finish_reason == "length"


def test_cancelling_frees_the_blocks_at_once_if_no_step_is_in_flight() -> None:
    batcher = make_batcher()
    batcher.add(make_sequence())
    give(batcher, take(batcher))
    assert batcher.cancel("a")
    assert batcher.statistics().num_free_blocks == 1000


def test_cancelling_in_flight_frees_the_blocks_when_the_step_is_back() -> None:
    batcher = make_batcher()
    batcher.add(make_sequence())
    step = take(batcher)
    assert batcher.cancel("a")
    assert not batcher.cancel("a")
    assert batcher.statistics().num_free_blocks == 999
    assert give(batcher, step) == []
    assert batcher.statistics().num_free_blocks == 1000


def test_cancelling_an_unknown_request_says_so() -> None:
    assert not make_batcher().cancel("a")


def test_abandoned_steps_are_computed_again_and_their_results_are_nobodys() -> None:
    batcher = make_batcher()
    add_all(batcher, [make_sequence("a"), make_sequence("b")])
    give(batcher, take(batcher))
    step = take(batcher)
    batcher.cancel("b")
    batcher.abandon_steps()
    batcher.check_integrity()
    assert batcher.num_in_flight_steps == 0
    with pytest.raises(InvalidStep, match="step 1 is not in flight"):
        give(batcher, step)
    assert spans(take(batcher)) == [(4, 1, True)]
    assert [sequence.request_id for sequence in batcher.sequences] == ["a"]


def test_a_request_id_that_is_here_is_refused() -> None:
    batcher = make_batcher()
    batcher.add(make_sequence())
    with pytest.raises(DuplicateRequest, match="request a"):
        batcher.add(make_sequence())


def test_a_full_queue_refuses_more() -> None:
    batcher = make_batcher(max_running=1, max_waiting=1)
    add_all(batcher, [make_sequence("a"), make_sequence("b")])
    with pytest.raises(QueueFull, match="2 requests wait and 0 run"):
        batcher.add(make_sequence("c"))


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        (make_sequence(length=9), r"9 tokens leave no room .* context \(2048\) .* cache \(8\)"),
        (make_sequence(length=0), "nothing to generate: 0 tokens"),
        (make_sequence(max_tokens=0), "0 of at most 0"),
    ],
)
def test_what_can_never_be_served_is_refused_with_numbers(sequence: Sequence, message: str) -> None:
    with pytest.raises(Infeasible, match=message):
        make_batcher(num_blocks=2, block_tokens=4).add(sequence)


def test_the_last_token_that_is_drawn_needs_no_room() -> None:
    batcher = make_batcher(num_blocks=2, block_tokens=4)
    batcher.add(make_sequence(length=8))
    assert give(batcher, take(batcher)) == [Output("a", 0, (TOKEN,), "length")]
    batcher.check_integrity()


def test_a_sequence_continued_from_elsewhere_counts_what_it_brings_as_generated() -> None:
    batcher = make_batcher()
    sequence = make_sequence(length=7, max_tokens=4)
    sequence.num_prompt_tokens = 5
    batcher.add(sequence)
    assert give(batcher, take(batcher)) == [Output("a", 2, (TOKEN,), None)]
    assert give(batcher, take(batcher)) == [Output("a", 3, (TOKEN,), "length")]


def test_a_result_with_a_token_missing_is_refused_and_the_step_stays_in_flight() -> None:
    batcher = make_batcher()
    batcher.add(make_sequence())
    step = take(batcher)
    with pytest.raises(InvalidStep, match="expected 1 tokens, got 2"):
        batcher.complete(step.number, [1, 2])
    with pytest.raises(InvalidStep, match="no token for request a"):
        batcher.complete(step.number, [-1])
    assert batcher.num_in_flight_steps == 1


def test_settings_out_of_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="max_step_tokens: expected 1 or more, got 0"):
        make_batcher(max_step_tokens=0)


def test_statistics_count_the_prompt_tokens_not_yet_sent() -> None:
    batcher = make_batcher(max_step_tokens=16, max_running=1)
    add_all(batcher, [make_sequence("a", length=40), make_sequence("b", length=5)])
    take(batcher)
    assert batcher.statistics().num_queued_tokens == 24 + 5


def test_a_sequence_that_no_token_may_follow_has_failed_and_holds_nothing() -> None:
    batcher = make_batcher()
    batcher.add(make_sequence())
    give(batcher, take(batcher))
    assert give(batcher, take(batcher), NO_TOKEN) == [Output("a", 1, (), "failed")]
    assert (batcher.num_running, batcher.next_step()) == (0, None)
    batcher.check_integrity()


def test_details_are_handed_on_with_a_token_and_with_a_part_of_a_prompt() -> None:
    batcher = make_batcher(max_step_tokens=16)
    batcher.add(make_sequence(length=20))
    first = take(batcher)
    assert batcher.complete(first.number, [-1], {0: b"some"}) == [Output("a", 0, (), None, b"some")]
    last = take(batcher)
    assert batcher.complete(last.number, [TOKEN], {0: b"more"}) == [
        Output("a", 0, (TOKEN,), None, b"more")
    ]


def test_a_step_carries_only_so_much_beside_its_tokens() -> None:
    batcher = make_batcher(num_blocks=64, max_running=32, max_step_tokens=256)
    heavy = SamplingParameters(extras=b"x" * (MAX_STEP_EXTRA_BYTES // 2))
    for name in "abcd":
        sequence = Sequence(request_id=name, token_ids=[1, 2, 3], max_tokens=4, sampling=heavy)
        batcher.add(sequence)
    sizes, ended = [], 0
    while ended < 4:
        step = take(batcher)
        sizes.append(len(step.slots))
        outputs = batcher.complete(step.number, [TOKEN] * len(step.slots))
        ended += sum(output.finish_reason is not None for output in outputs)
    assert max(sizes) == 2
