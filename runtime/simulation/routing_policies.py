"""The usual ways to pick a pipeline, which the router's own is compared with.

Each looks at the loads alone, at no request and at no fitted time; ties go to the lesser id. Where
phases are apart, prefill and decode pipelines are each picked in that way.
"""

import random
from collections.abc import Callable, Sequence

from scheduling.pairing import SERVICE, RoutingPolicy
from scheduling.routing import USUAL, Choose, PipelineLoad, UsualLengths


def round_robin() -> Choose:
    """One pipeline after another, in the order of their ids; begins before the first."""
    last = ""

    def pick(loads: Sequence[PipelineLoad]) -> str:
        nonlocal last
        ids = [load.pipeline for load in loads]
        last = next((name for name in ids if name > last), ids[0])
        return last

    return _by_loads(pick)


def random_choice(draw: Callable[[int], int]) -> Choose:
    """Any pipeline; `draw` gives an index below a count."""
    return _by_loads(lambda loads: loads[draw(len(loads))].pipeline)


def shortest_queue() -> Choose:
    """The pipeline with the fewest sequences, then the fewest queued tokens."""

    def pick(loads: Sequence[PipelineLoad]) -> str:
        return min(loads, key=lambda load: (load.num_running, load.num_queued_tokens)).pipeline

    return _by_loads(pick)


def _by_loads(pick: Callable[[Sequence[PipelineLoad]], str]) -> Choose:
    """A choice among one or more loads, in the order of their ids, as the router wants it."""

    def choose(
        loads: Sequence[PipelineLoad],
        *,
        num_prompt_tokens: int,
        usual: UsualLengths = USUAL,
    ) -> str | None:
        return pick(sorted(loads, key=lambda load: load.pipeline)) if loads else None

    return choose


POLICIES = ("predicted", "round-robin", "random", "shortest-queue")
"""By name; the first is the service's own."""


def policy_of(name: str, seed: int = 0) -> RoutingPolicy:
    """A fresh policy of that name, which picks who begins a request and who goes on with it alike.

    Raises:
        ValueError: there is none of that name.
    """
    if name == POLICIES[0]:
        return SERVICE
    draw = random.Random(seed).randrange
    makers: dict[str, Callable[[], Choose]] = {
        "round-robin": round_robin,
        "random": lambda: random_choice(draw),
        "shortest-queue": shortest_queue,
    }
    if name not in makers:
        raise ValueError(f"routing: expected one of {', '.join(POLICIES)}, got {name!r}")
    return RoutingPolicy(begin=makers[name](), go_on=makers[name]())
