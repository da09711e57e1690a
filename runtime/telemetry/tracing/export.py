"""Traces on their way out: a bounded queue, one task, and a place where what is lost is counted.

Requests never wait for it. What is behind the queue may be slow, down or gone: then traces are
dropped, which metrics tell and the log tells once.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry, Counter

from runtime.telemetry.events import Entry
from runtime.telemetry.facts import ServiceFacts
from runtime.telemetry.tracing.context import read_parent
from runtime.telemetry.tracing.record import RequestTrace
from runtime.telemetry.tracing.spans import Snapshot, SpanFacts, spans_of

_log = logging.getLogger(__name__)

MAX_BATCH = 64
"""Traces that are sent at a time."""
MAX_SNAPSHOTS = 1024
INTERVAL_S = 0.5
"""How often, while there are requests, stages are looked at and what waits is sent."""
SEND_TIMEOUT_S = 10.0
LAST_SEND_TIMEOUT_S = 2.0
"""For what waits when the service ends."""

Send = Callable[[Sequence[SpanFacts]], Awaitable[None]]
"""Sends spans; raises `SendFailed`."""


class SendFailed(Exception):
    """Spans did not arrive; the text says why."""


class TraceExport:
    """`Tracer` that has spans sent.

    Args:
        send: sends spans.
        rng: makes ids, and draws which traces are kept where the caller does not say.
        clock: the loop's.
        wall_clock: seconds since 1970.
        registry: where what was sent and dropped is counted.
        model: that requests are asked of.
        ratio: of the traces that begin here, how many are kept, 0 to 1.
        max_queued: traces that wait at most.
        facts: what the stages did.
        told: events of the service.
        interval_s: how often, while there are requests, what waits is sent.
    """

    def __init__(
        self,
        send: Send,
        *,
        rng: random.Random,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        registry: CollectorRegistry,
        model: str,
        ratio: float = 1.0,
        max_queued: int = 1024,
        facts: Callable[[], Awaitable[ServiceFacts]] | None = None,
        told: Callable[[], Iterable[Entry]] = lambda: (),
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._interval_s = interval_s
        self._send, self._rng, self._ratio = send, rng, ratio
        self._clock, self._wall_clock = clock, wall_clock
        self._model, self._facts, self._told = model, facts, told
        self._waiting: deque[RequestTrace] = deque()
        self._max_queued = max_queued
        self._snapshots: deque[Snapshot] = deque(maxlen=MAX_SNAPSHOTS)
        self._num_open = 0
        self._began = asyncio.Event()
        self._is_failing = False
        text = "Traces that were sent, and those that were not and why."
        self._counter = Counter("remuda:traces", text, ("outcome",), registry=registry)
        for outcome in ("sent", "queue_full", "send_failed"):
            self._counter.labels(outcome)

    # --- what requests call: nothing here waits

    def begin(self, headers: Mapping[str, str], operation: str, route: str) -> RequestTrace | None:
        """A request came: its caller, or else chance, decides whether it is kept."""
        parent = read_parent(headers)
        is_sampled = parent.is_sampled if parent is not None else self._rng.random() < self._ratio
        if not is_sampled:
            return None
        now = self._clock()
        self._num_open += 1
        self._began.set()
        return RequestTrace(
            operation=operation,
            route=route,
            model=self._model,
            parent=parent,
            began=now,
            wall_offset_s=self._wall_clock() - now,
        )

    def take(self, trace: RequestTrace) -> None:
        """It is over: it waits to be sent, if there is room."""
        self._num_open -= 1
        if len(self._waiting) >= self._max_queued:
            self._counter.labels("queue_full").inc()
            return
        self._waiting.append(trace)

    # --- the task

    async def run(self) -> None:
        """Send what comes, for ever."""
        while True:
            if not (self._num_open or self._waiting):
                self._began.clear()
                await self._began.wait()
                await self._look()
            await asyncio.sleep(self._interval_s)
            await self._look()
            await self.flush(SEND_TIMEOUT_S)

    async def flush(self, timeout_s: float) -> None:
        """Send what waits, in batches, each within `timeout_s`."""
        for _ in range(-(-len(self._waiting) // MAX_BATCH)):
            batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
            await self._send_batch(batch, timeout_s)

    async def _send_batch(self, traces: list[RequestTrace], timeout_s: float) -> None:
        told, seen = tuple(self._told()), tuple(self._snapshots)
        spans = [span for trace in traces for span in spans_of(trace, self._rng, told, seen)]
        try:
            async with asyncio.timeout(timeout_s):
                await self._send(spans)
        except (SendFailed, TimeoutError) as error:
            self._failed(str(error) or f"not within {timeout_s:g} s", len(traces))
        except asyncio.CancelledError:
            self._failed("the service ends", len(traces))
            raise
        else:
            self._counter.labels("sent").inc(len(traces))
            if self._is_failing:
                _log.info("traces sent again num_traces=%d", len(traces))
            self._is_failing = False

    def _failed(self, reason: str, num_traces: int) -> None:
        self._counter.labels("send_failed").inc(num_traces)
        if not self._is_failing:
            _log.warning("traces dropped num_traces=%d reason=%s", num_traces, reason)
        self._is_failing = True

    async def _look(self) -> None:
        if self._facts is not None:
            facts = await self._facts()
            self._snapshots.append(Snapshot(self._clock(), facts))


@asynccontextmanager
async def exporting(export: TraceExport) -> AsyncIterator[None]:
    """Send traces during the block, and what still waits at its end."""
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(export.run())
            try:
                yield
            finally:
                task.cancel()
                await export.flush(LAST_SEND_TIMEOUT_S)
    except ExceptionGroup as faults:  # whoever ends the block is to see its own fault
        raise faults.exceptions[0] from None
