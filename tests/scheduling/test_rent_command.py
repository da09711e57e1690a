import json
from itertools import product
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduling.command import main
from scheduling.errors import Infeasible, InvalidCluster
from scheduling.model_profile import known_model
from scheduling.rent_catalogue import parse_catalogue, rent_problem
from scheduling.solvers.rent import rent
from scheduling.solvers.rent_problem import RentProblem
from scheduling.solvers.rent_programme import Programme
from tests.scheduling.solvers.clusters import CountingClock
from tests.scheduling.test_plan_command_input import document
from tests.scheduling.test_rent import affordable, check

WORKED = Path("examples/rent/worked.toml")
SIX = Path("examples/rent/six_kinds.toml")
REQUESTS = {"prompt_tokens": 100, "output_tokens": 10, "count": 5}
OFFER = {"device": "4090", "available": 4}


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments], clock=CountingClock(0.01))


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high).map(lambda number: round(number, 3))


@st.composite
def catalogues(draw: st.DrawFn) -> dict[str, Any]:
    kinds, types = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    offers = [
        {
            "device": f"d{kind}",
            "available": draw(st.integers(0, 3)),
            "price_per_hour": draw(numbers(0.1, 4.0)),
        }
        for kind in range(kinds)
    ]
    rates = st.one_of(st.just(0.0), numbers(0.1, 5.0))
    replicas = [
        {
            "name": str(number),
            "devices": draw(
                st.dictionaries(
                    st.sampled_from([offer["device"] for offer in offers]),
                    st.integers(1, 2),
                    min_size=1,
                )
            ),
            "requests_per_s": draw(st.lists(rates, min_size=types, max_size=types)),
        }
        for number in range(draw(st.integers(1, 3)))
    ]
    requests = [{**REQUESTS, "count": draw(numbers(1.0, 100.0))} for _ in range(types)]
    return {"offers": offers, "requests": requests, "replicas": replicas}


def least_makespan_s(problem: RentProblem) -> float:
    """By every number of every replica."""
    programme = Programme(problem)
    found = (
        programme.best_shares(np.array(replicas, dtype=float))
        for replicas in product(range(4), repeat=len(problem.configurations))
        if affordable(problem, replicas)
    )
    return min((plan.makespan_s for plan in found if plan is not None), default=inf)


@settings(max_examples=40, deadline=None)
@given(data=catalogues(), money=numbers(0.1, 12.0))
def test_no_choice_of_replicas_takes_less_and_all_bounds_are_kept(
    data: dict[str, Any], money: float
) -> None:
    problem = rent_problem(parse_catalogue(document(data)), None, dollars_per_hour=money)
    truth = least_makespan_s(problem)
    if truth == inf:
        with pytest.raises(Infeasible):
            list(rent(problem))
        return
    plan = list(rent(problem))[-1]
    check(problem, plan)
    assert plan.cost_per_hour <= money * (1 + 1e-9)
    assert plan.makespan_s == pytest.approx(truth, rel=2e-5)
    assert plan.bound_s <= truth * (1 + 1e-5)


def test_the_worked_example_takes_28_431_s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rent.json"
    assert run("--rent", WORKED, "--budget", "8", "--json", path) == 0
    assert "100 requests in 28.431 s" in capsys.readouterr().out
    plan = json.loads(path.read_text())
    # 1 x t1 takes x of the 80 and all of the 20; both replicas end at once: x + 20/1.2 = (80-x)/2.4
    assert plan["makespan_s"] == pytest.approx((80 + 20 / 1.2) / 3.4, rel=1e-6)
    assert plan["devices"] == {"t1": 1, "t2": 2, "t3": 0}
    assert (plan["cost_per_hour"], plan["gap"]) == (8.0, pytest.approx(0.0, abs=1e-5))
    assert [(one["name"], one["count"]) for one in plan["replicas"]] == [
        ("1 x t1", 1),
        ("2 x t2, TP", 1),
    ]


def test_replicas_are_estimated_for_a_model_and_what_is_rented_is_planned_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rent.json"
    wanted = ["--budget", "8", "--model", "llama-70b", "--time", "0.1", "--max-tp", "4"]
    assert run("--rent", SIX, *wanted, "--json", path) == 0
    out = capsys.readouterr().out
    assert "1000 requests in" in out
    assert "of 8 $/h" in out
    assert "on what is rented:" in out
    rented = json.loads(path.read_text())
    used = {s["node"] for p in rented["plan"]["pipelines"] for s in p["stages"]}
    kinds = {node.rpartition("-")[0] for node in used}
    assert kinds == {kind for kind, number in rented["devices"].items() if number}
    assert rented["plan"]["forecast"]["tokens_per_s"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([WORKED, "--budget", "1"], "costs 2 $/h and the budget is 1 $/h; raise --budget to 2"),
        ([WORKED, "--budget", "8", "--model", "llama-8b"], "leave --model out"),
        ([SIX, "--budget", "8"], "give --model"),
        ([SIX, "--budget", "9", "--model", "llama-405b"], "offer more devices or larger ones"),
        (["missing.toml", "--budget", "8"], "cannot be read"),
    ],
)
def test_what_cannot_be_rented_is_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[object], message: str
) -> None:
    assert run("--rent", *arguments, "--time", "0.05") == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"offers": [OFFER], "requests": []}, "requests"),
        ({"offers": [OFFER, OFFER], "requests": [REQUESTS]}, "expected one of '4090', got 2"),
        ({"offers": [{**OFFER, "available": -1}], "requests": [REQUESTS]}, "available"),
        ({"offers": [{**OFFER, "price": 1}], "requests": [REQUESTS]}, "unknown field `price`"),
        ({"offers": [OFFER], "requests": [{**REQUESTS, "count": float("nan")}]}, "count"),
        (
            {
                "offers": [OFFER],
                "requests": [REQUESTS],
                "replicas": [{"name": "r", "devices": {"H100": 1}, "requests_per_s": [1.0]}],
            },
            "expected devices of 4090, got H100",
        ),
        (
            {
                "offers": [OFFER],
                "requests": [REQUESTS],
                "replicas": [{"name": "r", "devices": {"4090": 1}, "requests_per_s": []}],
            },
            "expected 1 requests_per_s",
        ),
    ],
)
def test_a_catalogue_is_read_strictly(data: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidCluster, match=message):
        parse_catalogue(document(data))


def test_a_device_that_nobody_knows_needs_a_price_and_replicas() -> None:
    found = parse_catalogue(
        document({"offers": [{**OFFER, "device": "x"}], "requests": [REQUESTS]})
    )
    with pytest.raises(InvalidCluster, match="'x' has no usual price"):
        rent_problem(found, known_model("llama-1b"), dollars_per_hour=1.0)
    priced = {**OFFER, "device": "x", "price_per_hour": 1.0}
    found = parse_catalogue(document({"offers": [priced], "requests": [REQUESTS]}))
    with pytest.raises(InvalidCluster, match="say what it does"):
        rent_problem(found, known_model("llama-1b"), dollars_per_hour=1.0)
