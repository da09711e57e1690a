from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.planner import CASES, Measured, problem_of, save_growth, verdicts
from scheduling.placement import Placement
from scheduling.solvers.interface import Solution

FOUND = Measured(
    case=next(case for case in CASES if case.num_devices == 24),
    marks=((0.5, 80.0), (1.0, 99.0), (9.0, 100.0)),
    short_s=1.9,
    short=Solution(placement=Placement(()), score=99.0),
    long_s=60.0,
    long=Solution(placement=Placement(()), score=100.0, bound=125.0),
)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "24 GPUs: 99.0% of the value of 60 s in 1.9 s (target >= 98% in <= 2 s): ok"),
        ({"short_s": 2.1}, "in 2.1 s (target >= 98% in <= 2 s): MISSED"),
        ({"short": replace(FOUND.short, score=97.0)}, "97.0% of the value of 60 s in 1.9 s"),
    ],
)
def test_a_target_is_said_to_be_met_or_missed(change: dict[str, object], said: str) -> None:
    ((line, is_met),) = verdicts([replace(FOUND, **change)])  # type: ignore[arg-type]
    assert said in line
    assert is_met == (not change)
    assert line.endswith("ok" if is_met else "MISSED")


def test_a_size_without_a_target_has_no_line() -> None:
    assert not list(verdicts([replace(FOUND, case=CASES[0])]))
    assert {case.num_devices for case in CASES if case.target_s is not None} == {24, 256, 1000}


def test_the_growth_is_drawn(tmp_path: Path) -> None:
    assert FOUND.near_s == 1.0
    other = replace(FOUND, case=CASES[0], marks=((0.1, 5.0),))
    save_growth([other, FOUND], tmp_path / "growth.svg")
    assert "<svg" in (tmp_path / "growth.svg").read_text()


def test_a_problem_has_as_many_devices_as_asked_for() -> None:
    assert problem_of(24).cluster.num_devices == 24
