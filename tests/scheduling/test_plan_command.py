import json
from pathlib import Path

import pytest

from scheduling.cluster_toml import parse_cluster
from scheduling.command import main
from scheduling.errors import InvalidCluster, InvalidPlan
from scheduling.plan import Plan, check
from scheduling.plan_file import device_name, read_document
from tests.scheduling.solvers.clusters import CountingClock

CLUSTER = """
[model]
name = "llama-8b"

[[nodes]]
id = "a"
devices = ["L4", "L4"]

[[nodes]]
id = "t"
count = 2
devices = ["cpu", "T4"]
price_per_hour = 0.5
"""


LOAD = """
[load]
rate = 2
mean_prompt = 300
mean_output = 50
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.toml"
    path.write_text(CLUSTER)
    return path


def run(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments], clock=CountingClock(0.05))


def test_a_plan_is_printed_with_its_reasons(
    cluster: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cluster, "--workload", "200:100", "--time", "2") == 0
    out, err = capsys.readouterr()
    assert "tokens/s by" in out
    assert "at most" in out
    assert "layers   0:" in out
    assert "bound by" in out
    assert err.count("tokens/s by") >= 1


def test_the_file_is_a_plan_that_can_be_served(cluster: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    assert run(cluster, "--json", path, "--time", "2") == 0
    document = json.loads(path.read_text())
    forecast = document.pop("forecast")
    found = Plan.from_dict(document)
    check(found, num_layers=32)
    assert found.model == "llama-8b"
    assert len(forecast["pipelines"]) == len(found.pipelines)
    assert forecast["score"] <= forecast["bound"] * (1 + 1e-9)
    placement = read_document(json.loads(path.read_text()), parse_cluster(CLUSTER).cluster)
    assert len(placement.pipelines) == len(found.pipelines)


def test_two_plans_are_compared_line_by_line(
    cluster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    assert run(cluster, "--json", one, "--time", "2") == 0
    assert run(cluster, "--json", other, "--time", "2", "--budget", "0.9") == 0
    capsys.readouterr()
    assert run("explain", one, other, cluster) == 0
    out = capsys.readouterr().out
    assert f"--- {one}" in out
    assert any(line.startswith("-pipeline") for line in out.splitlines())
    assert run("explain", one, one, cluster) == 0
    assert capsys.readouterr().out == "the plans are the same\n"


@pytest.mark.parametrize("ending", [".svg"])
def test_the_plan_is_drawn(cluster: Path, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"plan{ending}"
    assert run(cluster, "--plot", path, "--time", "1") == 0
    text = path.read_text()
    assert text.startswith("<svg")
    assert "ms a step</title>" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "llama-405b"], "needs 81"),
        (["--model", "unheard-of"], "not one of llama-1b"),
        (
            ["--workload", "1:2:3"],
            "expected conversation, code, load, IN:OUT of at most",
        ),
        (["--objective", "slo"], "needs one of them"),
        (["--slo", "ttft=1"], "belong to 'slo'"),
        (["--plot", "plan.pdf"], "ends in .svg or .png"),
        (["--workload", "missing.csv"], "missing.csv"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    cluster: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(cluster, *arguments) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err


def test_a_plan_may_be_for_the_load_that_the_file_is_simulated_with(
    cluster: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.write_text(CLUSTER + LOAD)
    assert run(cluster, "--workload", "load", "--time", "1") == 0
    out = capsys.readouterr().out
    assert "of 300:50 log-normal" in out


@pytest.mark.parametrize(
    ("load", "message"),
    [
        ('mean_prompt = "long"', "load: Expected `float`, got `str` - at `$.mean_prompt`"),
        ("length = 3", "load: Object contains unknown field `length`"),
        ("mean_output = 0", "load: Expected `float` >= 1.0 - at `$.mean_output`"),
        ("spread = -1", "load: Expected `float` >= 0.0 - at `$.spread`"),
    ],
)
def test_a_load_that_makes_no_sense_is_refused(
    cluster: Path, capsys: pytest.CaptureFixture[str], load: str, message: str
) -> None:
    cluster.write_text(f"{CLUSTER}\n[load]\n{load}\n")
    assert run(cluster, "--workload", "load") == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["ttft=0", "speed=1", "ttft=1,ttft=2", "tpot=fast"])
def test_latencies_are_read_strictly(cluster: Path, text: str) -> None:
    with pytest.raises(SystemExit):
        run(cluster, "--objective", "slo", "--slo", text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes = 1", "Expected `array`"),
        ('[[nodes]]\nid = "a"\ndevices = ["T5"]', "device 'T5' is not one of"),
        ('[[nodes]]\nid = "a"\ndevices = ["T4"]\nprise = 1', "unknown field `prise`"),
        ('[[nodes]]\nid = "a"\ndevices = ["T4"]\nsite = "a"', "names two nodes, or a node and"),
        (
            '[[nodes]]\nid = "a"\ndevices = ["T4"]\n[[links]]\nbetween = ["a", "b"]\n'
            "bytes_per_s = 1.0\nlatency_s = 0.0",
            "'b' is no node and no site",
        ),
        ("=", "not TOML"),
    ],
)
def test_a_cluster_file_is_read_strictly(text: str, message: str) -> None:
    with pytest.raises(InvalidCluster, match=message):
        parse_cluster(text)


@pytest.mark.parametrize("name", ["laptop", "three_sites", "mixed_spot"])
def test_the_example_clusters_are_read(name: str) -> None:
    path = Path("examples/clusters") / f"{name}.toml"
    assert parse_cluster(path.read_text()).cluster.num_devices >= 2


def test_gpus_are_counted_without_the_cpu() -> None:
    assert [device_name(("cpu", "T4", "T4"), i) for i in range(3)] == ["cpu", "cuda:0", "cuda:1"]


def test_a_plan_for_another_cluster_is_refused() -> None:
    stage = {"stage": 0, "node": "a", "worker": "w", "device": "cuda:7", "start": 0, "end": 32}
    pipeline = {"id": "0", "stages": [stage], "num_blocks": 1, "block_tokens": 16}
    document = {"epoch": 0, "model": "m", "pipelines": [pipeline]}
    with pytest.raises(InvalidPlan, match="expected a device of cuda:0, cuda:1, got 'cuda:7'"):
        read_document(document, parse_cluster(CLUSTER).cluster)
    stage["node"] = "z"
    with pytest.raises(InvalidCluster, match="node 'z': not in this cluster"):
        read_document(document, parse_cluster(CLUSTER).cluster)
    with pytest.raises(InvalidPlan, match="expected an object"):
        read_document([], parse_cluster(CLUSTER).cluster)
