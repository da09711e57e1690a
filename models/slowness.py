"""Has a device play a slower one, so that a mixed cluster can be tried on machines that are alike.

The one idea: a step takes as many times longer as the emulated device is slower, counted from the
processor time that it really needed; of the last steps that are alike the least one counts, since
other work on the machine only ever adds. Who waits for a core anyway has waited already, so that
several slowed devices share a few cores without slowing each other. It runs in a device's own
thread, which is why it may sleep.
"""

import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from models.device import DeviceMeasurement
from models.errors import ModelError

_T = TypeVar("_T")

MAX_KINDS = 512
"""Kinds of steps that are told apart; beyond them all are forgotten, and learnt anew."""
MAX_ALIKE = 16
"""Steps of a kind of which the least counts."""


def slowness_of(device: str, speed: float) -> "Slowness":
    """A device's: of a GPU the wall's seconds count, since its work needs no processor."""
    if device == "cpu":
        return Slowness(speed)
    return Slowness(speed, used=time.perf_counter)


@dataclass(frozen=True, slots=True)
class Slowness:
    """A device at a part of its own speed: 0.5 takes twice as long.

    Attributes:
        speed: above 0, and 1 at most.
        clock: seconds of the wall.
        used: seconds of a processor that this thread has used.
        sleep: waits so many seconds.

    Raises:
        ModelError: it would be faster than it is, or stand still.
    """

    speed: float
    clock: Callable[[], float] = time.perf_counter
    used: Callable[[], float] = time.thread_time
    sleep: Callable[[float], None] = time.sleep
    _needed: dict[Hashable, deque[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be played."""
        if not 0 < self.speed <= 1:
            raise ModelError(f"emulated speed: expected above 0 and 1 at most, got {self.speed:g}")

    def run(self, work: Callable[[], _T], kind: Hashable = None) -> _T:
        """Do some work, and return when the slower device would have done it.

        Work of one `kind` needs the same.
        """
        if self.speed == 1:
            return work()
        began_s, used_s = self.clock(), self.used()
        result = work()
        due_s = began_s + self._least(kind, self.used() - used_s) / self.speed
        if (left_s := due_s - self.clock()) > 0:
            self.sleep(left_s)
        return result

    def _least(self, kind: Hashable, seconds: float) -> float:
        if kind not in self._needed and len(self._needed) >= MAX_KINDS:
            self._needed.clear()
        latest = self._needed.setdefault(kind, deque(maxlen=MAX_ALIKE))
        latest.append(seconds)
        return min(latest)

    def measured(self, found: DeviceMeasurement) -> DeviceMeasurement:
        """What the slower device would have been measured to do; its name says what it is."""
        if self.speed == 1:
            return found
        return replace(
            found,
            name=f"{found.name} at {self.speed:g} of its speed",
            flops_per_s=found.flops_per_s * self.speed,
            bytes_per_s=found.bytes_per_s * self.speed,
            layer_overhead_s=found.layer_overhead_s / self.speed,
        )
