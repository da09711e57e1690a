"""Whether a model can stand on a cluster at all, and if not, what would have to change.

The one idea: what cannot be is said before any search, with the numbers and the nearest change
that would help. What passes here may still fail for finer reasons, and the search then says so.
"""

from dataclasses import replace
from math import ceil

from scheduling.errors import Infeasible
from scheduling.objective import Objective
from scheduling.solvers.interface import Problem


def check_feasible(problem: Problem) -> None:
    """Refuse a problem that no placement can solve.

    Raises:
        Infeasible: one or two sentences with what is needed, what there is, and what would fit.
    """
    needed, usable = needed_bytes(problem), usable_bytes(problem)
    if needed > usable:
        raise Infeasible(f"{_what(problem, needed)}, and {_has(problem)}. {_remedies(problem)}")
    largest = (
        max(problem.cluster.kinds[k].memory_bytes for n in problem.cluster.nodes for k in n.devices)
        * problem.limits.memory_fraction
        * _widest(problem)
    )
    layer = problem.shape.layer_weight_bytes + _kv_bytes(problem) / problem.shape.num_layers
    if layer > largest:
        raise Infeasible(
            f"one layer with the KV cache of one request needs {_gb(layer)}, and the largest stage "
            f"may take {_gb(largest)}. Allow tensor parallelism (--max-tp) or shorter requests."
        )
    _check_money(problem)


def why_not(problem: Problem) -> str:
    """What to say where a search ended without any placement."""
    goal = problem.goal
    if goal.measure == "slo":
        limits = {"TTFT": goal.ttft_s, "TPOT": goal.tpot_s}
        wanted = " and ".join(f"{k} of {v:g} s" for k, v in limits.items() if v is not None)
        return (
            f"no placement was found that keeps a {wanted} for any request of "
            f"{problem.workload.name} (mean {problem.workload.mean_prompt:.0f} tokens in) on these "
            f"{problem.cluster.num_devices} devices. Loosen --slo, allow --max-tp, or plan with "
            f"--objective throughput to see what they can do."
        )
    needed = needed_bytes(problem)
    return (
        f"no placement was found: {_what(problem, needed)}, and {_has(problem)}, but no row of "
        f"devices holds it whole (each stage needs {_gb(problem.shape.layer_weight_bytes)} a layer "
        f"beside embedding or head of {_gb(_end_bytes(problem))} and room for activations). "
        f"{_remedies(problem)}"
    )


def needed_bytes(problem: Problem) -> float:
    """Weights, and the KV cache of one request of the longest length."""
    return problem.shape.total_bytes + _kv_bytes(problem)


def usable_bytes(problem: Problem) -> float:
    """What weights and KV may take of all devices together."""
    return problem.cluster.memory_bytes * problem.limits.memory_fraction


def _check_money(problem: Problem) -> None:
    money = problem.goal.budget_per_hour
    if money is None:
        return
    cluster = problem.cluster
    offers = sorted(
        (cluster.price_per_hour(node), sum(cluster.kinds[k].memory_bytes for k in node.devices))
        for node in cluster.nodes
    )
    # the cheapest bytes first, the last node in part: no set of nodes is cheaper
    needed = needed_bytes(problem) / problem.limits.memory_fraction
    price = 0.0
    for cost, memory in sorted(offers, key=lambda offer: offer[0] / offer[1]):
        part = min(1.0, needed / memory)
        price, needed = price + cost * part, needed - memory
        if needed <= 0:
            break
    if price > money:
        raise Infeasible(
            f"memory for the model costs at least {price:.2f} $/h at this cluster's prices, and "
            f"the budget is {money:.2f} $/h. Raise the budget, or choose a smaller model."
        )


def _what(problem: Problem, needed: float) -> str:
    kv = _kv_bytes(problem)
    return (
        f"the model needs {_gb(needed)} ({_gb(problem.shape.total_bytes)} weights + {_gb(kv)} KV "
        f"for one request of {problem.limits.max_model_len} tokens)"
    )


def _has(problem: Problem) -> str:
    part = problem.limits.memory_fraction
    return (
        f"the cluster's {problem.cluster.num_devices} devices have "
        f"{_gb(problem.cluster.memory_bytes)}, of which {_gb(usable_bytes(problem))} "
        f"({part:.0%}) may be used"
    )


def _remedies(problem: Problem) -> str:
    """The nearest changes that would fit."""
    missing = needed_bytes(problem) - usable_bytes(problem)
    found = []
    if missing > 0:
        kinds = {k: problem.cluster.kinds[k] for n in problem.cluster.nodes for k in n.devices}
        largest = max(kinds.values(), key=lambda kind: kind.memory_bytes)
        more = ceil(missing / (largest.memory_bytes * problem.limits.memory_fraction))
        found.append(f"{more} more {largest.name}")
    for bits in (8, 4):
        smaller = replace(problem.shape, weight_bytes=bits / 8)
        if problem.shape.parameter_bytes > bits / 8:
            bytes_then = smaller.total_bytes + _kv_bytes(problem)
            if bytes_then <= usable_bytes(problem):
                found.append(f"weights of {bits} bits ({_gb(bytes_then)})")
                break
    kv_tokens = _longest_that_fits(problem)
    if 0 < kv_tokens < problem.limits.max_model_len:
        found.append(f"requests of at most {kv_tokens} tokens")
    return f"It would fit with {' or '.join(found)}." if found else "Choose a smaller model."


def _longest_that_fits(problem: Problem) -> int:
    room = usable_bytes(problem) - problem.shape.total_bytes
    each = problem.shape.kv_bytes_per_token * problem.shape.num_layers
    return int(room / each) if room > 0 else 0


def _kv_bytes(problem: Problem) -> float:
    shape = problem.shape
    tokens = shape.kv_positions(problem.limits.max_model_len)
    return tokens * shape.kv_bytes_per_token * shape.num_layers


def _end_bytes(problem: Problem) -> float:
    return Objective.of(problem).table.ends_bytes


def _widest(problem: Problem) -> int:
    return min(problem.limits.max_tp, max(len(node.devices) for node in problem.cluster.nodes))


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
