"""Which requests a pipeline serves in time, in each phase and at each load.

The one idea: the forecast says what a pipeline does at every size of step; a load picks the size
whose rate just meets it, and that size's cycle, the wait for it and the prompt's own computation
are the request's latency. Everything comes from `scheduling.forecast`; only the waits are added.

A phase's capacity is what its forecast serves best by the goal; a *level* is a part of that, and
what is said of a level holds for all loads up to it.

Dims: `R` requests of the workload's sample, `U` levels, `n` pipelines.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

import numpy as np
from scipy.special import gammainc

from scheduling.forecast import Forecaster, OperatingPoints, Row
from scheduling.phases.wait import Array, Wait, queue_wait
from scheduling.placement import PHASES, Phase
from scheduling.workload import Workload

MAX_SAMPLE = 128
LEAST_CV2 = 1e-6
"""Prompts that are all alike and come like a clock count as all but that: a sum has some spread."""
LEVELS = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95)
"""Parts of its capacity that a pipeline may be used to."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Lengths of some requests, evenly out of a workload's: tokens, `[R]`."""

    prompts: Array
    outputs: Array

    @classmethod
    def of(cls, workload: Workload) -> "Sample":
        """At most `MAX_SAMPLE` of them."""
        step = ceil(len(workload.prompts) / MAX_SAMPLE)
        return cls(
            np.asarray(workload.prompts[::step], np.float64),
            np.asarray(workload.outputs[::step], np.float64),
        )


