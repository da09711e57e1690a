"""Pipelines change the part of a request that they serve: no stage is touched, nothing is moved.

The one idea: a phase is only what routers are told. Requests that come later follow the new phases,
and those that a pipeline has which serves prefill alone by now are handed off as they are; all
others end where they are (ThunderServe, MLSys 2025: light-weight rescheduling). It never decides
which phase is better.
"""

import logging
from collections.abc import Mapping, Sequence

from actors.cluster import Cluster
from actors.messages import FlipPhases
from scheduling.errors import InvalidPlan
from scheduling.placement import PHASES, Phase
from scheduling.plan import PipelineId, Route, check_phases

_log = logging.getLogger(__name__)


class Flips:
    """Changes the phases of a cluster's pipelines."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def checked(self, phases: Mapping[str, str], routes: Sequence[Route]) -> dict[str, Phase]:
        """The phase of every pipeline, once some are changed.

        Raises:
            InvalidPlan: one is unknown, a phase is none, requests could not begin or not go on, or
                a route does not lead from prefill to decode.
        """
        wanted = {name: r.plan.phase for name, r in self._cluster.pipelines.items()}
        for name, phase in phases.items():
            if name not in wanted:
                known = ", ".join(wanted) or "none yet"
                raise InvalidPlan(f"pipeline {name!r}: expected one of: {known}")
            wanted[name] = _phase(name, phase)
        check_phases({PipelineId(name): phase for name, phase in wanted.items()}, routes)
        return wanted

    def moves_to(self, phases: Mapping[str, Phase]) -> tuple[str, ...]:
        """What would change, a sentence for each pipeline."""
        records = self._cluster.pipelines
        return tuple(
            f"pipeline {name} serves {phase} instead of {records[name].plan.phase}"
            for name, phase in phases.items()
            if name in records and records[name].plan.phase != phase
        )

    def apply(self, phases: Mapping[str, Phase], routes: Sequence[Route]) -> None:
        """Change phases, at a new epoch if there is anything to change."""
        cluster = self._cluster
        before = cluster.routes, {n: r.plan.phase for n, r in cluster.pipelines.items()}
        for name, phase in phases.items():
            if (record := cluster.pipelines.get(name)) is not None:
                record.flip(phase)
        after = {name: record.plan.phase for name, record in cluster.pipelines.items()}
        cluster.routes = tuple(routes) or tuple(r for r in cluster.routes if _leads(r, after))
        if (cluster.routes, after) != before:
            told = " ".join(f"{name}={phase}" for name, phase in after.items())
            _log.info("phases flipped epoch=%d %s", cluster.next_epoch(), told)


def routes_of(message: FlipPhases) -> tuple[Route, ...]:
    """The routes that an operator gave; one without a weight counts as one of weight 1."""
    return tuple(
        Route(prefill=r.prefill, decode=r.decode, weight=r.weight or 1.0) for r in message.routes
    )


def _phase(name: str, phase: str) -> Phase:
    for known in PHASES:
        if phase == known:
            return known
    raise InvalidPlan(f"pipeline {name!r}: expected a phase of {', '.join(PHASES)}, got {phase!r}")


def _leads(route: Route, phases: Mapping[str, Phase]) -> bool:
    is_begun = phases.get(route.prefill) == "prefill"
    return is_begun and phases.get(route.decode) in ("decode", "both")
