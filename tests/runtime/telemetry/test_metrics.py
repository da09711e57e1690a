"""What `/metrics` gives, and that the dashboard asks for nothing else."""

import json
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from runtime.telemetry.facts import PipelineFacts, PlacedStage, ServiceFacts, StageFacts
from runtime.telemetry.telemetry import Telemetry
from tests.runtime.telemetry.plans import change, pipeline, plan

DASHBOARD = Path(__file__).parents[3] / "examples" / "grafana" / "remuda.json"
FACTS = ServiceFacts(
    epoch=3,
    is_ready=True,
    num_nodes=2,
    num_recoveries=5,
    pipelines=(
        PipelineFacts(
            pipeline="0",
            num_running=2,
            num_waiting=1,
            num_blocks=100,
            num_free_blocks=25,
            num_steps=40,
            num_preemptions=6,
            round_s=1.5,
            num_handed_off=7,
            num_stayed=3,
            num_failed_hand_offs=2,
            hand_off_bytes=8192,
            hand_off_saved_bytes=4096,
            num_present_blocks=8,
            hand_off_present_bytes=2048,
            num_prefix_queries=100,
            num_prefix_hits=64,
            hand_off_s=0.25,
        ),
    ),
    stages=(
        StageFacts(
            pipeline="0",
            stage=1,
            num_steps=40,
            num_stale_steps=2,
            num_queued=3,
            busy_s=0.5,
            idle_s=1.5,
            resident_s=0.75,
            sent_bytes=4096,
        ),
    ),
    placed=(
        PlacedStage(
            pipeline="0",
            stage=1,
            node="a",
            device="cpu",
            kv_blocks=100,
            weight_bytes=10,
            resident_bytes=20,
            is_ready=True,
        ),
    ),
)


class Source:
    def __init__(self, facts: ServiceFacts) -> None:
        self._facts = facts

    async def facts(self) -> ServiceFacts:
        return self._facts


def telemetry(facts: ServiceFacts | None = None) -> Telemetry:
    found = Telemetry("horse", clock=lambda: 0.0, wall_clock=lambda: 0.0)
    if facts is not None:
        found.watch(Source(facts))
    return found


async def samples(found: Telemetry) -> dict[str, float]:
    """Every sample by its name and labels, but for the times at which counters began."""
    text = (await found.exposition()).decode()
    return {
        f"{s.name}{json.dumps(dict(sorted(s.labels.items())))}": s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
        if not s.name.endswith("_created")
    }


async def test_facts_become_samples() -> None:
    found = telemetry(FACTS)
    found.num_queued = lambda: 9
    got = await samples(found)
    at = '{"model_name": "horse", "pipeline": "0"}'
    stage = '{"model_name": "horse", "pipeline": "0", "stage": "1"}'
    assert got[f"remuda:num_requests_running{at}"] == 2
    assert got[f"remuda:num_requests_waiting{at}"] == 1
    assert got['remuda:num_requests_waiting{"model_name": "horse", "pipeline": "gateway"}'] == 9
    assert got[f"remuda:kv_cache_usage_perc{at}"] == 0.75
    assert got[f"remuda:num_preemptions_total{at}"] == 6
    assert got[f"remuda:step_round_seconds_total{at}"] == 1.5
    assert got[f"remuda:hand_offs_total{at}"] == 7
    assert got[f"remuda:hand_offs_stayed_total{at}"] == 3
    assert got[f"remuda:hand_offs_failed_total{at}"] == 2
    assert got[f"remuda:hand_off_bytes_total{at}"] == 8192
    assert got[f"remuda:hand_off_saved_bytes_total{at}"] == 4096
    assert got[f"remuda:hand_off_present_blocks_total{at}"] == 8
    assert got[f"remuda:hand_off_present_bytes_total{at}"] == 2048
    assert got[f"remuda:prefix_cache_queries_total{at}"] == 100
    assert got[f"remuda:prefix_cache_hits_total{at}"] == 64
    assert got[f"remuda:hand_off_seconds_total{at}"] == 0.25
    assert got[f"remuda:stage_busy_seconds_total{stage}"] == 0.5
    assert got[f"remuda:stage_idle_seconds_total{stage}"] == 1.5
    assert got[f"remuda:hop_bytes_total{stage}"] == 4096
    assert got["remuda:recoveries_total{}"] == 5
    assert got["remuda:ready{}"] == 1


async def test_a_counter_that_is_not_known_is_absent_and_not_nothing() -> None:
    silent = PipelineFacts(
        pipeline="0",
        num_running=0,
        num_waiting=0,
        num_blocks=0,
        num_free_blocks=0,
        num_steps=0,
        num_preemptions=0,
    )
    got = await samples(telemetry(ServiceFacts(pipelines=(silent,))))
    assert not [name for name in got if name.startswith("remuda:step_round_seconds")]
    assert got['remuda:kv_cache_usage_perc{"model_name": "horse", "pipeline": "0"}'] == 0


async def test_changes_of_stages_are_counted_once_with_their_pauses() -> None:
    found = telemetry()
    for state in (plan(pipeline()), *[plan(pipeline(epoch=2, change=change()))] * 3):
        found.on_plan(state)
    got = await samples(found)
    labels = '{"cause": "swap", "pipeline": "0"}'
    assert got[f"remuda:plan_changes_total{labels}"] == 1
    assert got[f"remuda:swap_pause_seconds_total{labels}"] == 0.5


async def test_a_change_from_before_this_gateway_began_is_not_counted() -> None:
    found = telemetry()
    found.on_plan(plan(pipeline(epoch=2, change=change())))
    assert not [name for name in await samples(found) if "plan_changes_total" in name]


async def every_name() -> set[str]:
    """All names that a service ever gives."""
    found = telemetry(FACTS)
    found.requests.refused("queue_full")
    found.on_plan(plan(pipeline()))
    found.on_plan(plan(pipeline(epoch=2, change=change())))
    return {name.partition("{")[0] for name in await samples(found)}


async def test_vllms_names_are_there_under_our_prefix() -> None:
    wanted = {
        "num_requests_running",
        "num_requests_waiting",
        "kv_cache_usage_perc",
        "prompt_tokens_total",
        "generation_tokens_total",
        "request_success_total",
        "time_to_first_token_seconds_bucket",
        "time_per_output_token_seconds_bucket",
        "e2e_request_latency_seconds_bucket",
    }
    assert {f"remuda:{name}" for name in wanted} <= await every_name()


async def test_every_query_of_the_dashboard_names_metrics_that_there_are() -> None:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [v["query"] for v in board["templating"]["list"] if v["type"] == "query"]
    assert len(queries) > 20
    names = await every_name()
    for query in queries:
        asked = set(re.findall(r"remuda:\w+", query))
        assert asked, query
        assert asked <= names, query


def test_the_dashboard_is_one_that_grafana_loads() -> None:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert board["title"] == "Remuda"
    assert board["schemaVersion"] >= 36
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [tuple(panel["gridPos"][key] for key in "xywh") for panel in panels]
    assert all(x + w <= 24 for x, _, w, _ in places)
    assert len({(x, y) for x, y, _, _ in places}) == len(places)
    for panel in panels:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
