"""A mixed-integer linear program as it is put together, and HiGHS to solve it."""

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from scheduling.solvers.interface import Budget
from scheduling.stage_cost import Array

_NODE_LIMIT = 200_000


class Program:
    """Rows of a program as they are added, and HiGHS to solve it."""

    def __init__(self, num_variables: int) -> None:
        self.num_variables = num_variables
        self._rows: list[Array] = []
        self._low: list[float] = []
        self._high: list[float] = []

    def add(self, row: Array, low: float, high: float) -> None:
        """Ask that a row of the variables lies between two numbers."""
        self._rows.append(row)
        self._low.append(low)
        self._high.append(high)

    def maximise(
        self, gain: Array, integral: Array, upper: Array, budget: Budget
    ) -> tuple[Array, float] | None:
        """The best point found and the bound; None if nothing was found in time."""
        limit = {"time_limit": max(budget.left_s, 1e-3), "node_limit": _NODE_LIMIT}
        found = milp(
            -gain,
            integrality=integral,
            bounds=Bounds(np.zeros(len(gain)), upper),
            constraints=LinearConstraint(
                np.stack(self._rows), np.asarray(self._low), np.asarray(self._high)
            ),
            options={**limit, "mip_rel_gap": 1e-9},
        )
        if found.x is None:
            return None
        bound = found.mip_dual_bound
        return found.x, float("inf") if bound is None else -float(bound)
