"""The usual ways to pick a pipeline, which the router's own is compared with.

Each has the signature of `scheduling.routing.choose_pipeline`, and looks at no fitted time. Where
phases are apart, prefill and decode pipelines are each picked in that way.
"""

import random
from collections.abc import Callable, Sequence

from scheduling.pairing import SERVICE, RoutingPolicy
from scheduling.routing import USUAL, Choose, PipelineLoad, UsualLengths


class RoundRobin:
    """One pipeline after another, in the order of their ids."""

    def __init__(self) -> None:
        """Begin before the first."""
        self._last = ""

    def __call__(
        self,
        loads: Sequence[PipelineLoad],
        *,
        num_prompt_tokens: int,
        usual: UsualLengths = USUAL,
    ) -> str | None:
        """The next id after the last, or the first."""
        ids = sorted(load.pipeline for load in loads)
        if not ids:
            return None
        self._last = next((name for name in ids if name > self._last), ids[0])
        return self._last


class RandomChoice:
    """Any pipeline, by an index that is drawn elsewhere."""

    def __init__(self, draw: Callable[[int], int]) -> None:
        """Take what draws an index below a count."""
        self._draw = draw

    def __call__(
        self,
        loads: Sequence[PipelineLoad],
        *,
        num_prompt_tokens: int,
        usual: UsualLengths = USUAL,
    ) -> str | None:
        """Whichever is drawn."""
        ids = sorted(load.pipeline for load in loads)
        return ids[self._draw(len(ids))] if ids else None


class ShortestQueue:
    """The pipeline with the fewest sequences, then the fewest queued tokens."""

    def __call__(
        self,
        loads: Sequence[PipelineLoad],
        *,
        num_prompt_tokens: int,
        usual: UsualLengths = USUAL,
    ) -> str | None:
        """The least of all; ties go to the lesser id."""
        keys = [(load.num_running, load.num_queued_tokens, load.pipeline) for load in loads]
        return min(keys)[2] if keys else None


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
        "round-robin": RoundRobin,
        "random": lambda: RandomChoice(draw),
        "shortest-queue": ShortestQueue,
    }
    if name not in makers:
        raise ValueError(f"routing: expected one of {', '.join(POLICIES)}, got {name!r}")
    return RoutingPolicy(begin=makers[name](), go_on=makers[name]())
