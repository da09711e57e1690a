"""Measured steps of a service as what calibration takes: one for all that are alike. Pure.

The one idea: steps of nearly the same work are one measurement, their median time, so that the
thousands of alike decode steps of a service count no more than its few long prompts, and one that
was disturbed counts for nothing.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import sqrt
from statistics import median

from scheduling.model_shape import StepWork
from scheduling.nearness import rounded

MOST_COUNTED = 16
"""More steps of one size than these make their median no surer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStep:
    """A step of the layers `[start, end)` on a device, and its seconds."""

    start: int
    end: int
    work: StepWork
    seconds: float


@dataclass(frozen=True, slots=True)
class WeighedStep:
    """A step that stands for several; its error counts `weight` times."""

    step: StageStep
    weight: float


def alike(steps: Iterable[StageStep]) -> tuple[WeighedStep, ...]:
    """One step for all of the same layers that asked nearly the same (within 5 %).

    Its time is their median; its weight grows with the square root of their number, as the
    certainty of a median does, up to `MOST_COUNTED`.
    """
    groups: dict[tuple[float, ...], list[StageStep]] = defaultdict(list)
    for step in steps:
        groups[likeness(step)].append(step)
    return tuple(
        WeighedStep(
            replace(group[0], seconds=median(step.seconds for step in group)),
            sqrt(min(len(group), MOST_COUNTED)),
        )
        for group in groups.values()
    )


def likeness(step: StageStep) -> tuple[float, ...]:
    """What steps have in common that are alike: layers, and counts within 5 %."""
    work = step.work
    asked = (work.num_tokens, work.num_pairs, work.num_context, work.num_drawn)
    return (step.start, step.end, *(rounded(count) for count in asked))
