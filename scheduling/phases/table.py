"""What each choice of phases can serve, as a table: capacities, parts in time, room on lines.

The one idea: a choice among given pipelines needs no more than numbers, computed once: for each
pipeline its capacity in each phase, for each pair the part of requests in time, and that at several
*levels* of use, since a queue is longer the fuller a pipeline is. Whoever searches never sees a
device; tests can draw tables at random.

Dims: `n` pipelines, `U` levels, `l` lines, `R` requests of the workload's sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scheduling.objective import Objective
from scheduling.phases.latency import LEVELS, PipelineLatency, Sample
from scheduling.phases.transfer import (
    KvTransport,
    Line,
    Transfer,
    line_rate,
    transfer_between,
)
from scheduling.phases.wait import Array
from scheduling.placement import PHASES, Phase, Placement
from scheduling.solvers.interface import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTable:
    """All that a choice of phases depends on.

    Attributes:
        rate: requests a second that come.
        levels: parts of their capacity that pipelines may be used to, least first, `[U]`.
        both: requests a second of each pipeline that serves both phases, `[n]`.
        prefill: likewise of prompts alone, `[n]`.
        decode: likewise of answers alone, `[n]`.
        good_both: part of the requests in time of each pipeline that serves both, `[U, n]`.
        good_pair: likewise of prefill at one level and pipeline and decode at another,
            `[U, U, n, n]`.
        pair_room: requests a second that each pair's own lines carry, `[n, n]`.
        line_room: bytes a second of each line that several pairs share, `[l]`.
        line_bytes: bytes that a request of a pair sends over each of these, `[n, n, l]`.
    """

    rate: float
    levels: Array
    both: Array
    prefill: Array
    decode: Array
    good_both: Array
    good_pair: Array
    pair_room: Array
    line_room: Array
    line_bytes: Array

    @property
    def num_pipelines(self) -> int:
        """How many there are to choose for."""
        return len(self.both)


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
        arrival_cv2: how bursty requests come, before they are dealt out evenly; 1 is Poisson.

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
    sample = Sample.of(problem.workload)
    pipelines = _latencies(problem, placement, sample, arrival_cv2)
    transfers = [
        [
            transfer_between(one, other, problem.cluster, problem.shape, transport)
            for other in placement.pipelines
        ]
        for one in placement.pipelines
    ]
    capacities = {
        phase: np.asarray([p.capacity[phase] for p in pipelines])
        for phase in ("both", "prefill", "decode")
    }
    pair_room, line_room, line_bytes = _lines(problem, transfers)
    return PhaseTable(
        rate=rate,
        levels=np.asarray(LEVELS),
        both=capacities["both"],
        prefill=capacities["prefill"],
        decode=capacities["decode"],
        good_both=np.stack([p.good_both for p in pipelines], axis=1),
        good_pair=_good_pairs(pipelines, transfers, problem, sample, transport.overlaps),
        pair_room=pair_room,
        line_room=line_room,
        line_bytes=line_bytes,
    )


def _latencies(
    problem: Problem, placement: Placement, sample: Sample, arrival_cv2: float
) -> list[PipelineLatency]:
    """Each pipeline's; those of equal devices and layers share one."""
    objective = Objective.of(problem)
    known: dict[object, PipelineLatency] = {}
    found = []
    for pipeline in placement.pipelines:
        row = objective.row(pipeline.groups)
        layers = tuple(stage.end - stage.start for stage in pipeline.stages)
        if (row, layers) not in known:
            known[row, layers] = PipelineLatency(objective.forecaster, row, layers, sample)
        found.append(known[row, layers])
    totals = {phase: sum(each.capacity[phase] for each in found) for phase in PHASES}
    for each in known.values():
        each.load({phase: arrival_cv2 * _share(each, phase, totals[phase]) for phase in PHASES})
    return found


def _share(pipeline: PipelineLatency, phase: Phase, total: float) -> float:
    """About how much of the requests a pipeline gets, where each phase alone has half of them.

    Requests that are dealt out evenly come to one of `k` pipelines as evenly as every k-th does:
    a k-th as bursty.
    """
    share = pipeline.capacity[phase] / total if total > 0 else 1.0
    return min(1.0, share * (1 if phase == "both" else 2))


def _good_pairs(
    pipelines: Sequence[PipelineLatency],
    transfers: Sequence[Sequence[Transfer]],
    problem: Problem,
    sample: Sample,
    overlaps: bool,
) -> Array:
    """Part of the requests whose first token and whose others are in time, `[U, U, n, n]`.

    The second token and all after it must make up for the hand-off.
    """
    num, used = len(pipelines), len(LEVELS)
    positions = np.asarray([problem.shape.kv_positions(p) for p in sample.prompts])
    found = np.zeros((used, used, num, num))
    first = np.stack([p.first_token for p in pipelines])  # [n, U, R]
    for j, taker in enumerate(pipelines):
        if taker.capacity["decode"] <= 0:
            continue
        sent = np.stack([t[j].latency_s + t[j].token_s * positions for t in transfers])  # [n, R]
        if overlaps:
            sent = np.maximum(sent - np.stack([p.prefill_s for p in pipelines]), 0.0)
        kept = taker.kept_after(sent)  # [U, n, R]
        found[:, :, :, j] = np.einsum("iur,vir->uvi", first, kept) / len(sample.prompts)
    able = np.asarray([p.capacity["prefill"] > 0 for p in pipelines])
    found *= able[:, None] * (1.0 - np.eye(num))
    return np.clip(found, 0.0, 1.0)


def _lines(problem: Problem, transfers: Sequence[Sequence[Transfer]]) -> tuple[Array, Array, Array]:
    """Room of the lines that one pair has alone, and of those that are shared."""
    num = len(transfers)
    users: dict[Line, dict[tuple[int, int], float]] = {}
    positions = problem.shape.kv_positions(problem.workload.mean_prompt)
    for i, row in enumerate(transfers):
        for j, transfer in enumerate(row):
            for line, num_bytes in transfer.line_bytes.items():
                if i != j:
                    users.setdefault(line, {})[i, j] = num_bytes * positions
    pair_room = np.full((num, num), np.inf)
    shared = []
    for line in sorted(users, key=sorted):
        pairs, rate = users[line], line_rate(problem.cluster, line)
        if len({frozenset(pair) for pair in pairs}) > 1:
            shared.append((pairs, rate))
            continue
        for pair, num_bytes in pairs.items():  # of the two ways, a choice uses one at most
            pair_room[pair] = min(pair_room[pair], rate / num_bytes)
    line_bytes = np.zeros((num, num, len(shared)))
    for at, (pairs, _) in enumerate(shared):
        for pair, num_bytes in pairs.items():
            line_bytes[(*pair, at)] = num_bytes
    return pair_room, np.asarray([rate for _, rate in shared], np.float64), line_bytes
