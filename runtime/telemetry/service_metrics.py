"""Metrics of pipelines and stages, written from facts that were asked for at the scrape.

The one idea: a collector without state. Counters are what pipelines and workers themselves count;
where one begins anew so does its counter, which Prometheus expects of counters. Where vLLM has a
metric, its name is vLLM's under our prefix.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from runtime.telemetry.facts import PipelineFacts, PlacedStage, ServiceFacts, StageFacts

PREFIX = "remuda:"
GATEWAY = "gateway"
"""The `pipeline` of requests that wait in the gateway."""

_T = TypeVar("_T")
Rows = tuple[tuple[str, str, str, Callable[[_T], float | None]], ...]

PIPELINE_ROWS: Rows[PipelineFacts] = (
    ("gauge", "num_requests_running", "Requests at work.", lambda p: p.num_running),
    ("gauge", "kv_blocks", "KV blocks of every stage.", lambda p: p.num_blocks),
    ("gauge", "kv_free_blocks", "KV blocks that are free.", lambda p: p.num_free_blocks),
    ("gauge", "kv_cache_usage_perc", "Share of the KV blocks in use, 0 to 1.", lambda p: _used(p)),
    ("counter", "num_preemptions", "Requests preempted.", lambda p: p.num_preemptions),
    (
        "counter",
        "prefix_cache_queries",
        "Tokens of requests that were given KV blocks for the first time.",
        lambda p: p.num_prefix_queries,
    ),
    (
        "counter",
        "prefix_cache_hits",
        "Of these, tokens whose KV entries were found and not computed again.",
        lambda p: p.num_prefix_hits,
    ),
    ("counter", "steps", "Steps sent round the stages.", lambda p: p.num_steps),
    (
        "counter",
        "step_round_seconds",
        "Sum of the times from a step's sending to its result; without the stages' "
        "step_resident_seconds it is what went by on the hops between them.",
        lambda p: p.round_s,
    ),
    (
        "counter",
        "hand_offs",
        "Requests given to another pipeline with their first token.",
        lambda p: p.num_handed_off,
    ),
    (
        "counter",
        "hand_offs_stayed",
        "Requests to be handed off for which no pipeline had room.",
        lambda p: p.num_stayed,
    ),
    (
        "counter",
        "hand_offs_failed",
        "Hand-offs that broke; their requests went on where they were.",
        lambda p: p.num_failed_hand_offs,
    ),
    ("counter", "hand_off_bytes", "KV that was handed off.", lambda p: p.hand_off_bytes),
    (
        "counter",
        "hand_off_saved_bytes",
        "Bytes by which encodings made that smaller.",
        lambda p: p.hand_off_saved_bytes,
    ),
    (
        "counter",
        "hand_off_present_blocks",
        "KV blocks that were not sent in hand-offs, as the taker had them.",
        lambda p: p.num_present_blocks,
    ),
    (
        "counter",
        "hand_off_present_bytes",
        "Bytes that these would have taken on the way.",
        lambda p: p.hand_off_present_bytes,
    ),
    (
        "counter",
        "hand_off_seconds",
        "Sum of the times from a hand-off's beginning, while the prompt is computed, to its end.",
        lambda p: p.hand_off_s,
    ),
)
STAGE_ROWS: Rows[StageFacts] = (
    ("counter", "stage_steps", "Steps a stage computed.", lambda s: s.num_steps),
    ("counter", "stage_stale_steps", "Steps of other epochs.", lambda s: s.num_stale_steps),
    ("counter", "stage_busy_seconds", "Time with a step at the device.", lambda s: s.busy_s),
    ("counter", "stage_idle_seconds", "Time without one.", lambda s: s.idle_s),
    (
        "counter",
        "stage_step_resident_seconds",
        "Sum of the times from a step's arrival at a stage to its result.",
        lambda s: s.resident_s,
    ),
    ("counter", "hop_bytes", "Hidden states given to the next stage.", lambda s: s.sent_bytes),
    ("gauge", "stage_queue", "Steps at the device or before it.", lambda s: s.num_queued),
)  # fmt: skip
PLACED_ROWS: Rows[PlacedStage] = (
    ("gauge", "stage_ready", "1 if the stage serves.", lambda s: s.is_ready),
    ("gauge", "stage_kv_blocks", "KV blocks of a stage.", lambda s: s.kv_blocks),
    ("gauge", "stage_weight_bytes", "Weights of a stage.", lambda s: s.weight_bytes),
    ("gauge", "stage_resident_bytes", "Memory of a stage's process.", lambda s: s.resident_bytes),
)


class ServiceCollector(Collector):
    """Writes the facts it was given last; `num_queued` are the requests in the gateway's queue."""

    def __init__(self, model: str, num_queued: Callable[[], int]) -> None:
        self._model = model
        self._num_queued = num_queued
        self.facts = ServiceFacts()

    def collect(self) -> Iterator[Metric]:
        """All families, also those without a sample now."""
        facts = self.facts
        model = {"model_name": self._model}
        yield from _families(PIPELINE_ROWS, facts.pipelines, ("model_name", "pipeline"), model)
        yield self._waiting()
        yield from _families(STAGE_ROWS, facts.stages, ("model_name", "pipeline", "stage"), model)
        places = ("model_name", "pipeline", "stage", "node", "device")
        yield from _families(PLACED_ROWS, facts.placed, places, model)
        yield _single("gauge", "epoch", "The plan's epoch.", facts.epoch)
        yield _single("gauge", "ready", "1 if every stage is ready.", facts.is_ready)
        yield _single("gauge", "nodes", "Nodes in the cluster.", facts.num_nodes)
        text = "Requests that went on after a loss."
        yield _single("counter", "recoveries", text, facts.num_recoveries)

    def _waiting(self) -> Metric:
        text = "Requests that wait: at a pipeline, or in the gateway's queue."
        labels = ("model_name", "pipeline")
        family = GaugeMetricFamily(f"{PREFIX}num_requests_waiting", text, labels=labels)
        family.add_metric((self._model, GATEWAY), self._num_queued())
        for pipeline in self.facts.pipelines:
            family.add_metric((self._model, pipeline.pipeline), pipeline.num_waiting)
        return family


def _families(
    rows: Rows[_T], facts: Iterable[_T], labels: tuple[str, ...], fixed: dict[str, str]
) -> Iterator[Metric]:
    facts = tuple(facts)
    for kind, name, text, value in rows:
        family = _family(kind, name, text, labels)
        for fact in facts:
            row = [fixed.get(label) or str(getattr(fact, label)) for label in labels]
            if (found := value(fact)) is not None:
                family.add_metric(row, float(found))
        yield family


def _single(kind: str, name: str, text: str, value: float) -> Metric:
    family = _family(kind, name, text, ())
    family.add_metric((), float(value))
    return family


def _family(
    kind: str, name: str, text: str, labels: tuple[str, ...]
) -> CounterMetricFamily | GaugeMetricFamily:
    made = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
    return made(f"{PREFIX}{name}", text, labels=labels)


def _used(pipeline: PipelineFacts) -> float:
    return 1.0 - pipeline.num_free_blocks / pipeline.num_blocks if pipeline.num_blocks else 0.0
