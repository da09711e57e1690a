"""What routers are told of each pipeline's speed: times fitted to its devices and links. Pure.

The one idea: a pipeline's fit depends on its own stages and links alone, so it is computed when
these change, or what is known of them, and kept. A pipeline of which too little is known has none.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

from actors.situation import ends_of
from scheduling.batch_times import BatchTimes
from scheduling.cluster import WITHIN_NODE, WITHIN_SITE
from scheduling.errors import Infeasible
from scheduling.link_rate import LinkRate
from scheduling.live import Chain, MeasuredDevice, Situation, merged
from scheduling.nearness import rounded
from scheduling.pipeline_fit import FittedStage, fit_stages
from scheduling.split import StageDevice

Row = tuple[tuple[FittedStage, ...], tuple[LinkRate, ...]]


class Capacities:
    """The batch times of each pipeline, each computed once for what is known."""

    def __init__(self) -> None:
        self._known: dict[Row, BatchTimes | None] = {}
        self._made_for: object = None

    def of(self, situation: Situation, pipelines: Sequence[str]) -> dict[str, BatchTimes]:
        """Of the pipelines of a situation, whose ids are given in its layout's order.

        Complexity: O(stages), and a fit for each pipeline that is new.
        """
        if self._made_for != (made_for := (situation.shape, situation.limits)):
            self._known, self._made_for = {}, made_for
        rows = _rows(situation)
        self._known = {row: self._fit(row, situation) for row in rows if row is not None}
        found = {
            name: self._known[row]
            for name, row in zip(pipelines, rows, strict=True)
            if row is not None
        }
        return {name: times for name, times in found.items() if times is not None}

    def _fit(self, row: Row, situation: Situation) -> BatchTimes | None:
        if row in self._known:
            return self._known[row]
        stages, hops = row
        try:
            return fit_stages(stages, hops, situation.shape, situation.limits)
        except Infeasible:
            return None


def _rows(situation: Situation) -> list[Row | None]:
    """Stages and links of each pipeline; None where something of it was not measured."""
    layout = merged(situation.layout)
    shares = Counter((s.node, s.device) for chain in layout for s in chain)
    devices = {(d.node, d.device): d for d in situation.devices}
    links = {ends_of(one, other): rate for one, other, rate in situation.links}
    return [_row(chain, devices, shares, links) for chain in layout]


def _row(
    chain: Chain,
    devices: Mapping[tuple[str, str], MeasuredDevice],
    shares: Mapping[tuple[str, str], int],
    links: Mapping[tuple[str, str], LinkRate],
) -> Row | None:
    stages = []
    for stage in chain:
        place = (stage.node, stage.device)
        device = devices.get(place)
        if device is None or not (device.flops_per_s and device.bytes_per_s):
            return None
        stages.append(FittedStage(_share_of(device, shares[place]), stage.start, stage.end))
    hops = tuple(
        WITHIN_NODE
        if one.node == other.node
        else links.get(ends_of(one.node, other.node), WITHIN_SITE)
        for one, other in pairwise(chain)
    )
    return tuple(stages), hops


def _share_of(device: MeasuredDevice, share: int) -> StageDevice:
    """What is left of a device for one of the stages that share it; near rates count as equal."""
    return StageDevice(
        memory_bytes=device.memory_bytes // share,
        flops_per_s=rounded(device.flops_per_s) / share,
        bytes_per_s=rounded(device.bytes_per_s) / share,
        layer_overhead_s=rounded(device.layer_overhead_s),
        step_overhead_s=rounded(device.step_overhead_s),
    )
