"""What a stage's last steps asked of it, and how long its device took for each.

Bounded, and cheap: four counts and a time a step. Steps that took no time that a clock shows, as on
emulated devices, are not kept. It never knows what the steps were for.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from models.forward_batch import ForwardBatch
from scheduling.roofline import StepWork

_T = TypeVar("_T")

MAX_STEPS = 256
WINDOW_S = 60.0
"""Tokens a second are counted over so long."""


@dataclass(frozen=True, slots=True)
class TimedStep:
    """A step of the layers `[start, end)`: what it asked, seconds on the device, when it ended."""

    start: int
    end: int
    work: StepWork
    seconds: float
    at: float


class StepRecord:
    """The newest `MAX_STEPS` steps of a stage."""

    def __init__(self) -> None:
        self._steps: deque[TimedStep] = deque(maxlen=MAX_STEPS)

    def add(self, layers: tuple[int, int], batch: ForwardBatch, seconds: float, now: float) -> None:
        """Keep a step that has ended."""
        if seconds > 0:
            self._steps.append(TimedStep(*layers, step_work(batch), seconds, now))

    def of(self, layers: tuple[int, int]) -> tuple[TimedStep, ...]:
        """Those of some layers, oldest first."""
        return tuple(step for step in self._steps if (step.start, step.end) == layers)

    def tokens_per_s(self, layers: tuple[int, int], now: float) -> float | None:
        """Tokens drawn a second of late; None where too little was done to tell."""
        late = [step for step in self.of(layers) if step.at >= now - WINDOW_S]
        if len(late) < 2 or late[-1].at <= late[0].at:
            return None
        drawn = sum(step.work.num_drawn for step in late[1:])
        return drawn / (late[-1].at - late[0].at)


def timed(function: Callable[[], _T], clock: Callable[[], float]) -> Callable[[], tuple[_T, float]]:
    """The function with the seconds it takes beside its result."""

    def call() -> tuple[_T, float]:
        began = clock()
        result = function()
        return result, clock() - began

    return call


def step_work(batch: ForwardBatch) -> StepWork:
    """What a batch asks of every stage."""
    starts, lengths = batch.starts.astype(np.int64), batch.lengths.astype(np.int64)
    num_tokens = batch.num_tokens
    before = int(starts @ lengths)
    return StepWork(
        num_tokens=num_tokens,
        num_pairs=before + (int(lengths @ lengths) + num_tokens) // 2,
        num_context=int(starts.sum()) + num_tokens,
        num_drawn=int(np.count_nonzero(batch.samples)),
    )
