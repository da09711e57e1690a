"""What each choice of phases can serve, as a table: capacities, parts in time, lines.

The one idea: a choice among given pipelines needs no more than numbers, computed once: for each
pipeline its capacity in each phase, for each pair the part of requests in time, and that at several
*levels* of use, since a queue is longer the fuller a pipeline is. Whoever searches never sees a
device; tests can draw tables at random.
"""

from dataclasses import dataclass

import numpy as np

from scheduling.objective import Objective
from scheduling.phases_latency import PhaseService, PipelineLatency, Sample
from scheduling.phases_transfer import (
    KvTransport,
    Line,
    Transfer,
    line_rate,
    transfer_between,
)
from scheduling.phases_wait import Array
from scheduling.placement import Placement
from scheduling.roofline import ModelShape
from scheduling.solvers.interface import Problem

LEVELS = (0.3, 0.5, 0.65, 0.8, 0.9, 0.95)
"""Parts of its capacity that a pipeline may be used to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What may be used, and what comes of it; `n` pipelines, `l` lines.

    Attributes:
        used: part of the capacities.
        both: requests a second of each pipeline that serves both phases, `[n]`.
        prefill: likewise of prompts alone, `[n]`.
        decode: likewise of answers alone, `[n]`.
        line: bytes a second of each line, `[l]`.
        good_both: part of the requests in time of each pipeline that serves both phases, `[n]`.
        good_pair: likewise of prefill at the first and decode at the second, `[n, n]`.
    """

    used: float
    both: Array
    prefill: Array
    decode: Array
    line: Array
    good_both: Array
    good_pair: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTable:
    """All that a choice of phases depends on.

    Attributes:
        rate: requests a second that come.
        levels: by use, least first.
        lines: what the KV of several pairs shares.
        pair_bytes: bytes that a request of a pair sends over each line, `[n, n, l]`.
        transfer_s: seconds that a mean prompt's KV takes for each pair, `[n, n]`.
    """

    rate: float
    levels: tuple[Level, ...]
    lines: tuple[Line, ...]
    pair_bytes: Array
    transfer_s: Array

    @property
    def num_pipelines(self) -> int:
        """How many there are to choose for."""
        return len(self.levels[0].both)


def table_of(
    problem: Problem,
    placement: Placement,
    *,
    transport: KvTransport | None = None,
    arrival_cv2: float = 1.0,
) -> PhaseTable:
    """The table of pipelines as they stand; the phases they have now do not count.

    Args:
        problem: cluster, model, requests with their rate, and the latencies to keep.
        placement: the pipelines.
        transport: how KV travels; as it is, if None.
        arrival_cv2: how bursty requests come; 1 is Poisson.

    Raises:
        ValueError: the workload has no rate, or there is no pipeline.
    """
    rate = problem.workload.rate
    if rate is None or not placement.pipelines:
        raise ValueError(
            f"phases: expected a workload with a rate and one pipeline or more, got rate {rate} "
            f"and {len(placement.pipelines)} pipelines"
        )
    transport = transport or KvTransport(ratio=problem.limits.kv_transport_ratio)
    objective, sample = Objective.of(problem), Sample.of(problem.workload)
    pipelines = [
        PipelineLatency(
            objective.forecaster,
            objective.row(pipeline.groups),
            tuple(stage.end - stage.start for stage in pipeline.stages),
            sample,
            arrival_cv2,
        )
        for pipeline in placement.pipelines
    ]
    transfers = [
        [
            transfer_between(one, other, problem.cluster, problem.shape, transport)
            for other in placement.pipelines
        ]
        for one in placement.pipelines
    ]
    lines = tuple(sorted({line for row in transfers for t in row for line in t.line_bytes}, key=sorted))
    room = np.asarray([line_rate(problem.cluster, line) for line in lines])
    each = _Requests(sample, problem, transport, transfers)
    return PhaseTable(
        rate=rate,
        levels=tuple(_level(used, pipelines, each, room * used) for used in LEVELS),
        lines=lines,
        pair_bytes=_pair_bytes(transfers, lines, problem.shape, problem.workload.mean_prompt),
        transfer_s=np.asarray(
            [[t.latency_s + t.token_s * problem.workload.mean_prompt for t in row] for row in transfers]
        ),
    )


class _Requests:
    """What the sample's requests need besides the pipelines: their transfers and latencies."""

    def __init__(
        self,
        sample: Sample,
        problem: Problem,
        transport: KvTransport,
        transfers: list[list[Transfer]],
    ) -> None:
        self.sample, self.tpot_s = sample, problem.goal.tpot_s
        self._overlaps, self._transfers = transport.overlaps, transfers
        sliding = np.asarray([problem.shape.kv_positions(p) for p in sample.prompts])
        self._positions = sliding

    def transfer_s(self, one: int, other: int, prefill_s: Array) -> Array:
        """What each request waits for its KV after its first token, `[R]`."""
        transfer = self._transfers[one][other]
        sent_s = transfer.token_s * self._positions
        if self._overlaps:
            sent_s = np.maximum(sent_s - prefill_s, 0.0)
        return transfer.latency_s + sent_s


def _level(used: float, pipelines: list[PipelineLatency], each: _Requests, line: Array) -> Level:
    num = len(pipelines)
    good_both, good_pair = np.zeros(num), np.zeros((num, num))
    for i, one in enumerate(pipelines):
        if one.capacity["both"] > 0:
            good_both[i] = _good_both(one.service("both", used), each)
        if one.capacity["prefill"] <= 0:
            continue
        first = one.service("prefill", used).first_token
        for j, other in enumerate(pipelines):
            if i != j and other.capacity["decode"] > 0:
                decode = other.service("decode", used)
                sent_s = each.transfer_s(i, j, one.prefill_s)
                good_pair[i, j] = _good_pair(first, decode, sent_s, each)
    return Level(
        used=used,
        both=np.asarray([used * p.capacity["both"] for p in pipelines]),
        prefill=np.asarray([used * p.capacity["prefill"] for p in pipelines]),
        decode=np.asarray([used * p.capacity["decode"] for p in pipelines]),
        line=line,
        good_both=good_both,
        good_pair=good_pair,
    )


def _good_both(service: PhaseService, each: _Requests) -> float:
    if each.tpot_s is not None and service.cycle_s > each.tpot_s:
        return float((service.first_token * (each.sample.outputs <= 1)).mean())
    return float(service.first_token.mean())


def _good_pair(first: Array, decode: PhaseService, sent_s: Array, each: _Requests) -> float:
    """The second token and all after it must make up for the hand-off."""
    if each.tpot_s is None:
        return float(first.mean())
    steps = each.sample.outputs - 1
    kept = decode.wait.within(steps * (each.tpot_s - decode.cycle_s) - sent_s)
    return float((first * np.where(steps <= 0, 1.0, kept)).mean())


def _pair_bytes(
    transfers: list[list[Transfer]], lines: tuple[Line, ...], shape: ModelShape, mean_prompt: float
) -> Array:
    num = len(transfers)
    found = np.zeros((num, num, len(lines)))
    positions = shape.kv_positions(mean_prompt)
    for i, row in enumerate(transfers):
        for j, transfer in enumerate(row):
            for line, num_bytes in transfer.line_bytes.items():
                found[i, j, lines.index(line)] = num_bytes * positions
    return found
