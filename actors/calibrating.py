"""Learns from the steps that stages report what their devices reach, for forecasts.

The one idea: rates measured at a worker's start are a promise, steps are what came of it. Now and
then every stage is asked for its last steps, and the rates of each kind of device are fitted to
those that were told so far, beside the event loop. Rates that hardly differ from the known ones
are no news, so that plans are not looked into again for noise.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

from actors.cluster import Cluster
from actors.situation import kind_of
from actors.step_report import MeasuredStages, measured_stages
from scheduling.learnt_rates import LearntRate, StepMemory, is_news, learnt_rates
from scheduling.measured_steps import StageStep
from scheduling.model_shape import StepWork
from scheduling.split import StageDevice
from transport.codec import Message

_log = logging.getLogger(__name__)

INTERVAL_S = 60.0
"""How often stages are asked."""

Compute: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]


class LookAtSteps(Message, frozen=True, tag="look_at_steps"):
    """Is it time to learn from steps? The coordinator's note to itself, never on the wire."""


class Calibrator:
    """Keeps the learnt rates; `on_news` hears of those that differ from the known ones."""

    def __init__(
        self,
        cluster: Cluster,
        compute: Compute,
        at_start: Callable[[], Mapping[str, StageDevice]],
        on_news: Callable[[Mapping[str, LearntRate]], None],
    ) -> None:
        """`at_start` gives what devices of each kind were measured to do when they started."""
        self._cluster, self._compute = cluster, compute
        self._at_start, self._on_news = at_start, on_news
        self._memory = StepMemory()
        self._rates: Mapping[str, LearntRate] = {}
        self._is_due = self._is_learning = False

    def note(self) -> None:
        """Something serves, maybe: learn from it in a while, and then again and again."""
        is_of_use = self._cluster.settings.may_be_replanned and self._cluster.pipelines
        if is_of_use and not self._is_due:
            self._is_due = True
            self._cluster.context.schedule(INTERVAL_S, LookAtSteps())

    def look(self) -> None:
        """A timer has fired."""
        self._is_due = False
        self.note()
        if not self._is_learning:
            self._is_learning = True
            self._cluster.context.start_task(self._learn())

    async def _learn(self) -> None:
        try:
            self.take(await measured_stages(self._cluster))
            shape = self._cluster.settings.shape
            if shape is None or not self._memory.has_news:
                return
            memory = self._memory.taken()
            found = await self._compute(partial(learnt_rates, memory, shape, self._at_start()))
        finally:
            self._is_learning = False
        if is_news(self._rates, found):
            self._rates = found
            for kind, rate in found.items():
                _log.info(
                    "rates learnt kind=%r error=%.3f sizes=%d gflops_per_s=%.1f gbytes_per_s=%.2f",
                    kind,
                    rate.mean_error,
                    rate.num_sizes,
                    rate.flops_per_s / 1e9,
                    rate.bytes_per_s / 1e9,
                )
            self._on_news(found)

    def take(self, measured: MeasuredStages) -> None:
        """Remember steps that stages told."""
        members = self._cluster.members
        for stage, answer in measured:
            up = members.workers.get(stage.worker)
            if up is None:
                continue
            kind = kind_of(up, members.slots[stage.worker].num_threads)
            for tokens, pairs, context, drawn, seconds in answer.steps:
                work = StepWork(
                    num_tokens=tokens, num_pairs=pairs, num_context=context, num_drawn=drawn
                )
                step = StageStep(start=stage.start, end=stage.end, work=work, seconds=seconds)
                self._memory.add(kind, step)
