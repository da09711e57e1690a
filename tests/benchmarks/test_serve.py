import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import serve
from benchmarks.machine import MachineTime
from benchmarks.serve import OURS, Measurement, Results, memory_table, rate_table
from benchmarks.systems import Burst, System


def _results(foreign_cores: tuple[float, float, float] = (0.1, 0.0, 0.2)) -> Results:
    results = Results(quiet=0.2)
    rounds = zip((10.0, 30.0, 60.0), (10.0, 20.0, 20.0), foreign_cores, strict=True)
    for ours, theirs, others in rounds:
        results.add(OURS, 8, Measurement(rate=ours, foreign_cores=0.1))
        results.add("transformers", 8, Measurement(rate=theirs, foreign_cores=others))
    return results


def test_a_ratio_is_the_median_of_the_ratios_within_a_round() -> None:
    results = _results()
    assert results.rate(OURS, 8) == 30.0
    assert results.ratio("transformers", 8) == 1.5
    assert results.max_foreign_cores() == 0.2


def test_a_round_in_which_either_system_was_disturbed_does_not_count() -> None:
    results = _results((0.1, 0.9, 0.7))
    assert results.rate("transformers", 8) == 10.0
    assert results.ratio("transformers", 8) == 1.0
    assert results.max_foreign_cores() == 0.1


def test_if_all_rounds_were_disturbed_all_count_and_the_worst_is_told() -> None:
    results = _results((0.5, 0.9, 0.7))
    assert results.ratio("transformers", 8) == 1.5
    assert results.max_foreign_cores() == 0.9


def test_a_system_that_was_not_measured_has_no_figure() -> None:
    results = _results()
    assert results.rate("vllm", 8) is None
    assert results.ratio("vllm", 8) is None
    assert Results(quiet=0.2).max_foreign_cores() == 0.0


def test_the_table_holds_every_system_and_whether_the_target_is_met() -> None:
    table = rate_table(_results(), [8, 16])
    cells = [list(column.cells) for column in table.columns]
    assert cells == [
        [OURS, "transformers"],
        ["30.0", "20.0 (1.50×, target 1.2 ✓)"],
        ["–", "–"],
    ]


def test_memory_is_shown_beside_the_bytes_of_the_stages_own_weights() -> None:
    sizes = {"weight_bytes": 200e6, "resident_bytes": 500e6, "resident_now": 600e6}
    table = memory_table([{"stage": 0, "layers": [0, 7], **sizes}])
    cells = [next(iter(column.cells)) for column in table.columns]
    assert cells == ["0", "[0, 7]", "200", "500", "2.50×", "600", "3.00×"]


class _System:
    def __init__(self) -> None:
        self.num_runs = 0

    def run(self, burst: Burst) -> float:
        self.num_runs += 1
        return float(self.num_runs)


@pytest.mark.parametrize(
    ("foreign", "expected"), [([0.1], 1), ([0.9, 0.1], 2), ([0.5, 0.9, 0.8], 1)]
)
def test_a_disturbed_burst_is_repeated_and_the_quietest_one_counts(
    foreign: list[float], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looks() -> Iterator[MachineTime]:
        for cores in foreign:
            yield MachineTime(0.0, 0.0, 0.0)
            yield MachineTime(1.0, cores, 0.0)

    times, system = looks(), _System()
    monkeypatch.setattr(serve, "machine_time", lambda: next(times))
    options = serve._parser().parse_args([])
    measured = serve._least_disturbed(system, Burst(1, 1, 1, 0), options)
    assert measured == Measurement(rate=float(expected), foreign_cores=min(foreign))
    assert system.num_runs == len(foreign)


def test_a_run_prints_its_tables_and_writes_every_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    systems: dict[str, System] = {OURS: _System(), "transformers": _System()}
    monkeypatch.setattr(serve, "_start", lambda options, running: systems)
    written = tmp_path / "rates.json"
    serve.main(["--rounds", "2", "--retries", "0", "--concurrency", "1,8", "--json", str(written)])
    shown = capsys.readouterr()
    assert "transformers" in shown.out
    assert "round 2:   8 remuda" in shown.err
    rounds = json.loads(written.read_text(encoding="utf-8"))["tokens_per_s"]
    # The first run of each warms it up and is not counted.
    assert [m["rate"] for m in rounds[OURS]["1"]] == [2.0, 4.0]
    assert [m["rate"] for m in rounds[OURS]["8"]] == [3.0, 5.0]


def test_the_flags_reach_the_service_and_the_peers() -> None:
    options = serve._parser().parse_args(
        [
            "--layers",
            "0:7,7:12",
            "--launch",
            "kv.num_blocks=64",
            "--threads",
            "3",
            "--dtype",
            "auto",
        ]
    )
    assert serve._launch_arguments(options) == [
        "--layers", "0:7,7:12", "--set", "model.dtype=auto", "--set", "kv.num_blocks=64",
    ]  # fmt: skip
    assert serve._peer_arguments(options) == [
        "--threads", "3", "--device", "cpu", "--dtype", "auto",
    ]  # fmt: skip
