"""What a change of stages takes: which layers move, which blocks, what is rebuilt. Pure.

The one idea: KV is append-only, so a block that was full when it was copied stays right for as long
as its sequence keeps it. Rounds copy full blocks while the pipeline serves; then it pauses between
two steps, the rest is copied, and the new stages go on. A sequence that gave up its blocks in
between comes back with others (another residency), so that what was copied for it is void by
itself. It never knows a wire, a device or a clock (live migration: Clark et al., NSDI 2005).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from actors.kernel.ref import Ref
from actors.messages import StageSpec

MAX_ROUNDS = 8
"""After so many rounds the rest is copied in the pause, however much came anew."""
FEW_BLOCKS = 4
"""So few full blocks are not worth a round of their own."""


# --- which layers


@dataclass(frozen=True, slots=True)
class LayerMove:
    """KV of layers `[start, end)` that goes from one stage's worker to another's."""

    start: int
    end: int
    source: Ref
    target: Ref


@dataclass(frozen=True, slots=True)
class Rebuild:
    """New stages `[first, last]` whose KV is lost: all that is before `first` has its own."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Need:
    """What new stages lack, and how they get it.

    `is_hopeless` if some lost layers do not begin where a log does: then all is computed anew.
    """

    moves: tuple[LayerMove, ...]
    rebuilds: tuple[Rebuild, ...]
    is_hopeless: bool


def need(old: Sequence[StageSpec], new: Sequence[StageSpec], lost: Iterable[Ref]) -> Need:
    """How every layer of the new stages comes to its KV.

    Args:
        old: the stages whose KV is whole, but for those in `lost`.
        new: the stages that are to go on; what they kept counts only if it was whole.
        lost: workers of old stages that are gone.
    """
    gone = set(lost)
    owners = {
        layer: stage.ref
        for stage in old
        if stage.ref not in gone
        for layer in range(stage.start, stage.end)
    }
    moves: list[LayerMove] = []
    whole = []
    for stage in new:
        lacking = [
            layer for layer in range(stage.start, stage.end) if not _keeps(stage, layer, owners)
        ]
        moves += _runs((layer, owners[layer], stage.ref) for layer in lacking if layer in owners)
        num_lost = sum(layer not in owners for layer in lacking)
        whole.append(num_lost == 0)
        if num_lost not in (0, stage.end - stage.start):
            return Need((), (), is_hopeless=True)
    rebuilds = tuple(_groups(whole))
    is_hopeless = any(
        rebuild.first > 0 and not _has_log(old, new[rebuild.first - 1]) for rebuild in rebuilds
    )
    return Need((), (), True) if is_hopeless else Need(tuple(moves), rebuilds, False)


def _keeps(stage: StageSpec, layer: int, owners: Mapping[int, Ref]) -> bool:
    return stage.kept_start <= layer < stage.kept_end and owners.get(layer) == stage.ref


def _has_log(old: Sequence[StageSpec], stage: StageSpec) -> bool:
    """Whether a stage remembers what it gave out of the layers that end where they did before."""
    return stage.keeps_log and any(o.ref == stage.ref and o.end == stage.end for o in old)


def _runs(layers: Iterable[tuple[int, Ref, Ref]]) -> list[LayerMove]:
    runs: list[LayerMove] = []
    for layer, source, target in layers:
        last = runs[-1] if runs else None
        if last is not None and (last.end, last.source, last.target) == (layer, source, target):
            runs[-1] = replace(last, end=layer + 1)
        else:
            runs.append(LayerMove(layer, layer + 1, source, target))
    return runs


def _groups(whole: Sequence[bool]) -> Iterable[Rebuild]:
    first = None
    for index, is_whole in enumerate((*whole, True)):
        if not is_whole and first is None:
            first = index
        elif is_whole and first is not None:
            yield Rebuild(first, index - 1)
            first = None


# --- which blocks


@dataclass(frozen=True, slots=True)
class Resident:
    """A sequence's blocks at one moment: those in front are full, the last may still grow.

    The first `num_present` are where they are to go already, and are never copied.
    """

    request: str
    residency: int
    blocks: tuple[int, ...]
    num_full: int
    num_present: int = 0

    @property
    def key(self) -> tuple[str, int]:
        """What was copied is right for as long as this is the same."""
        return self.request, self.residency


@dataclass(frozen=True, slots=True)
class Copying:
    """How much of each sequence was copied; a value, replaced at every round.

    A block that several sequences hold is copied once.
    """

    copied: Mapping[tuple[str, int], int]
    num_rounds: int = 0

    def next_round(self, residents: Sequence[Resident]) -> tuple[int, ...]:
        """Full blocks to copy while the pipeline serves on; none if the rest is for the pause."""
        if self.num_rounds >= MAX_ROUNDS:
            return ()
        blocks = self.full(residents)
        is_worth_it = len(blocks) > FEW_BLOCKS + len(residents) // 2
        return blocks if is_worth_it else ()

    def full(self, residents: Sequence[Resident]) -> tuple[int, ...]:
        """Full blocks that are not yet copied, however few."""
        return self._missing(residents, lambda resident: resident.num_full)

    def rest(self, residents: Sequence[Resident]) -> tuple[int, ...]:
        """All that is not yet copied of what the sequences have; for the pause."""
        return self._missing(residents, lambda resident: len(resident.blocks))

    def after(self, residents: Sequence[Resident], num_blocks: int) -> "Copying":
        """The round over these residents is done, or its first blocks are."""
        done = self._counts(residents, lambda resident: resident.num_full, num_blocks)
        return Copying(done, self.num_rounds + 1)

    def left_behind(self, residents: Sequence[Resident], num_blocks: int) -> frozenset[str]:
        """Requests that have not all they need, if only the first blocks of the rest are copied."""
        done = self._counts(residents, lambda resident: len(resident.blocks), num_blocks)
        return frozenset(r.request for r in residents if done[r.key] < len(r.blocks))

    def _counts(
        self, residents: Sequence[Resident], upto: Callable[[Resident], int], num_blocks: int
    ) -> dict[tuple[str, int], int]:
        """How many blocks of each are there once so many more were copied, in order."""
        there = self._there(residents)
        there.update(self._missing(residents, upto)[:num_blocks])
        counts = {}
        for resident in residents:
            before = self._num_there(resident)
            new = takewhile(there.__contains__, resident.blocks[before : upto(resident)])
            counts[resident.key] = before + sum(1 for _ in new)
        return counts

    def _missing(
        self, residents: Sequence[Resident], upto: Callable[[Resident], int]
    ) -> tuple[int, ...]:
        there = self._there(residents) if len(residents) > 1 else ()
        wanted = (
            block
            for resident in residents
            for block in resident.blocks[self._num_there(resident) : upto(resident)]
        )
        return tuple(block for block in dict.fromkeys(wanted) if block not in there)

    def _there(self, residents: Sequence[Resident]) -> set[int]:
        return {b for resident in residents for b in resident.blocks[: self._num_there(resident)]}

    def _num_there(self, resident: Resident) -> int:
        return max(resident.num_present, self.copied.get(resident.key, 0))
