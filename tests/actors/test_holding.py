"""What a worker holds for which epoch, and when it lets go of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from actors.holding import Holding, LoadedShard, is_same_shard, log_for, shares_kv, stage_ready
from actors.messages import AssignStage
from actors.step_batch import forward_batch
from models.emulated import WORD_BYTES, EmulatedShard
from models.interface import ForwardResult
from models.replay_log import ReplayLog
from scheduling.sequence import Sequence
from scheduling.step import Slot
from tests.actors.emulated_pipeline import NUM_LAYERS, VOCAB, assignment
from tests.actors.members import ref

NEXT, HOME = ref("next"), ref("home")


def wanted(layers: tuple[int, int] = (0, 3), epoch: int = 1, **other: Any) -> AssignStage:
    usual = assignment(0, layers, NEXT, HOME, epoch)
    return msgspec.structs.replace(usual, **other)


def loaded(asked: AssignStage, held: LoadedShard | None = None) -> LoadedShard:
    shard = EmulatedShard(
        asked.start,
        asked.end,
        NUM_LAYERS,
        num_blocks=asked.num_blocks,
        block_tokens=asked.block_tokens,
        vocab_size=VOCAB,
    )
    log = log_for(asked, NUM_LAYERS, WORD_BYTES, held)
    return LoadedShard(shard, log, 100, shard.kv_bytes, 1000)


def holding_of(*epochs: int) -> Holding:
    holding = Holding()
    for epoch in epochs:
        asked = wanted(epoch=epoch)
        holding.put(asked, loaded(asked))
    return holding


def epochs_of(holding: Holding) -> list[int]:
    return sorted(held.assignment.epoch for held in holding)


# --- epochs


def test_nothing_is_held_before_anything_was_assigned() -> None:
    holding = Holding()
    assert holding.newest is None
    assert holding.use(1) is None
    assert not holding.settle("p0", 1, 1)


def test_the_next_epoch_is_held_beside_the_one_that_serves() -> None:
    holding = holding_of(1, 2)
    assert epochs_of(holding) == [1, 2]
    assert holding.newest is holding.get(2)
    assert [holding.use(epoch) is holding.get(epoch) for epoch in (1, 2)] == [True, True]


def test_a_step_of_the_next_epoch_fences_off_the_one_before() -> None:
    holding = holding_of(1, 2)
    assert holding.use(1) is not None
    assert holding.use(2) is not None
    assert holding.use(1) is None
    assert holding.get(1) is not None  # its blocks may still be read


def test_an_epoch_that_was_never_prepared_fences_nothing_off() -> None:
    holding = holding_of(1)
    assert holding.use(5) is None
    assert holding.use(1) is not None


def test_a_fence_stays_where_it_is_though_an_older_one_comes_after_it() -> None:
    holding = holding_of(1, 2)
    holding.fence(2)
    holding.fence(1)
    assert holding.use(1) is None
    assert holding.use(2) is not None


def test_settling_keeps_the_epoch_and_what_is_prepared_for_a_later_one() -> None:
    holding = holding_of(1, 2, 3)
    assert holding.settle("p0", epoch=2, upto=2)
    assert epochs_of(holding) == [2, 3]
    assert not holding.settle("p0", epoch=2, upto=2)


def test_a_change_given_up_lets_go_of_what_was_prepared_for_it() -> None:
    holding = holding_of(1, 2)
    assert holding.settle("p0", epoch=1, upto=2)
    assert epochs_of(holding) == [1]


def test_settling_another_pipeline_lets_go_of_nothing() -> None:
    holding = holding_of(1, 2)
    assert not holding.settle("p1", epoch=2, upto=2)
    assert epochs_of(holding) == [1, 2]


def test_an_assignment_of_another_pipeline_takes_the_place_of_all() -> None:
    holding = holding_of(1, 2)
    asked = wanted(epoch=3, pipeline="p1")
    holding.put(asked, loaded(asked))
    assert epochs_of(holding) == [3]


@pytest.mark.parametrize(
    ("how", "is_kept"), [("unused", False), ("by a step", True), ("by its pipeline", True)]
)
def test_a_lease_ends_what_was_prepared_and_never_used(how: str, is_kept: bool) -> None:
    holding = holding_of(1, 2)
    if how == "by a step":
        holding.use(2)
    elif how == "by its pipeline":
        holding.settle("p0", epoch=2, upto=2)
    assert holding.drop_unconfirmed(2) == (not is_kept)
    assert (holding.get(2) is not None) == is_kept
    assert not holding.drop_unconfirmed(9)


class HoldingMachine(RuleBasedStateMachine):
    """A worker beside the pipeline that uses it: what that may still need is never let go of."""

    @initialize()
    def begin(self) -> None:
        self.holding = holding_of(1)
        self.serving = 1
        self.newest = 1
        self.prepared: set[int] = set()
        self.holding.settle("p0", 1, 1)

    @rule()
    def a_change_is_prepared(self) -> None:
        self.newest += 1
        self.prepared.add(self.newest)
        asked = wanted(epoch=self.newest)
        self.holding.put(asked, loaded(asked))

    @rule(data=st.data())
    def a_change_is_committed(self, data: st.DataObject) -> None:
        if self.prepared:
            self.serving = data.draw(st.sampled_from(sorted(self.prepared)))
            self.prepared = {epoch for epoch in self.prepared if epoch > self.serving}
            self.holding.fence(self.serving)
            self.holding.settle("p0", self.serving, self.serving)

    @rule()
    def a_change_is_given_up(self) -> None:
        """Of all that were prepared: whoever gives one up knows of no later one."""
        self.holding.settle("p0", self.serving, self.newest)
        self.prepared.clear()

    @rule(data=st.data())
    def a_lease_ends(self, data: st.DataObject) -> None:
        epoch = data.draw(st.integers(1, self.newest))
        assert self.holding.drop_unconfirmed(epoch) == (epoch in self.prepared)
        self.prepared.discard(epoch)

    @rule(epoch=st.integers(1, 4))
    def a_step_of_an_old_epoch_comes_late(self, epoch: int) -> None:
        if epoch < self.serving:
            assert self.holding.use(epoch) is None

    @invariant()
    def it_holds_what_serves_and_what_is_prepared_and_nothing_else(self) -> None:
        assert epochs_of(self.holding) == sorted({self.serving, *self.prepared})
        assert self.holding.use(self.serving) is not None


TestHoldingMachine = HoldingMachine.TestCase
TestHoldingMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


# --- what two assignments share


def test_an_epoch_alone_makes_no_other_shard() -> None:
    assert is_same_shard(wanted(epoch=1), wanted(epoch=2))
    assert is_same_shard(wanted(), wanted(stage=5, successor=HOME, log_bytes=0))
    assert not is_same_shard(wanted((0, 3)), wanted((0, 4)))


@pytest.mark.parametrize(
    "other",
    [
        {"pipeline": "p1"},
        {"model": "another"},
        {"model_hash": "1"},
        {"dtype": "float16"},
        {"wire_dtype": "float16"},
        {"num_blocks": 17},
        {"block_tokens": 8},
    ],
    ids=lambda other: next(iter(other)),
)
def test_layers_are_shared_only_where_all_that_shapes_them_is_equal(
    other: dict[str, Any],
) -> None:
    assert shares_kv(wanted((0, 3)), wanted((2, 5)))
    assert not shares_kv(wanted((0, 3)), wanted((2, 5), **other))
    assert not is_same_shard(wanted(), wanted(**other))


@pytest.mark.parametrize(
    ("layers", "kept"), [((0, 6), (0, 3)), ((2, 5), (2, 3)), ((0, 3), (0, 3)), ((3, 5), (0, 0))]
)
def test_a_ready_stage_says_which_layers_it_kept(
    layers: tuple[int, int], kept: tuple[int, int]
) -> None:
    before, asked = holding_of(1).get(1), wanted(layers, epoch=2)
    ready = stage_ready(asked, loaded(asked), before)
    assert (ready.kept_start, ready.kept_end) == kept
    assert (ready.epoch, ready.pipeline, ready.stage) == (2, "p0", 0)


def test_a_ready_stage_that_held_nothing_alike_kept_nothing() -> None:
    before, asked = holding_of(1).get(1), wanted(epoch=2, num_blocks=17)
    for held in (before, None):
        ready = stage_ready(asked, loaded(asked), held)
        assert (ready.kept_start, ready.kept_end, ready.keeps_log) == (0, 0, False)


# --- the log


def test_a_log_goes_on_where_the_layers_still_end_and_its_stage_says_so() -> None:
    before = holding_of(1).get(1)
    assert before is not None
    for layers, keeps in (((1, 3), True), ((0, 4), False)):
        asked = wanted(layers, epoch=2)
        after = loaded(asked, before.loaded)
        assert (after.log is before.loaded.log) == keeps
        ready = stage_ready(asked, after, before)
        assert (ready.keeps_log, ready.num_logged_blocks) == (keeps, 16)


def test_a_log_of_another_number_of_blocks_begins_anew() -> None:
    before = holding_of(1).get(1)
    assert before is not None
    asked = wanted(epoch=2, num_blocks=20)
    assert loaded(asked, before.loaded).log is not before.loaded.log


def test_the_last_stage_and_one_that_is_given_no_room_keep_no_log() -> None:
    assert log_for(wanted((3, NUM_LAYERS)), NUM_LAYERS, WORD_BYTES, None) is None
    assert log_for(wanted(log_bytes=0), NUM_LAYERS, WORD_BYTES, None) is None
    asked = wanted(log_bytes=0)
    assert stage_ready(asked, loaded(asked), None).num_logged_blocks == 0


def test_a_log_has_as_many_blocks_as_its_room_allows() -> None:
    log = log_for(wanted(log_bytes=5 * 4 * WORD_BYTES + 1), NUM_LAYERS, WORD_BYTES, None)
    assert isinstance(log, ReplayLog)
    assert log.num_logged_blocks == 5


def test_a_slowed_shard_tells_what_kind_of_step_it_runs_and_gives_the_same() -> None:
    sequence = Sequence(request_id="r", token_ids=[1, 2, 3, 4, 5], max_tokens=5)
    sequence.block_table = [7, 2]
    batch = forward_batch([Slot(sequence, 0, 5, samples=False)])
    kinds = []

    def slowed(work: Callable[[], ForwardResult], kind: tuple[int, ...]) -> ForwardResult:
        kinds.append(kind)
        return work()

    stage = replace(loaded(wanted()), slowed=slowed)
    usual = loaded(wanted()).forward(batch, None)
    result = stage.forward(batch, None)
    assert result.hidden is not None
    assert usual.hidden is not None
    assert bytes(result.hidden) == bytes(usual.hidden)
    assert kinds == [(0, 3, 5, 1, 0)]


def test_what_a_shard_gives_out_is_remembered_at_its_blocks() -> None:
    sequence = Sequence(request_id="r", token_ids=[1, 2, 3, 4, 5], max_tokens=5)
    sequence.block_table = [7, 2]
    batch = forward_batch([Slot(sequence, 0, 5, samples=False)])
    stage = loaded(wanted())
    result = stage.forward(batch, None)
    assert stage.log is not None
    assert result.hidden is not None
    assert bytes(stage.log.read(batch)) == bytes(result.hidden)
    assert np.frombuffer(result.hidden, np.uint8).any()
