"""The command that runs schedules: what it prints, and what it says at its end."""

import pytest

from tests.simulation.play import play
from tests.simulation.run import cut_down, main
from tests.simulation.schedules import schedule_of
from tests.simulation.test_of_the_tests import the_wrong_epoch_is_dropped

SEED = 27
"""Its schedule has a swap, at which the bug shows."""


def test_one_seed_prints_its_schedule_and_how_every_request_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--seed", str(SEED)]) == 0
    told = capsys.readouterr().out
    assert str(schedule_of(SEED)) in told
    assert "1 schedules, 1 of them with 4 or more requests under way" in told
    assert "0 failed: none" in told


def test_a_failing_seed_is_told_with_the_command_that_replays_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    the_wrong_epoch_is_dropped(monkeypatch)
    assert main(["--seeds", f"{SEED}:{SEED + 1}"]) == 1
    told = capsys.readouterr().out
    assert f"python -m tests.simulation.run --seed {SEED} --verbose" in told
    assert f"1 failed: {SEED}" in told


def test_when_the_time_is_over_no_further_seed_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "0:1000", "--minutes", "0"]) == 0
    assert "0 schedules" in capsys.readouterr().out


def test_a_failing_schedule_is_cut_down_to_what_it_fails_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    the_wrong_epoch_is_dropped(monkeypatch)
    whole = schedule_of(SEED)
    short = cut_down(whole)
    assert len(short.events) < len(whole.events) // 4
    assert play(short).problems
