"""The linear and integer programmes behind `scheduling.solvers.rent`.

The one idea: variables are the shares x_cw, one after another by configuration, and then the
replicas y_c; every programme is the same rows with the makespan either fixed or a last variable.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from scheduling.solvers.interface import Budget
from scheduling.solvers.rent_problem import RentPlan, RentProblem

Floats = npt.NDArray[np.float64]
_SLACK = 1e-9
_TIME_LIMIT_REACHED = 1
_INFEASIBLE = 2


class Programme:
    """Programmes over one problem; C configurations, W types of request with any demand."""

    def __init__(self, problem: RentProblem) -> None:
        """Lay out the rows that all programmes share."""
        self._problem = problem
        self._types = [w for w, requests in enumerate(problem.demand) if requests > 0]
        rates = np.array([c.requests_per_s for c in problem.configurations], dtype=float)
        self._rates = rates.reshape(-1, len(problem.demand))[:, self._types]
        self._demand = np.array(problem.demand, dtype=float)[self._types]
        with np.errstate(divide="ignore"):
            self._busy = np.where(self._rates > 0, self._demand / self._rates, 0.0)
        prices = [problem.price(c) for c in problem.configurations]
        devices = np.array([c.devices for c in problem.configurations], dtype=float)
        devices = devices.reshape(-1, len(problem.prices))
        self._stock = np.vstack([devices.T, np.array(prices)])
        self._limits = np.array([*problem.available, problem.budget_per_hour], dtype=float)
        self._limits *= 1 + _SLACK
        taken = devices > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            fits = np.where(taken, np.array(problem.available) / devices, np.inf)
        self._most = np.floor(np.min(fits, axis=1, initial=np.inf) + _SLACK)
        affordable = problem.budget_per_hour / np.maximum(prices, 1e-12)
        self._most = np.minimum(self._most, np.floor(affordable * (1 + _SLACK)))
        self._most[~np.any(self._rates > 0, axis=1)] = 0

    @property
    def _shape(self) -> tuple[int, int]:
        return self._busy.shape[0], self._busy.shape[1]

    def longest_s(self) -> float:
        """A makespan that any replicas keep, one of which can serve each type of request."""
        return float(np.sum(np.max(self._busy, axis=0, initial=0.0)))

    def relaxed_makespan_s(self) -> float:
        """Seconds that no plan undercuts: replicas may be fractions; 0 where it cannot tell.

        With z = T y the relaxation is linear: limits grow with T, and T is what is least.
        """
        num, types = self._shape
        cost = np.zeros(num * types + num + 1)
        cost[-1] = 1.0
        stock = np.hstack([np.zeros((len(self._limits), num * types)), self._stock])
        stock = np.hstack([stock, -self._limits[:, np.newaxis]])
        capacity = np.hstack([self._capacity(1.0), np.zeros((num, 1))])
        rows = np.vstack([capacity, stock])
        result = linprog(
            cost,
            A_ub=rows,
            b_ub=np.zeros(len(rows)),
            A_eq=np.hstack([self._whole(), np.zeros((types, num + 1))]),
            b_eq=np.ones(types),
            bounds=[*self._share_bounds(), *[(0, None)] * (num + 1)],
        )
        return float(result.x[-1]) * (1 - _SLACK) if result.success else 0.0

    def at_most(self, makespan_s: float, budget: Budget | None) -> tuple[RentPlan | None, bool]:
        """A plan within that makespan if one is found, and whether the answer is proven.

        The plan's own makespan is the least of its replicas, which may be far below.
        """
        num, types = self._shape
        if num == 0 or types == 0:
            return None, True
        rows = [
            LinearConstraint(np.hstack([self._whole(), np.zeros((types, num))]), 1.0, 1.0),
            LinearConstraint(self._capacity(makespan_s) / makespan_s, ub=0.0),
            LinearConstraint(self._held(), ub=0.0),
            LinearConstraint(
                np.hstack([np.zeros((len(self._limits), num * types)), self._stock]),
                ub=self._limits,
            ),
        ]
        high = [limit for _, limit in self._share_bounds()]
        result = milp(
            np.zeros(num * types + num),
            constraints=rows,
            bounds=Bounds(0, np.array([*high, *self._most])),
            integrality=np.array([0] * (num * types) + [1] * num),
            options={} if budget is None else {"time_limit": budget.left_s},
        )
        if result.x is None:
            return None, result.status == _INFEASIBLE
        return self.best_shares(np.rint(result.x[num * types :])), True

    def best_shares(self, replicas: Floats) -> RentPlan | None:
        """The plan of least makespan on given replicas; None if they cannot serve all types."""
        num, types = self._shape
        cost = np.zeros(num * types + 1)
        cost[-1] = 1.0
        capacity = self._capacity(0.0)[:, : num * types]
        result = linprog(
            cost,
            A_ub=np.hstack([capacity, -replicas[:, np.newaxis]]),
            b_ub=np.zeros(num),
            A_eq=np.hstack([self._whole(), np.zeros((types, 1))]),
            b_eq=np.ones(types),
            bounds=[*self._share_bounds(replicas), (0, None)],
        )
        return self.plan(replicas, result.x[:-1].reshape(num, types)) if result.success else None

    def plan(self, replicas: Floats, shares: Floats) -> RentPlan:
        """The plan of these replicas and shares, with the makespan that they have."""
        full = np.zeros((len(replicas), len(self._problem.demand)))
        full[:, self._types] = np.clip(shares, 0.0, 1.0)
        busy_s = np.sum(np.clip(shares, 0.0, 1.0) * self._busy, axis=1)
        used = replicas > 0
        return RentPlan(
            replicas=tuple(int(count) for count in replicas),
            shares=tuple(tuple(float(share) for share in row) for row in full),
            makespan_s=float(np.max(busy_s[used] / replicas[used], initial=0.0)),
            cost_per_hour=float(self._stock[-1] @ replicas),
        )

    def _whole(self) -> Floats:
        """Rows that say each type of request is served whole. Shapes: [W, C * W]."""
        num, types = self._shape
        return np.tile(np.eye(types), (1, num))

    def _capacity(self, makespan_s: float) -> Floats:
        """Rows that say each configuration's replicas are busy at most that long."""
        num, types = self._shape
        rows = np.zeros((num, num * types + num))
        for c in range(num):
            rows[c, c * types : (c + 1) * types] = self._busy[c]
            rows[c, num * types + c] = -makespan_s
        return rows

    def _held(self) -> Floats:
        """Rows that say a share goes only where there is a replica."""
        num, types = self._shape
        rows = np.zeros((num * types, num * types + num))
        rows[:, : num * types] = np.eye(num * types)
        for c in range(num):
            rows[c * types : (c + 1) * types, num * types + c] = -1.0
        return rows

    def _share_bounds(self, replicas: Any = None) -> list[tuple[float, float]]:
        can = self._rates > 0
        if replicas is not None:
            can = can & (replicas > 0)[:, np.newaxis]
        return [(0.0, float(one)) for one in can.ravel()]
