import json
from pathlib import Path

import pytest

from runtime.errors import ConfigError
from runtime.simulation.cluster_reading import load_cluster
from runtime.simulation.planned import with_plan
from scheduling.command import main

EXAMPLE = Path("examples/clusters/three_sites.toml")


def planned(tmp_path: Path, *more: str, cluster: Path = EXAMPLE) -> Path:
    path = tmp_path / "plan.json"
    assert main([str(cluster), "--time", "0.5", "--json", str(path), *more]) == 0
    return path


def test_a_plan_is_simulated_on_the_devices_it_names(tmp_path: Path) -> None:
    path = planned(tmp_path)
    found = with_plan(load_cluster(EXAMPLE), EXAMPLE, path)
    stages = [stage for p in json.loads(path.read_text())["pipelines"] for stage in p["stages"]]
    wishes = [wish for pipeline in found.wishes() for wish in pipeline]
    assert [wish.node for wish in wishes] == [stage["node"] for stage in stages]
    assert [wish.layers for wish in wishes] == [(s["start"], s["end"]) for s in stages]


def test_the_phases_of_a_plan_are_simulated(tmp_path: Path) -> None:
    path = planned(tmp_path)
    document = json.loads(path.read_text())
    phases = ["prefill", *["decode"] * (len(document["pipelines"]) - 1)]
    assert len(phases) > 1
    for pipeline, phase in zip(document["pipelines"], phases, strict=True):
        pipeline["phase"] = phase
    path.write_text(json.dumps(document))
    found = with_plan(load_cluster(EXAMPLE), EXAMPLE, path)
    assert [pipeline.phase for pipeline in found.pipelines] == phases


def test_nodes_alike_are_counted_in_both_files(tmp_path: Path) -> None:
    cluster = Path("examples/clusters/mixed_spot.toml")
    found = with_plan(load_cluster(cluster), cluster, planned(tmp_path, cluster=cluster))
    assert {node.id for node in found.nodes} >= {"g5-0", "g5-1", "g6-2", "g6e-3"}


def test_stages_of_several_devices_are_simulated_and_decode_alone_is_refused(
    tmp_path: Path,
) -> None:
    path = planned(tmp_path)
    document = json.loads(path.read_text())
    cluster = tmp_path / "two.toml"
    cluster.write_text(
        '[model]\nname = "llama2-70b-int8"\n[[nodes]]\nid = "n"\ndevices = ["H200", "H200"]\n'
    )
    stage = {"stage": 0, "node": "n", "worker": "w", "device": "cuda:0+cuda:1"}
    document["pipelines"][:] = [
        {
            "id": "0",
            "stages": [{**stage, "start": 0, "end": 80}],
            "num_blocks": 9,
            "block_tokens": 16,
        }
    ]
    document["forecast"]["pipelines"][:] = []
    path.write_text(json.dumps(document))
    found = with_plan(load_cluster(cluster), cluster, path)
    assert found.offers(found.nodes[0]) == ("H200*2:0",)
    one, both = found.device("H200:0"), found.device("H200*2:0")
    assert both.memory_bytes == 2 * one.memory_bytes
    document["forecast"]["pipelines"][:] = [{"phase": "decode"}]
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="decode alone for 0"):
        with_plan(load_cluster(cluster), cluster, path)


def test_what_is_no_plan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    for text, message in (("{", "plan.json"), ("[]", "expected an object")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            with_plan(load_cluster(EXAMPLE), EXAMPLE, path)
    with pytest.raises(ConfigError, match="cannot read"):
        with_plan(load_cluster(EXAMPLE), EXAMPLE, tmp_path / "none.json")
