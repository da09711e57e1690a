"""Forecasts of saved plans agree with simulation, on the one that is quickest to simulate."""

from dataclasses import replace

import pytest

from benchmarks.forecasts import CASES, EXAMPLES, MAX_ERROR, Case, Compared, compare, main, table_of


def test_a_saved_plan_of_unequal_pipelines_is_forecast_as_it_is_simulated() -> None:
    """A fast pipeline and a very slow one: by tokens, the slow one would get far too much."""
    found = compare(replace(CASES[0], duration_s=2.0))
    assert abs(found.error) <= MAX_ERROR


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}-{case.max_step_tokens}")
def test_every_saved_plan_is_one_of_its_cluster(case: Case) -> None:
    cluster = case.cluster()
    assert cluster.pipelines
    assert case.plan.parent == EXAMPLES / "plans"
    assert not case.max_step_tokens or cluster.serving.max_step_tokens == case.max_step_tokens


def test_the_table_says_which_forecast_is_off() -> None:
    near = Compared(case=CASES[0], forecast=110.0, simulated=100.0)
    far = Compared(case=CASES[3], forecast=130.0, simulated=100.0)
    table = table_of([near, far])
    assert list(table.columns[4].cells) == ["+10.0%", "+30.0%"]
    assert list(table.columns[5].cells) == ["ok", "MISSED"]


def test_an_unknown_case_is_refused_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--case", "nowhere"]) == 1
    assert "expected one of laptop, unequal" in capsys.readouterr().err
