"""How to split a model's layers over a given chain of machines, on ShuntServe's estimator.

The one idea: fix the batch. Then each stage's prefill and decode times are affine in its layers,
the memory sets the most layers it can hold, and the least latency is a search over one threshold.
A bound on every batch, from the two phases taken apart, orders the scan and ends it early.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scheduling.shuntserve.catalogue import InstanceType
from scheduling.shuntserve.estimator import Estimator, Stage

Floats = npt.NDArray[np.float64]
_TINY = 1e-12


class _Phase(NamedTuple):
    """Seconds of a phase on each stage: `layer_s` for each layer, and `end_s`.

    Shapes: [..., S], S stages; for many batches at once [G, S].
    """

    layer_s: Floats
    end_s: Floats

    def most_layers(self, limit_s: Floats | float) -> Floats:
        """The layers that each stage can take in that time."""
        return np.floor((limit_s - self.end_s) / self.layer_s + 1e-9)


class _Batch(NamedTuple):
    """A batch of `size` sequences on a chain: its costs, and the layers that memory allows."""

    size: int
    prefill: _Phase
    decode: _Phase
    room: Floats


class ChainSplitter:
    """Splits chains of machines; remembers what batches cost from one chain to the next."""

    def __init__(self, estimator: Estimator) -> None:
        """Take the estimator, which knows the model and the lengths."""
        self._estimator = estimator
        self._costs: dict[tuple[InstanceType, int, int, bool], tuple[float, ...]] = {}

    def best(
        self, chain: tuple[InstanceType, ...], *, floor: float
    ) -> tuple[tuple[int, ...] | None, float]:
        """The split with the most predicted throughput, if it is more than `floor`, and a bound.

        Args:
            chain: the machines, in order.
            floor: a throughput that is known already; batches that cannot pass it are skipped.

        Returns:
            Layers of each stage, or None, and a throughput (requests/s) that no split surpasses.
            The bound is `floor` when no split can pass it.
        """
        batches = self._batches(chain)
        best: tuple[int, ...] | None = None
        reached = bound = floor
        for limit, batch in batches:
            if limit <= reached:
                break
            layers, latency_s = self._least_latency(batch)
            bound = max(bound, batch.size / latency_s * (1 + _TINY))
            stages = [Stage(*pair) for pair in zip(chain, layers, strict=True)]
            rate = self._estimator.estimate(stages).requests_per_s
            if rate > reached:
                best, reached = layers, rate
        return best, max(bound, reached)

    def bound(self, chain: tuple[InstanceType, ...]) -> float:
        """A throughput that no order of these machines surpasses; 0 where the model cannot fit.

        It takes every stage at its cheapest: neither embedding nor output matrix, or no send.
        """
        batches = self._batches(chain, ends=False)
        return batches[0][0] if batches else 0.0

    def _batches(
        self, chain: tuple[InstanceType, ...], *, ends: bool = True
    ) -> list[tuple[float, _Batch]]:
        """Every batch that fits, with its bound on throughput, best bound first."""
        num_layers = self._estimator.shape.num_layers
        rooms = self._rooms(chain, ends=ends)
        if not len(rooms) or num_layers < len(chain):
            return []
        costs = np.array([self._chain_cost(chain, i + 1, ends=ends) for i in range(len(rooms))])
        prefill = _Phase(costs[..., 0], costs[..., 1])
        decode = _Phase(costs[..., 2], costs[..., 3])
        prefill_s = _least_time(prefill, rooms, num_layers)
        decode_s = _least_time(decode, rooms, num_layers)
        found = []
        for i, room in enumerate(rooms):
            batch = _Batch(
                i + 1,
                _Phase(prefill.layer_s[i], prefill.end_s[i]),
                _Phase(decode.layer_s[i], decode.end_s[i]),
                room,
            )
            latency_s = self._latency_s(batch, float(prefill_s[i]), float(decode_s[i]))
            found.append(((i + 1) / latency_s, batch))
        return sorted(found, key=lambda pair: -pair[0])

    def _rooms(self, chain: tuple[InstanceType, ...], *, ends: bool) -> Floats:
        """The layers each stage can hold, for batches from 1 on while they hold the model.

        Shapes: [G, S].
        """
        estimator = self._estimator
        free, layer, sequence = np.array(
            [
                estimator.memory(kind, first=ends and i == 0, last=ends and i == len(chain) - 1)
                for i, kind in enumerate(chain)
            ]
        ).T
        # The stage with one layer has the most room: no batch is larger.
        most = int(max(0.0, np.max((free - layer) / sequence)))
        sizes = np.arange(1, most + 1)[:, np.newaxis]
        rooms = np.maximum(0.0, np.floor(free / (layer + sizes * sequence) + 1e-9))
        fits = (rooms.sum(axis=1) >= estimator.shape.num_layers) & (rooms.min(axis=1) >= 1)
        return np.asarray(rooms[: int(fits.sum())])  # rooms only shrink with the batch

    def _chain_cost(
        self, chain: tuple[InstanceType, ...], size: int, *, ends: bool
    ) -> list[tuple[float, ...]]:
        num = len(chain)
        inner = [self._cost(kind, size, num, last=False) for kind in chain]
        if ends:
            return [*inner[:-1], self._cost(chain[-1], size, num, last=True)]
        outer = [self._cost(kind, size, num, last=True) for kind in chain]
        return [tuple(map(min, *pair)) for pair in zip(inner, outer, strict=True)]

    def _cost(
        self, kind: InstanceType, size: int, num_stages: int, *, last: bool
    ) -> tuple[float, ...]:
        """Prefill seconds a layer and at the end of the stage, and the same of decode."""
        key = (kind, size, num_stages, last)
        if key not in self._costs:
            times = self._estimator.times
            cost: list[float] = []
            phases = self._estimator.microbatches(size, num_stages)
            for decode, split in enumerate(phases):
                flag = bool(decode)
                cost.append(sum(n * times.layer_s(kind, b, decode=flag) for b, n in split))
                cost.append(sum(n * times.end_s(kind, b, decode=flag, last=last) for b, n in split))
            self._costs[key] = tuple(cost)
        return self._costs[key]

    def _latency_s(self, batch: _Batch, prefill_s: float, decode_s: float) -> float:
        num_stages = len(batch.room)
        depth = min(batch.size, num_stages)
        fill_s = self._estimator.fill_s(batch.size, depth, prefill_s=prefill_s, decode_s=decode_s)
        return (prefill_s + decode_s) * (num_stages // depth) + fill_s

    def _least_latency(self, batch: _Batch) -> tuple[tuple[int, ...], float]:
        """The split of least latency for this batch, by trying every useful prefill time."""
        num_layers = self._estimator.shape.num_layers
        least_decode_s = float(
            _least_time(_one(batch.decode), batch.room[np.newaxis], num_layers)[0]
        )
        best_s, best = math.inf, batch.room
        for prefill_s in self._prefill_times(batch, num_layers):
            if self._latency_s(batch, prefill_s, least_decode_s) >= best_s:
                break
            room = np.minimum(batch.room, batch.prefill.most_layers(prefill_s))
            decode_s = float(_least_time(_one(batch.decode), room[np.newaxis], num_layers)[0])
            latency_s = self._latency_s(batch, prefill_s, decode_s)
            if latency_s < best_s:
                best_s = latency_s
                best = np.minimum(room, batch.decode.most_layers(decode_s * (1 + _TINY)))
        return _trim(best, num_layers), best_s

    def _prefill_times(self, batch: _Batch, num_layers: int) -> list[float]:
        """The times at which some stage can take one layer more, from the least that fits."""
        least_s = float(_least_time(_one(batch.prefill), batch.room[np.newaxis], num_layers)[0])
        steps = {
            float(layer_s * n + end_s)
            for layer_s, end_s, room in zip(*batch.prefill, batch.room, strict=True)
            for n in range(1, int(min(room, num_layers)) + 1)
        }
        return sorted(step for step in steps if step >= least_s * (1 - _TINY))


def _one(phase: _Phase) -> _Phase:
    return _Phase(phase.layer_s[np.newaxis], phase.end_s[np.newaxis])


def _least_time(phase: _Phase, rooms: Floats, num_layers: int) -> Floats:
    """The least time in which each batch's stages can take all layers, one or more each.

    It is the slowest stage's of the best split, found by bisection and then made exact.

    Shapes: rooms [G, S] -> [G].
    """
    low = np.max(phase.layer_s + phase.end_s, axis=1)
    high = np.max(phase.layer_s * np.minimum(rooms, num_layers) + phase.end_s, axis=1)
    high = np.maximum(low, high)
    taken = np.minimum(rooms, phase.most_layers(low[:, np.newaxis]))
    high = np.where(taken.sum(axis=1) >= num_layers, low, high)
    for _ in range(48):
        middle = (low + high) / 2
        taken = np.minimum(rooms, phase.most_layers(middle[:, np.newaxis]))
        enough = taken.sum(axis=1) >= num_layers
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    taken = np.minimum(rooms, phase.most_layers(high[:, np.newaxis]))
    return np.asarray(np.max(taken * phase.layer_s + phase.end_s, axis=1))


def _trim(most: Floats, num_layers: int) -> tuple[int, ...]:
    """Take layers off the fullest stages until they add up."""
    layers = [int(count) for count in most]
    while sum(layers) > num_layers:
        layers[layers.index(max(layers))] -= 1
    return tuple(layers)
