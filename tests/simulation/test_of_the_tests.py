"""Bugs put in on purpose: each must be found by a schedule of those that always run."""

from collections.abc import Callable, Sequence

import pytest

from actors import hand_off, stage_change
from actors.holding import Held, Holding
from actors.messages import TokensOf
from actors.mover import Mover
from actors.reservations import Reservations
from actors.stream import Stream
from actors.swap import Copying, Rebuild, Resident
from scheduling.batcher import Batcher
from scheduling.residents import Residents
from scheduling.sequence import Sequence as TokenSequence
from scheduling.shared_blocks import SharedBlocks
from tests.simulation.play import play
from tests.simulation.schedules import schedule_of
from tests.simulation.test_schedules import NUM_PHASED_SEEDS, NUM_SEEDS

Bug = Callable[[pytest.MonkeyPatch], None]


def the_delta_is_not_copied(patch: pytest.MonkeyPatch) -> None:
    def rest(self: Copying, residents: Sequence[Resident]) -> tuple[int, ...]:
        return ()

    patch.setattr(Copying, "rest", rest)


def the_fence_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    def use(self: Holding, epoch: int) -> Held | None:
        held = self._held.get(epoch)
        if held is not None:
            held.is_confirmed = True
        return held

    patch.setattr(Holding, "use", use)


def a_sequence_in_a_step_may_lose_its_blocks(patch: pytest.MonkeyPatch) -> None:
    def youngest(self: Residents) -> TokenSequence | None:
        return max(self.running.values(), key=lambda s: s.arrival, default=None)

    patch.setattr(Residents, "_youngest_idle", youngest)


def a_grown_sequence_gives_its_first_block_back(patch: pytest.MonkeyPatch) -> None:
    grow = Residents.grow

    def grow_and_free(self: Residents, sequence: TokenSequence) -> bool:
        num_before = len(sequence.block_table)
        has_grown = grow(self, sequence)
        if num_before < len(sequence.block_table) and num_before == 5:
            self.pool.free(sequence.block_table[:1])
        return has_grown

    patch.setattr(Residents, "grow", grow_and_free)


def the_replay_is_for_the_stage_behind(patch: pytest.MonkeyPatch) -> None:
    rebuild = stage_change._Change._rebuild

    async def too_late(self: stage_change._Change, lost: Rebuild) -> None:
        end = len(self._wanted.stages) - 1
        await rebuild(self, Rebuild(min(lost.first + 1, end), min(lost.last + 1, end)))

    patch.setattr(stage_change._Change, "_rebuild", too_late)


def tokens_are_taken_wherever_they_start(patch: pytest.MonkeyPatch) -> None:
    def accept(self: Stream, update: TokensOf, now: float) -> bool:
        self._hand_on(update.token_ids, update, now)
        return True

    patch.setattr(Stream, "accept", accept)


def the_wrong_epoch_is_dropped(patch: pytest.MonkeyPatch) -> None:
    def settle(self: Holding, pipeline: str, epoch: int, upto: int) -> bool:
        mine = [e for e, held in self._held.items() if held.assignment.pipeline == pipeline]
        dropped = sorted(e for e in mine if e <= upto)[1:]
        for e in dropped:
            del self._held[e]
        return bool(dropped)

    patch.setattr(Holding, "settle", settle)


def all_that_is_lost_counts_as_logged(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stage_change._Change, "_is_logged", lambda self, sequence, rebuild: True)


def a_reservation_that_is_dropped_keeps_its_blocks(patch: pytest.MonkeyPatch) -> None:
    def drop(self: Reservations, request: str) -> bool:
        return self._kept.pop(request, None) is not None

    patch.setattr(Reservations, "drop", drop)


def blocks_are_written_where_they_were_at_home(patch: pytest.MonkeyPatch) -> None:
    orders = Mover._orders

    def wrong(
        self: Mover, blocks: Sequence[int], targets: Sequence[int], when: int | None
    ) -> object:
        return orders(self, blocks, [*targets[1:], *targets[:1]], when)

    patch.setattr(Mover, "_orders", wrong)


def the_last_blocks_stay_where_they_were(patch: pytest.MonkeyPatch) -> None:
    rest = hand_off.HandOff._copy_rest

    async def nothing(self: Mover, resident: Resident, blocks: Sequence[int]) -> None:
        return

    async def copy_rest(self: hand_off.HandOff, mover: Mover, copying: Copying) -> None:
        with pytest.MonkeyPatch.context() as within:
            within.setattr(mover, "copy", nothing.__get__(mover))
            await rest(self, mover, copying)

    patch.setattr(hand_off.HandOff, "_copy_rest", copy_rest)


def what_nobody_held_is_still_found_after_a_change(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Batcher, "forget_prefixes", lambda self: None)


def who_goes_first_gives_back_what_others_hold(patch: pytest.MonkeyPatch) -> None:
    free = SharedBlocks.free

    def free_all(self: SharedBlocks, table: Sequence[int]) -> None:
        self._holders.update((block, 1) for block in table if block in self._holders)
        free(self, [block for block in table if block in self._holders])

    patch.setattr(SharedBlocks, "free", free_all)


def blocks_are_found_before_they_are_computed(patch: pytest.MonkeyPatch) -> None:
    def num_shareable(self: TokenSequence, block_tokens: int) -> int:
        return self.num_tokens // block_tokens

    patch.setattr(TokenSequence, "num_shareable_blocks", num_shareable)


PHASED_BUGS: tuple[tuple[Bug, int], ...] = (
    (a_reservation_that_is_dropped_keeps_its_blocks, 0),
    (blocks_are_written_where_they_were_at_home, 0),
    (the_last_blocks_stay_where_they_were, 0),
)


# Each with a seed that finds it; if schedules are drawn otherwise one day, another one must.
BUGS: tuple[tuple[Bug, int], ...] = (
    (the_delta_is_not_copied, 2),
    (the_fence_is_forgotten, 83),
    (a_sequence_in_a_step_may_lose_its_blocks, 0),
    (a_grown_sequence_gives_its_first_block_back, 0),
    (the_replay_is_for_the_stage_behind, 1),
    (tokens_are_taken_wherever_they_start, 4),
    (the_wrong_epoch_is_dropped, 27),
    (all_that_is_lost_counts_as_logged, 12),
    (what_nobody_held_is_still_found_after_a_change, 2),
    (who_goes_first_gives_back_what_others_hold, 0),
    (blocks_are_found_before_they_are_computed, 4),
)


def is_found(seed: int, *, phased: bool = False) -> bool:
    """Whether a seed finds something."""
    return bool(play(schedule_of(seed, phased=phased)).problems)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("bug", "seed"), BUGS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_bug_is_found(bug: Bug, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    assert is_found(seed) or any(map(is_found, range(NUM_SEEDS)))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("bug", "seed"), PHASED_BUGS, ids=lambda v: getattr(v, "__name__", ""))
def test_a_bug_in_handing_off_is_found(
    bug: Bug, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bug(monkeypatch)
    seeds = (seed, *range(NUM_PHASED_SEEDS))
    assert any(is_found(number, phased=True) for number in seeds)
