"""The tables of the benchmarks of changes: what they show, and when a target is met."""

import pytest
from rich.table import Table

from benchmarks.changes import gap_table, parts_table, read_options, token_verdict
from benchmarks.changes_rounds import Disturbed, Results
from benchmarks.gaps import Differences, Steady
from benchmarks.orders import Change, Phase


def disturbed(
    *, longest_s: float = 0.15, pause_s: float = 0.04, recomputed: float = 0.0, lost: int = 0
) -> Disturbed:
    return Disturbed(
        what="to 0:6,6:12",
        steady=Steady(p50_s=0.05, p99_s=0.1, max_s=0.12),
        longest_s=longest_s,
        change=Change(
            phases=(
                Phase(name="copy", seconds=1.0, bytes=3_000_000),
                Phase(name="pause", seconds=pause_s, bytes=0),
            ),
            noticed_s=0.02,
            recomputed=recomputed,
            num_preempted=1,
        ),
        to_notice_s=0.01 if recomputed else 0.0,
        to_ready_s=1.5,
        differences=Differences(lost=lost),
        foreign_cores=0.3,
    )


def results(*rounds: Disturbed) -> Results:
    return Results(rounds=rounds, control=Differences(different=3))


def rows(table: Table) -> dict[str, list[str]]:
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    return {name: list(cells) for name, *cells in zip(*columns, strict=True)}


def test_a_round_is_shown_beside_its_own_steady_gaps() -> None:
    found = rows(gap_table(results(disturbed()), has_targets=True))
    assert found["to 0:6,6:12"] == [
        "50.0", "100.0", "120.0", "150.0", "1.50×", "40.0", "0.80×", "1500.0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("worst", "gap", "pause"),
    [
        (disturbed(), "≤ 2× met", "≤ 2× met"),
        (disturbed(longest_s=0.21), "≤ 2× missed", "≤ 2× met"),
        (disturbed(pause_s=0.11), "≤ 2× met", "≤ 2× missed"),
    ],
)
def test_the_worst_round_decides_whether_a_target_is_met(
    worst: Disturbed, gap: str, pause: str
) -> None:
    found = rows(gap_table(results(disturbed(), worst, disturbed()), has_targets=True))
    assert (found["target"][4], found["target"][6]) == (gap, pause)
    assert found["worst"][4] == f"{worst.gap_ratio:.2f}×"
    without = rows(gap_table(results(disturbed(), worst), has_targets=False))
    assert "target" not in without
    assert found["worst"] == without["worst"]


def test_the_parts_of_an_order_are_its_phases_and_what_they_moved() -> None:
    found = rows(parts_table(results(disturbed(pause_s=0.02), disturbed(pause_s=0.04))))
    assert found == {"copy": ["1000.0", "1000.0", "3.00"], "pause": ["30.0", "40.0", ""]}


@pytest.mark.parametrize(("recomputed", "verdict"), [(0.5, "met"), (0.7, "missed")])
def test_the_parts_of_a_loss_begin_at_the_kill_and_tell_what_was_recomputed(
    recomputed: float, verdict: str
) -> None:
    found = rows(parts_table(results(disturbed(recomputed=recomputed))))
    assert list(found)[:2] == ["kill until seen", "first news until begun"]
    assert found["kill until seen"] == ["10.0", "10.0", ""]
    told = f"recomputed, of whole prefills: {recomputed:.2f} ≤ 0.6 {verdict}"
    assert told in found


def test_the_tokens_of_the_worst_round_decide_and_the_control_is_shown() -> None:
    fine = token_verdict(results(disturbed(), disturbed()))
    assert fine.startswith("worst round 0 lost, 0 repeated, 0 different, 0 streams broken")
    assert "target 0 met" in fine
    assert "without a change 0 lost, 0 repeated, 3 different" in fine
    bad = token_verdict(results(disturbed(), disturbed(lost=2)))
    assert bad.startswith("worst round 2 lost")
    assert "target 0 missed" in bad


def test_quick_fills_in_what_was_not_asked_for() -> None:
    full, quick = read_options(["swap"]), read_options(["kill", "--quick", "--new", "7"])
    assert (full.concurrency, full.prompt, full.rounds) == (16, 128, 4)
    assert quick.new == 7
    assert quick.concurrency < full.concurrency


def test_what_is_to_be_changed_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_options([])
    assert "swap" in capsys.readouterr().err
