"""`ctl plan`: what serves and what would serve more, as a person reads it and as a file."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.runtime.control.ordered import run
from tests.runtime.gateway.scripted import (
    Client,
    ScriptedBackend,
    ScriptedOperator,
    gateway,
)

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def operator() -> ScriptedOperator:
    return ScriptedOperator()


@pytest.fixture
async def client(operator: ScriptedOperator) -> AsyncIterator[Client]:
    async with gateway(ScriptedBackend(), operator=operator) as client:
        yield client


STAGE = {"node": "a", "device": "cpu", "layers": [0, 6], "step_s": 0.0125}
CURRENT = {
    "tokens_per_s": 80.0,
    "pipelines": [{"tokens_per_s": 80.0, "cycle_s": 0.1, "stages": [STAGE]}],
}
PLANNER: dict[str, Any] = {
    "auto": False,
    "state": "recommended; cluster.auto is off",
    "is_stale": False,
    "current": CURRENT,
    "proposed": {**CURRENT, "tokens_per_s": 160.0},
    "plan": {"epoch": 3, "model": "demo", "pipelines": [{"id": "1"}]},
    "gain": 1.0,
    "cost": {"load_bytes": 6_000_000, "copy_bytes": 0, "seconds": 5.5, "pause_s": 0.5},
    "unmeasured": ["cuda:1 of node b"],
}
SERVED = {
    "epoch": 3,
    "model": "demo",
    "pipelines": [
        {
            "id": "0",
            "stages": [
                {
                    "stage": 0,
                    "node": "a",
                    "worker": "a/stage-0.0",
                    "device": "cpu",
                    "start": 0,
                    "end": 6,
                }
            ],
        }
    ],
}


async def test_predictions_the_cost_and_the_state_are_shown(
    client: Client, operator: ScriptedOperator, capsys: Capture
) -> None:
    operator.plan = {**SERVED, "planner": PLANNER}
    ran = await run(capsys, client.url, "plan")
    assert ran.code == 0
    for told in (
        "a/stage-0.0",
        "current: predicted 80.0 tokens/s, not measured",
        "proposed: predicted 160.0 tokens/s",
        "12.50",
        "predicted gain 100.0%",
        "cost 6.0 MB to load, up to 0.0 MB KV to copy, 5.5 s, of these 0.50 s of pause",
        "not measured: cuda:1 of node b",
    ):
        assert told in ran.out
    assert ran.last_line == "auto off: recommended; cluster.auto is off"


async def test_phases_are_shown_with_what_comes_what_is_proposed_and_why(
    client: Client, operator: ScriptedOperator, capsys: Capture
) -> None:
    proposed = {
        "is_due": True,
        "phases": {"0": "prefill", "1": "decode"},
        "routes": [["0", "1", 1.0]],
        "attainment": 0.9,
        "attainment_now": 0.6,
        "gain": 0.3,
        "gain_error": 0.01,
        "flips": 2,
        "cost_requests": 11.5,
        "cost_s": 2.0,
        "reason": "staying has lost the 11.5 requests",
    }
    phases = {
        "phases": {"0": "both", "1": "both"},
        "state": "recommended; cluster.auto is off",
        "observed": {"requests_per_s": 11.5, "mean_prompt": 1000.4, "mean_output": 200.0},
        "proposed": proposed,
    }
    operator.plan = SERVED | {"planner": PLANNER | {"phases": phases}}
    ran = await run(capsys, client.url, "plan")
    assert ran.code == 0
    for line in (
        "phases: 0 both, 1 both",
        "requests: 11.50 a second, mean prompt 1000 and answer 200 tokens",
        "proposed phases: 0 prefill, 1 decode",
        "in time 90.0% of requests, not 60.0%, gain 30.0% (error 1.0%); cost 2 flips, 2.0 s, "
        "11.5 requests late",
        "rephasing: recommended; cluster.auto is off",
        "reason: staying has lost the 11.5 requests",
    ):
        assert line in " ".join(ran.out.split())


async def test_what_was_measured_stands_beside_what_was_predicted(
    client: Client, operator: ScriptedOperator, capsys: Capture
) -> None:
    stage = {**STAGE, "measured_step_s": 0.025}
    pipeline = {"tokens_per_s": 80.0, "cycle_s": 0.1, "stages": [stage]}
    current = {**CURRENT, "measured_tokens_per_s": 40.0, "pipelines": [pipeline]}
    operator.plan = {**SERVED, "planner": {**PLANNER, "current": current}}
    ran = await run(capsys, client.url, "plan")
    assert "predicted 80.0 tokens/s, measured 40.0" in ran.out
    assert "25.00" in ran.out


async def test_the_plan_as_json_is_what_a_swap_takes(
    client: Client, operator: ScriptedOperator, capsys: Capture
) -> None:
    operator.plan = {**SERVED, "planner": PLANNER}
    assert json.loads((await run(capsys, client.url, "plan", "--json")).out) == SERVED
    proposed = await run(capsys, client.url, "plan", "--json", "--proposed")
    assert json.loads(proposed.out) == PLANNER["plan"]


async def test_a_proposal_that_is_not_there_is_an_error_with_the_state(
    client: Client, operator: ScriptedOperator, capsys: Capture
) -> None:
    operator.plan = {**SERVED, "planner": {**PLANNER, "plan": None, "state": "nothing to do"}}
    ran = await run(capsys, client.url, "plan", "--json", "--proposed")
    assert (ran.code, ran.last_line) == (1, "error: no plan is proposed: nothing to do")
    operator.plan = SERVED
    ran = await run(capsys, client.url, "plan", "--json", "--proposed")
    assert ran.last_line == "error: no plan is proposed: it does not plan"


async def test_a_proposal_is_told_as_json_only(client: Client, capsys: Capture) -> None:
    ran = await run(capsys, client.url, "plan", "--proposed")
    assert (ran.code, ran.last_line) == (
        1,
        "error: --proposed: expected --json beside it, which prints a plan",
    )


async def test_a_service_that_predicts_nothing_still_shows_its_stages(
    client: Client, operator: ScriptedOperator, capsys: Capture
) -> None:
    operator.plan = SERVED
    ran = await run(capsys, client.url, "plan")
    assert "a/stage-0.0" in ran.out
    assert ran.last_line == "nothing is predicted: this service does not plan"


async def test_a_stale_prediction_says_so_and_a_missing_one_is_not_known(
    client: Client, operator: ScriptedOperator, capsys: Capture
) -> None:
    planner = {**PLANNER, "is_stale": True, "current": None, "gain": None, "cost": None}
    operator.plan = {**SERVED, "planner": planner}
    ran = await run(capsys, client.url, "plan")
    assert "current: not known" in ran.out
    assert "the cluster has changed since" in ran.last_line


@pytest.mark.parametrize("plan", [{}, {**SERVED, "planner": {"auto": 1}}])
async def test_an_answer_of_another_kind_is_one_line(
    client: Client, operator: ScriptedOperator, capsys: Capture, plan: dict[str, Any]
) -> None:
    operator.plan = plan
    ran = await run(capsys, client.url, "plan")
    assert ran.code == 1
    assert ran.last_line.startswith("error: no Remuda service answers")
