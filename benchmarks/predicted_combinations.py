"""What a benchmark of predictions runs: splits, batches and speeds, and what each of them gave."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.steady_load import Seen
from scheduling.link_rate import LinkRate
from scheduling.steps_file import ToldSteps

Link = tuple[str, str, LinkRate]


@dataclass(frozen=True, slots=True)
class Combination:
    """A split of the layers over devices of some speeds, and streams at a time.

    Attributes:
        speeds: of each stage's device, as a part of this machine's.
        split: layers of each stage.
        batch: streams.
    """

    speeds: tuple[float, ...]
    split: tuple[int, ...]
    batch: int


@dataclass(frozen=True, slots=True)
class Scene:
    """Devices of some speeds, and what is tried on them: all splits with all batches."""

    speeds: tuple[float, ...]
    splits: tuple[tuple[int, ...], ...]
    batches: tuple[int, ...]

    def combinations(self) -> Iterator[Combination]:
        """Each split with each batch."""
        for split in self.splits:
            for batch in self.batches:
                yield Combination(self.speeds, split, batch)

    def calibrates(self, combination: Combination) -> bool:
        """Whether rates may be fitted to it: every other one, like the squares of a board."""
        row, column = self.splits.index(combination.split), self.batches.index(combination.batch)
        return (row + column) % 2 == 0


@dataclass(frozen=True, slots=True)
class Round:
    """What clients saw, what stages told, and how many cores others used meanwhile."""

    seen: Seen
    steps: ToldSteps
    foreign_cores: float


@dataclass(slots=True)
class Measured:
    """What the rounds of one combination gave."""

    rounds: list[Round] = field(default_factory=list)
    links: tuple[Link, ...] = ()

    @property
    def calm(self) -> list[Round]:
        """The half of the rounds in which others used least of the machine."""
        by_calm = sorted(self.rounds, key=lambda one: one.foreign_cores)
        return by_calm[: -(-len(by_calm) // 2)]

    @property
    def tokens_per_s(self) -> float:
        """The median over the calm rounds."""
        return median(one.seen.tokens_per_s for one in self.calm)

    @property
    def tpot_s(self) -> float:
        """The median over the calm rounds."""
        return median(one.seen.tpot_s for one in self.calm)

    @property
    def foreign_cores(self) -> float:
        """Cores that others used at most in a calm round."""
        return max(one.foreign_cores for one in self.calm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A combination as predicted and as measured; `is_held_out` if no rate was fitted to it."""

    combination: Combination
    is_held_out: bool
    predicted: Seen
    measured: Seen
    foreign_cores: float = 0.0

    @property
    def error(self) -> float:
        """How far the predicted rate is from the measured one, as a part of it."""
        return self.predicted.tokens_per_s / self.measured.tokens_per_s - 1


def mean_error(rows: Iterable[Row]) -> float:
    """Mean of the errors without their signs."""
    errors = [abs(row.error) for row in rows]
    return sum(errors) / len(errors)


@dataclass(frozen=True, slots=True)
class Choice:
    """The split that is predicted best for some speeds and streams, and what choosing it costs.

    `loss` is the part of the best measured rate that it lacks.
    """

    chosen: Combination
    best: Combination
    loss: float


def choices(rows: Sequence[Row]) -> list[Choice]:
    """For each speeds and batch that more than one split was tried with."""
    alike: dict[tuple[tuple[float, ...], int], list[Row]] = defaultdict(list)
    for row in rows:
        alike[row.combination.speeds, row.combination.batch].append(row)
    found = []
    for group in alike.values():
        if len(group) > 1:
            chosen = max(group, key=lambda row: row.predicted.tokens_per_s)
            best = max(group, key=lambda row: row.measured.tokens_per_s)
            loss = 1 - chosen.measured.tokens_per_s / best.measured.tokens_per_s
            found.append(Choice(chosen.combination, best.combination, loss))
    return found
