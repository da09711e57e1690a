"""All that a gateway tells of its service: metrics in one registry, events in one log."""

from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry, Counter, generate_latest

from actors.messages import PipelineStatus, PlanChanged
from runtime.telemetry.events import Event, EventLog
from runtime.telemetry.facts import FactSource, ServiceFacts
from runtime.telemetry.plan_events import events_between, is_new_change, pause_s
from runtime.telemetry.request_metrics import RequestMetrics
from runtime.telemetry.service_metrics import ServiceCollector
from runtime.telemetry.tracing.record import NoTracer, Tracer


class Telemetry:
    """Metrics and events of one service.

    Args:
        model: the model's name, a label of most metrics.
        clock: seconds that never go back.
        wall_clock: seconds since 1970.
        max_events: events that are kept.

    `num_queued` are the requests that wait in the gateway; `tracer` takes note of each.
    """

    def __init__(
        self,
        model: str,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        max_events: int = 1024,
    ) -> None:
        self.model = model
        self.registry = CollectorRegistry()
        self.wall_clock = wall_clock
        self.requests = RequestMetrics(self.registry, model, clock)
        self.events = EventLog(max_events, wall_clock)
        self._ask: Callable[[], Awaitable[ServiceFacts]] | None = None
        self.tracer: Tracer = NoTracer()
        self.num_queued: Callable[[], int] = lambda: 0
        self._service = ServiceCollector(model, lambda: self.num_queued())
        self.registry.register(self._service)
        self._changes = self._counter("plan_changes", "Changes of stages that were finished.")
        self._pauses = self._counter(
            "swap_pause_seconds", "Time that streams stood still for changes of stages."
        )
        self._plan: PlanChanged | None = None

    def watch(self, source: FactSource) -> None:
        """Ask this one how busy pipelines and stages are; before, their metrics are empty."""
        self._ask = source.facts

    async def facts(self) -> ServiceFacts:
        """How busy pipelines and stages are now; nothing before somebody is watched."""
        return ServiceFacts() if self._ask is None else await self._ask()

    async def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        if self._ask is not None:
            self._service.facts = await self._ask()
        return generate_latest(self.registry)

    def on_plan(self, plan: PlanChanged) -> None:
        """The coordinator told of a new state."""
        for event in events_between(self._plan, plan):
            self.events.add(event)
        if self._plan is not None:
            self._count_changes(self._plan, plan)
        self._plan = plan

    def happened(self, kind: str, **facts: object) -> None:
        """Write down an event of the gateway's own."""
        self.events.add(Event(kind, facts))

    def _count_changes(self, before: PlanChanged, after: PlanChanged) -> None:
        known: dict[str, PipelineStatus] = {p.pipeline: p for p in before.pipelines}
        for pipeline in after.pipelines:
            change = pipeline.last_change
            if change is not None and is_new_change(known.get(pipeline.pipeline), pipeline):
                self._changes.labels(pipeline.pipeline, change.cause).inc()
                self._pauses.labels(pipeline.pipeline, change.cause).inc(pause_s(pipeline))

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"remuda:{name}", text, ("pipeline", "cause"), registry=self.registry)
