"""Phases in fractions: one linear program, rounded, for a search to begin from.

The one idea: if a pipeline could serve each phase with a part of itself, phases and routing would
be one linear program. What a pipeline would serve most of is a good guess of its phase.
"""

import numpy as np
from scipy.optimize import linprog

from scheduling.phases.bound import Phases, decoded
from scheduling.phases.table import PhaseTable
from scheduling.placement import PHASES


def rounded_phases(table: PhaseTable, level: int) -> Phases:
    """The phase that each pipeline has the largest part of, at one level of use.

    Variables are shares of the requests for each pipeline alone and each pair, and what part of
    itself a pipeline gives to each is share by room; the parts of one sum to 1 at most.
    """
    num, used = table.num_pipelines, float(table.levels[level])
    able = [(i, i) for i in range(num) if table.both[i] > 0]
    able += [
        (i, j)
        for i in range(num)
        for j in range(num)
        if i != j and table.prefill[i] > 0 and table.decode[j] > 0
    ]
    parts = np.zeros((num, len(PHASES), len(able)))
    goods, most = [], []
    for column, (i, j) in enumerate(able):
        if i == j:
            parts[i, 0, column] = table.rate / (used * table.both[i])
            goods.append(table.good_both[level, i])
            most.append(1.0)
        else:
            parts[i, 1, column] = table.rate / (used * table.prefill[i])
            parts[j, 2, column] = table.rate / (used * table.decode[j])
            goods.append(table.good_pair[level, level, i, j])
            most.append(min(1.0, used * float(table.pair_room[i, j]) / table.rate))
    if not able:
        return decoded(np.zeros(num, np.int64))
    rows = np.vstack([parts.sum(axis=1), np.ones(len(able))])
    found = linprog(
        -np.asarray(goods),
        A_ub=rows,
        b_ub=np.ones(num + 1),
        bounds=np.column_stack([np.zeros(len(able)), most]),
    )
    return decoded((parts @ found.x).argmax(axis=1))
