import json
import logging
from pathlib import Path

import pytest

from runtime.simulate import main
from tests.runtime.simulation.clusters import ONE_PIPELINE


@pytest.fixture
def cluster(tmp_path: Path) -> str:
    path = tmp_path / "cluster.toml"
    path.write_text(ONE_PIPELINE)
    return str(path)


def test_a_simulation_is_shown_and_written(
    cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faults, plot, found = (tmp_path / name for name in ("faults", "plot.svg", "found.json"))
    faults.write_text("1 kill stage 0.1\n")
    files = ["--faults", str(faults), "--plot", str(plot), "--json", str(found)]
    assert main([cluster, "--duration", "3", "--rate", "5", *files]) == 0
    out, err = capsys.readouterr()
    assert "0 wrong of" in out
    assert "kill stage 0.1" in out
    assert err == ""
    assert json.loads(found.read_text())["requests"]["done"] > 5
    assert "kill stage 0.1" in plot.read_text()


def test_times_of_each_request_are_written_under_another_routing(
    cluster: str, tmp_path: Path
) -> None:
    path = tmp_path / "times.csv"
    words = [cluster, "--requests", "3", "--times", str(path), "--routing", "round-robin"]
    assert main(words) == 0
    assert len(path.read_text().splitlines()) == 1 + 3


def test_a_trace_gives_the_requests(cluster: str, tmp_path: Path) -> None:
    path, found = tmp_path / "trace.csv", tmp_path / "found.json"
    rows = "".join(f"2023-11-16 18:15:{40 + i}.0000000,{10 + i},{3 + i}\n" for i in range(6))
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    assert main([cluster, "--trace", str(path), "--requests", "4", "--json", str(found)]) == 0
    result = json.loads(found.read_text())
    assert result["requests"]["done"] == 4
    tokens = result["throughput"]["output_tokens_per_s"] * result["elapsed_s"]
    assert round(tokens) == 3 + 4 + 5 + 6


def test_the_same_seed_writes_the_same_bytes_and_another_does_not(
    cluster: str, tmp_path: Path
) -> None:
    def written(name: str, seed: str) -> bytes:
        path = tmp_path / name
        assert main([cluster, "--requests", "6", "--seed", seed, "--json", str(path)]) == 0
        return path.read_bytes()

    assert written("one", "3") == written("two", "3")
    assert written("one", "3") != written("three", "4")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--trace", "none.csv"], "trace: cannot read none.csv"),
        (["--faults", "none"], "faults: cannot read none"),
        (["--plot", "plot.gif"], "expected a name that ends in .svg or .png"),
        (["--duration", "1e-9"], "no request comes within 1e-09 s"),
        (["--requests", "1", "--json", "/no/such/folder/x"], "No such file"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    cluster: str, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([cluster, *arguments]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert complaint in err
    assert len(err.splitlines()) == 1


def test_a_cluster_that_cannot_come_up_is_said_in_a_line(
    cluster: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(cluster).write_text(ONE_PIPELINE.replace("60000000", "6000"))
    assert main([cluster]) == 1
    assert "no split of 4 layers fits" in capsys.readouterr().err


def test_a_wrong_token_is_counted_and_told_by_the_exit_status(
    cluster: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("runtime.simulation.simulation.is_right", lambda *args: False)
    assert main([cluster, "--requests", "2"]) == 1
    assert "2 wrong of 2 checked" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--rate", "0"], ["--duration", "inf"], ["--requests", "0"]])
def test_numbers_that_make_no_sense_are_mistyped(cluster: str, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([cluster, *arguments])
    assert ended.value.code == 2


def test_logging_is_left_as_it_was(cluster: str) -> None:
    before = list(logging.getLogger().handlers)
    assert main([cluster, "--requests", "1"]) == 0
    assert logging.getLogger().handlers == before
