"""Which requests a pipeline serves in time, in each phase and at each load.

The one idea: the forecast says what a pipeline does at every size of step; a load picks the size
whose rate just meets it, and that size's cycle, the wait for it and the prompt's own computation
are the request's latency. Everything comes from `scheduling.forecast`; only the waits are added.

A phase's capacity is what its forecast serves best by the goal; a *level* is a part of that, and
what is said of a level holds for all loads up to it.

Arrays are over `R` requests of the workload's sample.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np

from scheduling.forecast import Forecaster, OperatingPoints, Row
from scheduling.goal import Goal
from scheduling.phases_wait import Array, Wait, queue_wait
from scheduling.placement import PHASES, Phase
from scheduling.workload import Workload

MAX_SAMPLE = 256


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseService:
    """What a pipeline does for the sample in one phase at one level.

    Attributes:
        first_token: part of each request whose first token is in time, `[R]`; ones in decode.
        wait: what a sequence waits for room to decode; none in prefill.
        cycle_s: seconds between two tokens of a sequence; 0 in prefill.
    """

    first_token: Array
    wait: Wait
    cycle_s: float


class PipelineLatency:
    """One pipeline with the layers it has, in all phases.

    Attributes:
        capacity: requests a second of each phase at its best by the goal; 0 where it cannot.
        prefill_s: seconds that each prompt of the sample is computed for, by itself, `[R]`.
    """

    def __init__(
        self,
        forecaster: Forecaster,
        row: Row,
        layers: tuple[int, ...],
        sample: Sample,
        arrival_cv2: float,
    ) -> None:
        """Of the pipeline `row`, whose phase does not count."""
        self._goal: Goal = forecaster.goal
        self._sample, self._arrival_cv2 = sample, arrival_cv2
        self._limits = forecaster.table.limits
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
        self.prefill_s = self._computed_s(float(self._limits.max_step_tokens), 0.0)
        self._known: dict[tuple[Phase, float], PhaseService] = {}

    def service(self, phase: Phase, level: float) -> PhaseService:
        """What it does at a part of its capacity; the phase's capacity must be above 0."""
        key = (phase, level)
        if key not in self._known:
            compute = {"prefill": self._prefill, "decode": self._decode, "both": self._both}
            self._known[key] = compute[phase](level * self.capacity[phase])
        return self._known[key]

    def _prefill(self, load: float) -> PhaseService:
        rate = float(self._points["prefill"].requests_per_s.max())
        wait = queue_wait(
            load / rate,
            service_s=1.0 / rate,
            arrival_cv2=self._arrival_cv2,
            service_cv2=_cv2(self.prefill_s),
        )
        return PhaseService(
            first_token=self._first_token(wait, self.prefill_s), wait=Wait(), cycle_s=0.0
        )

    def _decode(self, load: float) -> PhaseService:
        points = self._points["decode"]
        at = _fastest(points, load)
        return PhaseService(
            first_token=np.ones_like(self._sample.prompts),
            wait=self._wait_for_room(points, load, at),
            cycle_s=float(points.cycle_s[at]),
        )

    def _both(self, load: float) -> PhaseService:
        """Prompts wait for room among the sequences, then for each other's chunks."""
        points = self._points["both"]
        at = _fastest(points, load)
        cycle_s, sequences = float(points.cycle_s[at]), float(points.sequences[at])
        chunk = max(1.0, self._limits.max_step_tokens - sequences)
        beside_s = max(0.0, float(points.through_s[at]) - self._chunk_s(float(points.chunk[at])))
        computed = self._computed_s(chunk, beside_s)
        each_s = float(computed.mean()) / self._num_stages
        turn = queue_wait(
            load * each_s,
            service_s=each_s,
            arrival_cv2=self._arrival_cv2,
            service_cv2=_cv2(computed),
        )
        wait = self._wait_for_room(points, load, at).then(turn)
        return PhaseService(
            first_token=self._first_token(wait, computed + cycle_s / 2),
            wait=Wait(),
            cycle_s=cycle_s,
        )

    def _wait_for_room(self, points: OperatingPoints, load: float, at: int) -> Wait:
        """For KV memory: as many servers as sequences fit, each kept for a whole answer."""
        held_s = self._mean_output * float(points.cycle_s[at])
        return queue_wait(
            load * held_s / points.max_sequences,
            service_s=held_s,
            num_servers=points.max_sequences,
            arrival_cv2=self._arrival_cv2,
            service_cv2=_cv2(self._sample.outputs),
        )

    def _first_token(self, wait: Wait, computed_s: Array) -> Array:
        if self._goal.ttft_s is None:
            return np.ones_like(computed_s)
        return wait.within(self._goal.ttft_s - computed_s)

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
