"""What a change of stages takes: every layer comes from somewhere, every block after its change."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from actors.kernel.ref import Ref
from actors.messages import StageSpec
from actors.swap import FEW_BLOCKS, MAX_ROUNDS, Copying, LayerMove, Need, Rebuild, Resident, need
from scheduling.batcher import Batcher, Step
from tests.actors.members import ref
from tests.scheduling.batching import make_batcher, make_sequence

A, B, C, D = (ref(name) for name in "abcd")
Range = tuple[int, int]


def spec(
    worker: Ref, start: int, end: int, *, kept: Range = (0, 0), keeps_log: bool = False
) -> StageSpec:
    return StageSpec(
        ref=worker,
        start=start,
        end=end,
        kept_start=kept[0],
        kept_end=kept[1],
        num_logged_blocks=16,
        keeps_log=keeps_log,
    )


# --- which layers


OLD = (spec(A, 0, 2), spec(B, 2, 4), spec(C, 4, 6))


def test_stages_that_stay_as_they_are_need_nothing() -> None:
    new = [spec(s.ref, s.start, s.end, kept=(s.start, s.end)) for s in OLD]
    assert need(OLD, new, ()) == Need((), (), is_hopeless=False)


def test_layers_that_change_hands_move_and_the_others_stay() -> None:
    new = (spec(A, 0, 3, kept=(0, 2)), spec(B, 3, 4, kept=(3, 4)), spec(C, 4, 6, kept=(4, 6)))
    assert need(OLD, new, ()) == Need((LayerMove(2, 3, B, A),), (), is_hopeless=False)


def test_a_stage_that_takes_from_two_has_a_move_from_each() -> None:
    new = (spec(A, 0, 2, kept=(0, 2)), spec(D, 2, 6))
    moves = (LayerMove(2, 4, B, D), LayerMove(4, 6, C, D))
    assert need(OLD, new, ()) == Need(moves, (), is_hopeless=False)


def test_a_lost_first_stage_is_computed_again_from_the_tokens() -> None:
    new = (spec(D, 0, 2), spec(B, 2, 4, kept=(2, 4)), spec(C, 4, 6, kept=(4, 6)))
    assert need(OLD, new, [A]) == Need((), (Rebuild(0, 0),), is_hopeless=False)


def test_a_lost_stage_is_computed_again_from_the_log_of_the_one_before() -> None:
    new = (
        spec(A, 0, 2, kept=(0, 2), keeps_log=True),
        spec(D, 2, 4),
        spec(C, 4, 6, kept=(4, 6)),
    )
    assert need(OLD, new, [B]) == Need((), (Rebuild(1, 1),), is_hopeless=False)


def test_lost_neighbours_are_computed_again_together() -> None:
    new = (spec(A, 0, 2, kept=(0, 2), keeps_log=True), spec(D, 2, 4), spec(B, 4, 6))
    assert need(OLD, new, [B, C]) == Need((), (Rebuild(1, 2),), is_hopeless=False)


@pytest.mark.parametrize(
    ("before", "what"),
    [
        (spec(A, 0, 2, kept=(0, 2)), "it keeps no log"),
        (spec(D, 0, 2, keeps_log=True), "its log is not that of this place"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_without_a_log_before_the_lost_layers_all_is_computed_anew(
    before: StageSpec, what: str
) -> None:
    new = (before, spec(C, 2, 6, kept=(4, 6)))
    lost = [B, C]
    assert need(OLD, new, lost) == Need((), (), is_hopeless=True), what


def test_a_stage_of_which_only_some_layers_are_lost_is_hopeless() -> None:
    new = (spec(A, 0, 3, kept=(0, 2), keeps_log=True), spec(C, 3, 6, kept=(4, 6)))
    assert need(OLD, new, [B]).is_hopeless


def test_what_a_worker_kept_of_an_old_life_of_the_layers_does_not_count() -> None:
    """A held layers 2:4 for an attempt that was given up; B has served on with them since."""
    new = (spec(A, 0, 4, kept=(0, 4)), spec(C, 4, 6, kept=(4, 6)))
    assert need(OLD, new, ()) == Need((LayerMove(2, 4, B, A),), (), is_hopeless=False)


NUM_LAYERS = 8
WORKERS = tuple(ref(f"w{number}") for number in range(6))


@st.composite
def splits(draw: st.DrawFn) -> list[Range]:
    cuts = sorted(draw(st.sets(st.integers(1, NUM_LAYERS - 1), max_size=4)))
    bounds = [0, *cuts, NUM_LAYERS]
    return list(pairwise(bounds))


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[StageSpec, ...]:
    ranges = draw(splits())
    workers = draw(st.permutations(WORKERS))[: len(ranges)]
    return tuple(spec(w, *layers) for w, layers in zip(workers, ranges, strict=True))


@st.composite
def changes(draw: st.DrawFn) -> tuple[tuple[StageSpec, ...], tuple[StageSpec, ...], set[Ref]]:
    """Old stages, new ones with what living workers kept of the old, and who was lost."""
    old, new = draw(pipelines()), draw(pipelines())
    lost = draw(st.sets(st.sampled_from([stage.ref for stage in old])))
    held = {stage.ref: stage for stage in old if stage.ref not in lost}
    ready = [_ready(stage, held.get(stage.ref), draw(st.booleans())) for stage in new]
    return old, tuple(ready), lost


def _ready(wanted: StageSpec, held: StageSpec | None, logs: bool) -> StageSpec:
    if held is None:
        return wanted
    start, end = max(wanted.start, held.start), min(wanted.end, held.end)
    kept = (start, end) if start < end else (0, 0)
    keeps_log = logs and wanted.end == held.end < NUM_LAYERS
    return spec(wanted.ref, wanted.start, wanted.end, kept=kept, keeps_log=keeps_log)


def sources(layer: int, old: Sequence[StageSpec], stage: StageSpec, wanted: Need) -> list[str]:
    """All the ways in which a layer of a new stage comes to its KV, and whence."""
    owner = next(s.ref for s in old if s.start <= layer < s.end)
    found = ["kept"] if owner == stage.ref and stage.kept_start <= layer < stage.kept_end else []
    for move in wanted.moves:
        if move.start <= layer < move.end and move.target == stage.ref:
            assert move.source == owner
            found.append("moved")
    return found


@given(changes())
def test_every_layer_is_kept_or_moved_from_a_living_owner_or_computed_again(
    change: tuple[tuple[StageSpec, ...], tuple[StageSpec, ...], set[Ref]],
) -> None:
    old, new, lost = change
    wanted = need(old, new, lost)
    if wanted.is_hopeless:
        assert lost
        assert (wanted.moves, wanted.rebuilds) == ((), ())
        return
    assert lost.isdisjoint(move.source for move in wanted.moves)
    rebuilt = {i for r in wanted.rebuilds for i in range(r.first, r.last + 1)}
    for number, stage in enumerate(new):
        for layer in range(stage.start, stage.end):
            ways = sources(layer, old, stage, wanted)
            assert len(ways) == (number not in rebuilt), (layer, ways)


@given(changes())
def test_what_is_computed_again_begins_at_the_tokens_or_behind_a_log(
    change: tuple[tuple[StageSpec, ...], tuple[StageSpec, ...], set[Ref]],
) -> None:
    old, new, lost = change
    ends = {stage.ref: stage.end for stage in old if stage.ref not in lost}
    for rebuild in need(old, new, lost).rebuilds:
        before = new[rebuild.first - 1]
        is_logged = before.keeps_log and ends.get(before.ref) == before.end
        assert rebuild.first == 0 or is_logged
        assert rebuild.first <= rebuild.last < len(new)


@given(changes())
def test_only_a_loss_makes_anything_be_computed_again(
    change: tuple[tuple[StageSpec, ...], tuple[StageSpec, ...], set[Ref]],
) -> None:
    old, new, lost = change
    if not lost:
        wanted = need(old, new, ())
        assert (wanted.rebuilds, wanted.is_hopeless) == ((), False)


# --- which blocks


def resident(
    name: str, num_blocks: int, num_full: int, residency: int = 1, first: int = 0
) -> Resident:
    return Resident(name, residency, tuple(range(first, first + num_blocks)), num_full)


def test_rounds_end_though_blocks_never_stop_to_come() -> None:
    copying, num_rounds = Copying({}), 0
    while copying.next_round([resident("a", 100 * num_rounds + 100, 100 * num_rounds + 100)]):
        grown = resident("a", 100 * num_rounds + 100, 100 * num_rounds + 100)
        copying = copying.after([grown], 100)
        num_rounds += 1
    assert num_rounds == MAX_ROUNDS


def test_a_few_full_blocks_are_left_for_the_pause() -> None:
    few = [resident("a", FEW_BLOCKS, FEW_BLOCKS)]
    assert Copying({}).next_round(few) == ()
    assert Copying({}).rest(few) == tuple(range(FEW_BLOCKS))
    many = [resident("a", FEW_BLOCKS + 2, FEW_BLOCKS + 1)]
    assert Copying({}).next_round(many) == tuple(range(FEW_BLOCKS + 1))


def test_a_sequence_that_came_back_with_other_blocks_is_copied_from_its_beginning() -> None:
    copying = Copying({}).after([resident("a", 20, 20)], 20)
    assert copying.rest([resident("a", 20, 20)]) == ()
    assert copying.rest([resident("a", 20, 20, residency=2)]) == tuple(range(20))


def test_where_time_runs_out_those_in_front_have_all_they_need() -> None:
    residents = [
        resident("a", 20, 19),
        resident("b", 10, 9, first=20),
        resident("c", 4, 3, first=30),
    ]
    copying = Copying({}).after(residents, 24)
    assert len(copying.rest(residents)) == 1 + 5 + 4
    assert copying.left_behind(residents, 10) == frozenset()
    assert copying.left_behind(residents, 6) == {"c"}
    assert copying.left_behind(residents, 3) == {"b", "c"}
    assert copying.left_behind(residents, 0) == {"a", "b", "c"}


def test_a_block_that_two_sequences_hold_is_copied_once() -> None:
    a, b = Resident("a", 1, (7, 8, 1), 3), Resident("b", 1, (7, 8, 2), 3)
    assert Copying({}).full([a, b]) == (7, 8, 1, 2)
    copying = Copying({}).after([a, b], 4)
    assert copying.rest([a, b]) == ()
    late = Resident("c", 1, (7, 8, 3, 4), 3)
    assert copying.rest([b, late]) == (3, 4)
    assert copying.rest([late]) == (7, 8, 3, 4), "nobody who had them copied holds them any more"


def test_who_shares_what_was_not_copied_is_left_behind_with_its_owner() -> None:
    a, b = Resident("a", 1, (7, 8, 1), 3), Resident("b", 1, (7, 8, 2), 3)
    assert Copying({}).left_behind([a, b], 1) == {"a", "b"}
    assert Copying({}).left_behind([a, b], 3) == {"b"}
    assert Copying({}).left_behind([a, b], 4) == frozenset()


def test_what_the_taker_has_is_never_copied_whatever_blocks_the_sequence_comes_back_with() -> None:
    before = Resident("a", 1, (4, 5, 6), 3, num_present=2)
    copying = Copying({}).after([before], 1)
    assert (Copying({}).full([before]), copying.full([before])) == ((6,), ())
    again = Resident("a", 2, (9, 8, 7), 3, num_present=2)
    assert copying.rest([again]) == (7,)


class CopyingMachine(RuleBasedStateMachine):
    """A real batcher serves while its blocks are copied: is the copy right once the rest is done?

    `writes` counts, by block, every step that wrote into it; `copies` holds the count that was
    copied. The rounds look at the batcher as a change of stages does.
    """

    batcher: Batcher
    pending: list[Step]

    @initialize(shares=st.booleans())
    def begin(self, shares: bool) -> None:
        self.batcher = make_batcher(
            num_blocks=24, block_tokens=2, max_step_tokens=16, prefix_sharing=shares
        )
        self.pending = []
        self.writes = dict.fromkeys(range(24), 0)
        self.copies: dict[int, int] = {}
        self.copying = Copying({})
        self.under_way: tuple[list[Resident], dict[int, int]] | None = None
        self.num_requests = 0

    def residents(self) -> list[Resident]:
        size = 2
        return [
            Resident(
                sequence.request_id,
                sequence.residency,
                tuple(sequence.block_table[: -(-sequence.num_computed // size)]),
                sequence.num_computed // size,
            )
            for sequence in self.batcher.running
        ]

    def read(self, blocks: Sequence[int]) -> dict[int, int]:
        return {block: self.writes[block] for block in blocks}

    @rule(length=st.integers(1, 20), max_tokens=st.integers(1, 12))
    def a_request_comes(self, length: int, max_tokens: int) -> None:
        if self.batcher.num_running + self.batcher.num_waiting < 6:
            self.num_requests += 1
            name = f"r{self.num_requests}"
            self.batcher.add(make_sequence(name, length=length, max_tokens=max_tokens))

    @rule()
    def a_step_is_sent(self) -> None:
        if (step := self.batcher.next_step()) is not None:
            self.pending.append(step)
            for slot in step.slots:
                table = slot.sequence.block_table
                for place in range(slot.start, slot.start + slot.length):
                    self.writes[table[place // 2]] += 1

    @rule()
    def a_step_comes_back(self) -> None:
        if self.pending:
            step = self.pending.pop(0)
            self.batcher.complete(step.number, [7] * len(step.slots))

    @rule()
    def steps_go_round(self) -> None:
        for _ in range(4):
            self.a_step_is_sent()
            self.a_step_comes_back()

    @rule(data=st.data())
    def a_request_is_cancelled(self, data: st.DataObject) -> None:
        if self.batcher.running:
            names = [sequence.request_id for sequence in self.batcher.running]
            self.batcher.cancel(data.draw(st.sampled_from(names)))

    @rule(data=st.data())
    def a_sequence_loses_its_blocks(self, data: st.DataObject) -> None:
        idle = [s.request_id for s in self.batcher.running if not s.in_flight]
        if idle:
            self.batcher.preempt(data.draw(st.sampled_from(idle)))

    @rule()
    def a_round_begins(self) -> None:
        residents = self.residents()
        blocks = self.copying.next_round(residents)
        if self.under_way is None and blocks:
            self.under_way = residents, self.read(blocks)

    @rule(data=st.data())
    def a_round_is_done(self, data: st.DataObject) -> None:
        """What it copied was read when it began, at the worst; time may have cut it short."""
        if self.under_way is not None:
            residents, copied = self.under_way
            num_copied = data.draw(st.integers(0, len(copied)))
            self.copies.update(list(copied.items())[:num_copied])
            self.copying = self.copying.after(residents, num_copied)
            self.under_way = None

    @invariant()
    def a_pause_now_would_leave_nothing_uncopied(self) -> None:
        if self.pending or self.under_way is not None:
            return
        copied = {**self.copies, **self.read(self.copying.rest(self.residents()))}
        for sequence in self.residents():
            for block in sequence.blocks:
                assert copied.get(block) == self.writes[block], (sequence, block)


TestCopyingMachine = CopyingMachine.TestCase
TestCopyingMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
