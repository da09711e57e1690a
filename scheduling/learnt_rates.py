"""What kinds of devices reach, learnt from steps that come in for as long as a service runs.

The one idea: of each kind the newest steps of each size are kept, a bounded number of both, and the
rates are fitted to them anew whenever there are other ones. A fit that leaves much error is none.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import exp, log

from scheduling.calibration import calibrate
from scheduling.hardware import DeviceKind
from scheduling.measured_steps import StageStep, likeness
from scheduling.model_shape import ModelShape
from scheduling.split import StageDevice

MAX_KINDS = 64
MAX_SIZES = 256
"""Sizes of step of a kind; beyond them the one that came longest ago is forgotten."""
MAX_ALIKE = 16
MAX_ERROR = 0.3
"""A fit that is off by more in the mean says nothing."""
NEWS = 0.1
"""Rates that differ by less are the known ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearntRate:
    """What a kind of device reaches for one stage, and how well its steps agree on that."""

    flops_per_s: float
    bytes_per_s: float
    layer_overhead_s: float
    step_overhead_s: float
    mean_error: float
    num_sizes: int


class StepMemory:
    """The newest steps of each kind and size."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[str, _Sizes] = OrderedDict()
        self._last: tuple[object, ...] = ()

    def add(self, kind: str, step: StageStep) -> None:
        """Keep a step; one without time or work tells nothing."""
        if not (step.seconds > 0 and step.work.num_tokens > 0):
            return
        sizes = self._kinds.setdefault(kind, OrderedDict())
        self._kinds.move_to_end(kind)
        key = likeness(step)
        sizes.setdefault(key, deque(maxlen=MAX_ALIKE)).append(step)
        sizes.move_to_end(key)
        if len(sizes) > MAX_SIZES:
            sizes.popitem(last=False)
        if len(self._kinds) > MAX_KINDS:
            self._kinds.popitem(last=False)

    @property
    def has_news(self) -> bool:
        """Whether other steps are here than were taken last."""
        return self._fingerprint() != self._last

    def taken(self) -> "Steps":
        """All of them, by kind."""
        self._last = self._fingerprint()
        return {
            kind: tuple(step for alike in sizes.values() for step in alike)
            for kind, sizes in self._kinds.items()
        }

    def _fingerprint(self) -> tuple[object, ...]:
        return tuple(self._facts())

    def _facts(self) -> Iterator[object]:
        for kind, sizes in sorted(self._kinds.items()):
            yield kind
            yield frozenset((key, tuple(step.seconds for step in sizes[key])) for key in sizes)


_Sizes = OrderedDict[tuple[float, ...], deque[StageStep]]
Steps = Mapping[str, tuple[StageStep, ...]]


def learnt_rates(
    steps: Steps, shape: ModelShape, at_start: Mapping[str, StageDevice]
) -> dict[str, LearntRate]:
    """The rates of all kinds whose steps tell them; blocking, for some tenths of a second each.

    What the steps of a kind do not tell, as arithmetic where none was bound by it, stays as it was
    measured at the start; a kind of which nothing was is left out.
    """
    found = {}
    for kind, mine in steps.items():
        rate = _learnt(kind, mine, shape, at_start[kind]) if kind in at_start else None
        if rate is not None and rate.mean_error <= MAX_ERROR:
            found[kind] = rate
    return found


def _learnt(
    kind: str, steps: tuple[StageStep, ...], shape: ModelShape, at_start: StageDevice
) -> LearntRate | None:
    measured = DeviceKind(
        name=kind,
        memory_bytes=at_start.memory_bytes,
        peak_flops_per_s=at_start.flops_per_s,
        peak_bytes_per_s=at_start.bytes_per_s,
    )
    try:
        found = calibrate(measured, shape, steps)
    except ValueError:  # too few sizes yet
        return None
    rates = found.kind.rates
    return LearntRate(
        flops_per_s=rates.flops_per_s,
        bytes_per_s=rates.bytes_per_s,
        layer_overhead_s=rates.layer_overhead_s,
        step_overhead_s=rates.step_overhead_s,
        mean_error=found.mean_error,
        num_sizes=found.num_sizes,
    )


def is_news(known: Mapping[str, LearntRate], found: Mapping[str, LearntRate]) -> bool:
    """Whether something is found that was not known, or is other than it was known to be."""
    return any(kind not in known or _differs(known[kind], rate) for kind, rate in found.items())


def _differs(one: LearntRate, other: LearntRate) -> bool:
    rates = ((one.flops_per_s, other.flops_per_s), (one.bytes_per_s, other.bytes_per_s))
    return any(abs(new / old - 1) > NEWS for old, new in rates)


def usual_part(
    learnt: Mapping[str, LearntRate], at_start: Mapping[str, StageDevice]
) -> tuple[float, float]:
    """The part of arithmetic and of bandwidth measured at start that kinds reach in the mean.

    A kind that never served would else look better than those that did. 1 where nothing is learnt.
    """
    known = [(rate, at_start[kind]) for kind, rate in learnt.items() if kind in at_start]
    if not known:
        return 1.0, 1.0
    flops = [log(rate.flops_per_s / start.flops_per_s) for rate, start in known]
    num_bytes = [log(rate.bytes_per_s / start.bytes_per_s) for rate, start in known]
    return exp(sum(flops) / len(flops)), exp(sum(num_bytes) / len(num_bytes))
