import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.oracles import MIN_STABLE, Finding, agree, check_family
from tests.models.families import make_checkpoint


def test_a_machine_without_cuda_is_told_so_and_nothing_is_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    assert gpu.main() == 2
    shown = capsys.readouterr()
    assert "no CUDA here" in shown.err
    assert not shown.out


def test_the_oracles_hold_on_the_cpu(tmp_path: Path) -> None:
    path = make_checkpoint("qwen3", tmp_path)
    findings = check_family("qwen3", path, "cpu", "bfloat16")
    assert len(findings) == 3
    assert [finding for finding in findings if not finding.holds] == []


@pytest.mark.parametrize(
    ("got", "expected", "holds"),
    [
        ([[1]] * 4, [[1], [1], [1], None], True),
        ([[1], [1], [2], [1]], [[1]] * 4, False),
        ([[1]] * 4, [[1], [1], None, None], False),
    ],
    ids=["enough agree", "one differs", f"fewer than {MIN_STABLE} count"],
)
def test_an_identity_holds_only_if_enough_prompts_count_and_all_of_them_agree(
    got: list[list[int]], expected: list[list[int] | None], holds: bool
) -> None:
    assert agree("llama", "a check", got, expected).holds is holds


def test_a_check_that_fails_is_marked_in_the_table() -> None:
    findings = [
        Finding(family="llama", check="a", holds=True),
        Finding(family="llama", check="b", holds=False, detail="4 of 6"),
    ]
    cells = [list(column.cells) for column in gpu.table_of(findings).columns]
    assert cells[2:] == [["✓", "✗"], ["", "4 of 6"]]
