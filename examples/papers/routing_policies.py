"""The usual ways to pick a pipeline, which the router's own is compared with.

Each looks at the loads alone, at no request and at no fitted time; ties go to the lesser id.
"""

from collections.abc import Callable, Sequence

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
