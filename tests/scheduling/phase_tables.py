"""Tables of phases drawn at random, and what the best choice is by looking at all of them."""

from itertools import product

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import block_diag, csr_array

from scheduling.phases.bound import Phases
from scheduling.phases.table import PhaseTable
from scheduling.placement import PHASES

LEAST_GAIN = 5e-3


def drawn_table(
    rng: np.random.Generator, num: int, *, levels: tuple[float, ...] = (0.6, 0.9)
) -> PhaseTable:
    """Any table: capacities around a third of what comes, parts in time that fall with use."""
    used, lines = len(levels), int(rng.integers(0, 3))
    falls = np.linspace(1.0, rng.uniform(0.3, 1.0), used)
    good_pair = rng.uniform(0, 1, (num, num)) * np.minimum.outer(falls, falls)[:, :, None, None]
    return PhaseTable(
        rate=float(rng.uniform(1, 5) * num),
        levels=np.asarray(levels),
        both=rng.uniform(0, 4, num) * (rng.random(num) < 0.9),
        prefill=rng.uniform(0, 8, num) * (rng.random(num) < 0.9),
        decode=rng.uniform(0, 12, num) * (rng.random(num) < 0.9),
        good_both=rng.uniform(0, 1, num) * falls[:, None],
        good_pair=good_pair * (1 - np.eye(num)),
        pair_room=np.where(rng.random((num, num)) < 0.2, rng.uniform(0, 4, (num, num)), np.inf),
        line_room=rng.uniform(1, 10, lines),
        line_bytes=rng.uniform(0, 3, (num, num, lines)) * (rng.random((num, num, lines)) < 0.4),
    )


def value(table: PhaseTable, phases: Phases, attainment: float) -> float:
    """What a choice counts for: less where pipelines are parted."""
    apart = sum(phase != "both" for phase in phases)
    return attainment - LEAST_GAIN * apart / table.num_pipelines


def best_value(table: PhaseTable) -> float:
    """The best of all choices at all levels, each by its own linear program, solved as one."""
    cases = list(product(product(PHASES, repeat=table.num_pipelines), range(len(table.levels))))
    blocks = [_program(table, phases, level) for phases, level in cases]
    matrix = block_diag([rows for _, rows, _, _ in blocks], format="csr")
    found = linprog(
        -np.concatenate([good for good, *_ in blocks]),
        A_ub=csr_array(matrix),
        b_ub=np.concatenate([ends for _, _, ends, _ in blocks]),
        bounds=np.concatenate([bounds for *_, bounds in blocks]),
    )
    best, at = -np.inf, 0
    for (phases, _), (good, *_) in zip(cases, blocks, strict=True):
        attainment = float(good @ found.x[at : at + len(good)])
        best, at = max(best, value(table, phases, attainment)), at + len(good)
    return best


def _program(
    table: PhaseTable, phases: Phases, level: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Gains, rows and ends, and bounds, of the transportation problem; one idle way at least."""
    num, used = table.num_pipelines, table.levels
    given = sum(table.prefill[i] * used[level] for i in range(num) if phases[i] == "prefill")
    room = sum(table.decode[j] for j in range(num) if phases[j] == "decode")
    carrying = [k for k, u in enumerate(used) if u * room >= min(given, table.rate) * (1 - 1e-9)]
    after = carrying[0] if carrying else len(used) - 1
    ways = [(i, i) for i in range(num) if phases[i] == "both"]
    ways += [
        (i, j)
        for i in range(num)
        for j in range(num)
        if phases[i] == "prefill" and phases[j] == "decode"
    ]
    own = {"both": table.both * used[level], "prefill": table.prefill * used[level]}
    own["decode"] = table.decode * used[after]
    good, most = [0.0], [0.0]
    rows = np.zeros((num + len(table.line_room) + 1, len(ways) + 1))
    rows[-1] = 1.0
    for column, (i, j) in enumerate(ways, start=1):
        rows[[i, j], column] = 1.0
        if i != j:
            rows[num:-1, column] = table.line_bytes[i, j]
        good.append(table.good_both[level, i] if i == j else table.good_pair[level, after, i, j])
        most.append(1.0 if i == j else min(1.0, table.pair_room[i, j] * used[level] / table.rate))
    ends = [own[phase][i] / table.rate for i, phase in enumerate(phases)]
    ends += [*(table.line_room * used[level] / table.rate), 1.0]
    bounds = np.asarray([(0.0, each) for each in most])
    return np.asarray(good), rows, np.asarray(ends), bounds