class PipelineLatency:
    """One pipeline with the layers it has, in all phases.

    Attributes:
        capacity: requests a second of each phase at its best by the goal; 0 where it cannot.
        prefill_s: seconds that each prompt of the sample is computed for, by itself, `[R]`.
        first_token: part of each request whose first token is in time, prefill alone, `[U, R]`.
        good_both: part of all requests in time where it serves both phases, `[U]`.
    """

    def __init__(
        self,
        forecaster: Forecaster,
        row: Row,
        layers: tuple[int, ...],
        sample: Sample,
    ) -> None:
        """Of the pipeline `row`, whose phase does not count; `load` is to be called next."""
        self._goal, self._sample = forecaster.goal, sample
        self._arrival_cv2: Mapping[Phase, float] = {}
        self._max_step = float(forecaster.table.limits.max_step_tokens)
        self._mean_output = forecaster.table.workload.mean_output
        self._num_stages = len(layers)
        self._points: dict[Phase, OperatingPoints] = {}
        self.capacity: dict[Phase, float] = dict.fromkeys(PHASES, 0.0)
        for phase in PHASES:
            of_phase = Row(row.groups, row.hops, phase, row.availability)
            points = forecaster.points(of_phase, layers)
            best = forecaster.forecast(of_phase, layers)
            if points is None or best is None:
                continue
            self._points[phase] = points
            self.capacity[phase] = best.requests_per_s if best.good_part > 0 else 0.0
        self._chunks = _chunk_times(self._points.get("prefill"))
        self.prefill_s = self._computed_s(self._max_step, 0.0)
        self.first_token = np.zeros((len(LEVELS), len(sample.prompts)))
        self.good_both = np.zeros(len(LEVELS))

    def load(self, arrival_cv2: Mapping[Phase, float]) -> None:
        """See what it does at each level, for arrivals as bursty in each phase; 1 is Poisson."""
        self._arrival_cv2 = arrival_cv2
        self.first_token = np.stack([self._prefilled(level) for level in LEVELS])
        self.good_both = np.asarray([self._good_both(level) for level in LEVELS])

    def kept_after(self, sent_s: Array) -> Array:
        """Part of each request whose tokens after the first are in time.

        Args:
            sent_s: seconds until its KV is here, for each of some senders, `[n, R]`.

        Returns:
            Of each sender and request, at each level, `[U, n, R]`.
        """
        return np.stack([self._decoded(level, sent_s) for level in LEVELS])

    def _prefilled(self, level: float) -> Array:
        load = level * self.capacity["prefill"]
        if load <= 0 or self._goal.ttft_s is None:
            return np.full_like(self.prefill_s, float(load > 0))
        rate = float(self._points["prefill"].requests_per_s.max())
        wait = queue_wait(
            load / rate,
            service_s=1.0 / rate,
            arrival_cv2=self._arrival_cv2["prefill"],
            service_cv2=_cv2(self.prefill_s),
        )
        return wait.within(self._goal.ttft_s - self.prefill_s)

    def _decoded(self, level: float, sent_s: Array) -> Array:
        if self._goal.tpot_s is None:
            return np.ones_like(sent_s)
        points, load = self._points["decode"], level * self.capacity["decode"]
        at = _fastest(points, load)
        steps = self._sample.outputs - 1
        spare_s = steps * (self._goal.tpot_s - float(points.cycle_s[at]))
        kept = self._wait_for_room("decode", load, at).within(spare_s - sent_s)
        return np.where(steps <= 0, 1.0, kept)

    def _good_both(self, level: float) -> float:
        """Prompts wait for room among the sequences, then for each other's chunks."""
        load = level * self.capacity["both"]
        if load <= 0:
            return 0.0
        points, goal = self._points["both"], self._goal
        at = _fastest(points, load)
        cycle_s = float(points.cycle_s[at])
        good = np.ones_like(self.prefill_s)
        if goal.ttft_s is not None:
            computed = self._beside_s(points, at)
            wait = self._wait_for_room("both", load, at).then(self._wait_for_turn(computed, load))
            good = wait.within(goal.ttft_s - computed - cycle_s / 2)
        if goal.tpot_s is not None:
            good = good * self._undisturbed(load, cycle_s, goal.tpot_s)
        return float(good.mean())

    def _undisturbed(self, load: float, cycle_s: float, tpot_s: float) -> Array:
        """Part of each request whose tokens are in time although prompts come between them, `[R]`.

        While it decodes, prompts come at `load` and each takes its time from all that decode: a
        compound renewal sum, taken as the gamma distribution of its mean and variance. Short
        answers feel one prompt, long ones the mean of many. From one arrival, of which its own is
        one, `(1 - cv2) / 2` fewer than usual follow.
        """
        each, cv2 = self.prefill_s / self._num_stages, self._arrival_cv2["both"]
        mean_s = float(each.mean())
        alone_s = cycle_s * max(0.0, 1.0 - load * mean_s)
        steps = self._sample.outputs - 1
        spare_s, usual = steps * (tpot_s - alone_s), load * tpot_s * np.maximum(steps, 1.0)
        arrivals = usual * 2 * usual / (2 * usual + max(0.0, 1.0 - cv2))
        scale_s = mean_s * max(LEAST_CV2, _cv2(each) + cv2)
        kept = gammainc(arrivals * mean_s / scale_s, np.maximum(spare_s, 0) / scale_s)
        return np.where(steps <= 0, 1.0, np.where(spare_s > 0, kept, 0.0))

    def _beside_s(self, points: OperatingPoints, at: int) -> Array:
        """Seconds of each prompt in steps in which others decode, `[R]`."""
        chunk = max(1.0, self._max_step - float(points.sequences[at]))
        alone_s = float(self._chunk_s(float(points.chunk[at])))
        return self._computed_s(chunk, max(0.0, float(points.through_s[at]) - alone_s))

    def _wait_for_turn(self, computed_s: Array, load: float) -> Wait:
        """For the prompts before: a stage takes its part of the way through all."""
        each_s = float(computed_s.mean()) / self._num_stages
        return queue_wait(
            load * each_s,
            service_s=each_s,
            arrival_cv2=self._arrival_cv2["both"],
            service_cv2=_cv2(computed_s),
        )

    def _wait_for_room(self, phase: Phase, load: float, at: int) -> Wait:
        """For KV memory: as many servers as sequences fit, each kept for a whole answer."""
        points = self._points[phase]
        held_s = self._mean_output * float(points.cycle_s[at])
        return queue_wait(
            load * held_s / points.max_sequences,
            service_s=held_s,
            num_servers=points.max_sequences,
            arrival_cv2=self._arrival_cv2[phase],
            service_cv2=_cv2(self._sample.outputs),
        )

    def _computed_s(self, chunk: float, beside_s: float) -> Array:
        """Seconds of each prompt, chunk after chunk, with what else is in the steps."""
        whole = np.floor((self._sample.prompts - 1) / chunk)
        rest = self._sample.prompts - whole * chunk
        full_s = self._chunk_s(chunk)
        found: Array = whole * full_s + self._chunk_s(rest) + (whole + 1) * beside_s
        return found

    def _chunk_s(self, tokens: float | Array) -> Array:
        sizes, seconds = self._chunks
        return np.asarray(np.interp(tokens, sizes, seconds))


def _fastest(points: OperatingPoints, load: float) -> int:
    """The point of the shortest cycle that carries a load; that of the most where none does."""
    carries = points.requests_per_s >= load * (1 - 1e-9)
    if not carries.any():
        return int(np.argmax(points.requests_per_s))
    return int(np.argmin(np.where(carries, points.cycle_s, np.inf)))


def _chunk_times(points: OperatingPoints | None) -> tuple[Array, Array]:
    """Seconds through all stages for each size of chunk, at its fewest steps in flight."""
    if points is None:
        return np.asarray([0.0]), np.asarray([0.0])
    sizes, first = np.unique(points.chunk, return_index=True)
    return sizes, points.through_s[first]


def _cv2(values: Array) -> float:
    mean = float(values.mean())
    return float(values.var()) / mean**2 if mean > 0 else 0.0
