"""Phases and routes of a plan: kept through JSON, and refused where requests would be left over."""

import json
import math
from dataclasses import replace

import pytest

from scheduling.errors import InvalidPlan
from scheduling.placement import Phase
from scheduling.plan import (
    NodeId,
    PipelineId,
    PipelinePlan,
    Plan,
    Route,
    StagePlan,
    WorkerId,
    check,
    check_phases,
)


def plan_of(*phases: Phase, routes: tuple[Route, ...] = ()) -> Plan:
    pipelines = tuple(
        PipelinePlan(
            id=PipelineId(str(number)),
            stages=(
                StagePlan(
                    stage=0,
                    node=NodeId("n"),
                    worker=WorkerId(f"n/{number}"),
                    device="cpu",
                    start=0,
                    end=4,
                ),
            ),
            num_blocks=8,
            block_tokens=4,
            phase=phase,
        )
        for number, phase in enumerate(phases)
    )
    return Plan(epoch=3, model="m", pipelines=pipelines, routes=routes)


ROUTE = Route(prefill="0", decode="1", weight=2)


def test_phases_and_routes_outlive_a_trip_through_json() -> None:
    plan = plan_of("prefill", "decode", routes=(ROUTE,))
    check(plan, 4)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_a_plan_without_phases_serves_both() -> None:
    data = plan_of("prefill", "decode").to_dict()
    del data["routes"]
    for pipeline in data["pipelines"]:
        del pipeline["phase"]
    assert Plan.from_dict(data) == plan_of("both", "both")


@pytest.mark.parametrize("phase", ["Prefill", "", "all"])
def test_an_unknown_phase_is_refused(phase: str) -> None:
    data = plan_of("both").to_dict()
    data["pipelines"][0]["phase"] = phase
    with pytest.raises(InvalidPlan, match="expected one of both, prefill, decode, got"):
        Plan.from_dict(data)


@pytest.mark.parametrize(
    ("phases", "lacking"),
    [(("prefill",), "decode"), (("prefill", "prefill"), "decode"), (("decode",), "prefill")],
)
def test_a_plan_by_which_requests_cannot_begin_or_not_go_on_is_refused(
    phases: tuple[Phase, ...], lacking: str
) -> None:
    with pytest.raises(InvalidPlan, match=f"expected a pipeline that serves {lacking} or both"):
        check(plan_of(*phases), 4)


@pytest.mark.parametrize(
    "phases", [(), ("both",), ("prefill", "both"), ("decode", "both"), ("prefill", "decode")]
)
def test_phases_that_serve_every_request_are_taken(phases: tuple[Phase, ...]) -> None:
    check_phases({PipelineId(str(number)): phase for number, phase in enumerate(phases)})


@pytest.mark.parametrize(
    ("route", "told"),
    [
        (replace(ROUTE, weight=0.0), "a weight above 0, got 0"),
        (replace(ROUTE, weight=math.nan), "a weight above 0"),
        (replace(ROUTE, decode="7"), "'7' to be a pipeline that serves decode or both, got no"),
        (replace(ROUTE, prefill="1", decode="1"), "'1' to be a pipeline that serves prefill"),
        (replace(ROUTE, decode="0"), "expected '0' to be a pipeline that serves decode or both"),
    ],
)
def test_a_route_that_does_not_lead_from_prefill_to_decode_is_refused(
    route: Route, told: str
) -> None:
    with pytest.raises(InvalidPlan, match=told):
        check(plan_of("prefill", "decode", routes=(route,)), 4)


def test_a_route_that_is_there_twice_is_refused() -> None:
    with pytest.raises(InvalidPlan, match="route"):
        check(plan_of("prefill", "decode", routes=(ROUTE, ROUTE)), 4)
