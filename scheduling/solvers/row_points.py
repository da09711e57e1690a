"""The operating points of rows: what a group of each class holds at each, and what a row is worth.

The one idea: at an operating point (steps in flight, size of a step, seconds `tau` that no stage
exceeds) a group of each class holds a known number of layers, and the row's rate is known too.
Links, embedding and head are taken as free, the steps in flight are rounded down where memory is
counted and `tau` is rounded down where rate is counted, so that a point is worth no less than what
the objective says of any row there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from scheduling.forecast import kv_tokens
from scheduling.goal import Goal
from scheduling.inventory import GroupClass
from scheduling.placement import Phase
from scheduling.solvers.row_knapsack import Integers, most_layers
from scheduling.stage_cost import Array, CostTable

_FLIGHT_STEP = 1.12


@dataclass(frozen=True, slots=True)
class Points:
    """Operating points: layers that a group of each class holds `[C, Q]`, values, most groups."""

    layers: npt.NDArray[np.int16]
    values: Array
    most_groups: Integers


@dataclass(frozen=True, slots=True)
class Resolution:
    """How finely points are looked at: every so many sizes, and from `tau` to `tau`."""

    sizes: int
    tau_step: float


FINE = Resolution(1, 1.02)
COARSE = Resolution(2, 1.06)
"""Enough to find good rows, not to prove them best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointGrid:
    """Which points there are for rows of some classes in one phase.

    Attributes:
        table: costs of all groups.
        goal: whose TPOT no cycle may exceed.
        phase: that the rows serve.
        classes: of groups, `C` of them.
        limits: groups of each class, `[C]`.
        spare_layers: layers beyond the model's that are told apart, for embedding and head.
        crossed_bytes_per_s: of a link that every row crosses: its steps are no faster.
    """

    table: CostTable
    goal: Goal
    phase: Phase
    classes: Sequence[GroupClass]
    limits: Integers
    spare_layers: int
    crossed_bytes_per_s: float

    @property
    def num_layers(self) -> int:
        """Of the model."""
        return self.table.shape.num_layers

    def points(self, resolution: Resolution) -> Points:
        """All points that can hold the model, as finely as asked for."""
        flights = self._flights()
        ends = [*(flight - 1 for flight in flights[1:]), flights[-1]]
        parts = [self._at(*span, resolution) for span in zip(flights, ends, strict=True)]
        return Points(
            np.concatenate([part.layers for part in parts], axis=1),
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.most_groups for part in parts]),
        )

    def _flights(self) -> list[int]:
        """Steps in flight, each standing for all up to the next."""
        most_stages = min(self.num_layers, int(self.limits.sum()))
        most, flights = max(self.table.in_flight(most_stages)), [1]
        while flights[-1] < most:
            flights.append(max(flights[-1] + 1, int(flights[-1] * _FLIGHT_STEP)))
        return flights

    def _at(self, flight: int, last: int, resolution: Resolution) -> Points:
        """Points with `flight` to `last` steps in flight: sizes of step times `tau`s."""
        table, phase, step = self.table, self.phase, resolution.tau_step
        grid = table.grid(phase)
        some = slice(None, None, resolution.sizes)
        sequences, chunk = grid.sequences[some], grid.chunk[some]
        costs = [table.cost(c.group, phase) for c in self.classes]
        allowed = flight * sequences <= table.limits.max_running * (1 + 1e-9)
        layer_s = np.stack([cost.layer_s[some] for cost in costs])
        spread = float((layer_s.max(axis=0) / layer_s.min(axis=0)).max())
        most = self.num_layers + self.spare_layers
        crossed_s = grid.tokens[some] * table.token_bytes / self.crossed_bytes_per_s
        widest = max(most * spread, float((crossed_s / layer_s.min(axis=0)).max()))
        num_taus = ceil(np.log(widest) / np.log(step)) + 1
        tau = layer_s.min(axis=0)[:, None] * step ** np.arange(num_taus)[None, :]
        tokens = kv_tokens(table, phase, np.full_like(sequences, flight), sequences, chunk)
        fits = np.stack([table.max_layers(cost.memory_bytes, 0.0, tokens) for cost in costs])
        # what holds up to the next tau counts as held at this one
        timely = np.floor(tau[None] * step / layer_s[:, :, None] + 1e-9)
        layers = np.minimum(np.minimum(timely, fits[:, :, None]), most).astype(np.int16)
        values = grid.requests[some, None] / tau * self._best_availability()
        keep = allowed[:, None] & (layers.max(axis=0) > 0) & (tau * step >= crossed_s[:, None])
        if self.goal.tpot_s is not None and phase != "prefill":
            keep &= flight * tau <= self.goal.tpot_s
        best = layers.max(axis=0).astype(np.int64)
        keep &= best * min(last, int(self.limits.sum())) >= self.num_layers
        kept = layers[:, keep]
        groups = np.full(kept.shape[1], last, np.int64)
        room = most_layers(kept, np.minimum(self.limits, self.num_layers), groups)
        holds = room >= self.num_layers
        return Points(kept[:, holds], values[keep][holds], groups[holds])

    def _best_availability(self) -> float:
        return max(c.device.availability for c in self.classes)
