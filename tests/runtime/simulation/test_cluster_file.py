from pathlib import Path

import msgspec
import pytest

from actors.placement import StageWish
from runtime.errors import ConfigError
from runtime.simulation.catalogue import DEVICES, MODELS
from runtime.simulation.cluster_file import LoadFile, ServingFile, device_names
from runtime.simulation.cluster_reading import load_cluster, parse_cluster
from scheduling.command_problem import Load, Serving
from tests.runtime.simulation.clusters import (
    APART,
    MODEL,
    NODES,
    ONE_PIPELINE,
    TWO_PIPELINES,
    cluster_of,
)

EXAMPLES = sorted(Path("examples/clusters").glob("*.toml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_a_cluster(path: Path) -> None:
    cluster = load_cluster(path)
    assert cluster.shape == MODELS[cluster.model.name]
    assert all(cluster.device(d) for node in cluster.nodes for d in device_names(node))


def test_there_are_examples() -> None:
    assert [path.stem for path in EXAMPLES] == [
        "compute_and_bandwidth",
        "laptop",
        "mixed_spot",
        "three_sites",
        "thunderserve",
        "two_alike",
        "two_and_two",
        "unequal",
    ]


def test_what_a_file_does_not_say_is_planned_for_as_it_is_simulated() -> None:
    for planned, simulated in ((Serving(), ServingFile()), (Load(), LoadFile())):
        told = msgspec.structs.asdict(simulated)
        assert msgspec.structs.asdict(planned).items() <= told.items()


def test_a_model_is_its_numbers_or_its_name() -> None:
    assert cluster_of(ONE_PIPELINE).shape.layer_parameters == 2 * 512 * 64 * 10 + 3 * 512 * 1024
    named = parse_cluster('[model]\nname = "llama-8b"\n' + NODES)
    assert named.shape == MODELS["llama-8b"]


def test_a_device_is_its_kind_whatever_its_number() -> None:
    cluster = parse_cluster(MODEL + '[[nodes]]\nid = "a"\ndevices = ["L4", "L4", "T4"]\n')
    names = device_names(cluster.nodes[0])
    assert names == ("L4:0", "L4:1", "T4:2")
    assert [cluster.device(name) for name in names] == [
        DEVICES["L4"],
        DEVICES["L4"],
        DEVICES["T4"],
    ]


def test_a_kind_in_the_file_goes_before_the_catalogue() -> None:
    text = MODEL + '[[nodes]]\nid = "a"\ndevices = ["T4"]\n'
    own = "[devices.T4]\nmemory_bytes = 5\nflops_per_s = 6.0\nbytes_per_s = 7.0\n"
    assert parse_cluster(text + own).device("T4:0").memory_bytes == 5


def test_nodes_of_a_pipeline_give_a_stage_for_each_device() -> None:
    one, two = cluster_of(TWO_PIPELINES).wishes()
    assert one == (StageWish(node="a", device="slow:0"),)
    assert two == (StageWish(node="b", device="slow:0"), StageWish(node="b", device="slow:1"))


def test_stages_are_where_they_were_put() -> None:
    stages = '{ node = "b", device = 1, layers = "0:3" }, { node = "a", layers = "3:4" }'
    (wishes,) = cluster_of(ONE_PIPELINE + f"[[pipelines]]\nstages = [{stages}]\n").wishes()
    assert wishes == (
        StageWish(node="b", device="slow:1", layers=(0, 3)),
        StageWish(node="a", device="slow:0", layers=(3, 4)),
    )


def test_pipelines_serve_the_phases_they_are_given() -> None:
    assert [pipeline.phase for pipeline in cluster_of(APART).pipelines] == ["prefill", "decode"]
    with pytest.raises(ConfigError, match="expected a pipeline that serves decode or both"):
        parse_cluster(APART.replace('"decode"', '"prefill"'))


def test_stages_without_layers_are_split_for_them() -> None:
    stages = '{ node = "b" }, { node = "a" }'
    (wishes,) = cluster_of(ONE_PIPELINE + f"[[pipelines]]\nstages = [{stages}]\n").wishes()
    assert [wish.layers for wish in wishes] == [None, None]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nonsense", "not TOML"),
        (NODES, "model"),
        (MODEL, "nodes"),
        (ONE_PIPELINE + "[extra]\nx = 1\n", "unknown field `extra`"),
        (ONE_PIPELINE.replace("rate = 4", "rat = 4"), r"unknown field `rat` - at `\$.load`"),
        (ONE_PIPELINE.replace("hidden = 512", ""), "no hidden"),
        ("[model]\n" + NODES, "no num_layers"),
        ('[model]\nname = "gpt"\n' + NODES, "'gpt' is not one of llama-1b"),
        ('[model]\nname = "llama-8b"\nvocab = 5\n' + NODES, "vocab is one too many"),
        (MODEL + '[[nodes]]\nid = "a"\ndevices = ["abacus"]\n', "'abacus' is not one of T4"),
        (MODEL + '[[nodes]]\nid = "a"\ndevices = []\n', "length >= 1"),
        (ONE_PIPELINE.replace('id = "b"', 'id = "a"'), "'a' names two nodes"),
        (ONE_PIPELINE.replace('id = "b"', 'id = "east"'), "'east' names two nodes"),
        (ONE_PIPELINE.replace('id = "b"', 'id = "b/c"'), "matching regex"),
        (
            ONE_PIPELINE + '[[links]]\nbetween = ["a", "x"]\nbytes_per_s = 1.0\nlatency_s = 0.0\n',
            "links.between: 'x' is not one of a, b, east, west",
        ),
        (ONE_PIPELINE + "[[pipelines]]\n", "expected either nodes or stages"),
        (ONE_PIPELINE + '[[pipelines]]\nnodes = ["x"]\n', "'x' is not one of a, b"),
        (
            ONE_PIPELINE + '[[pipelines]]\nstages = [{ node = "a", layers = "0:3" }]\n',
            "expected layers 0:4, got 0:3",
        ),
        (
            ONE_PIPELINE + '[[pipelines]]\nstages = [{ node = "a", device = 1 }]\n',
            "node 'a' has 1 devices; got device 1",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_reason(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse_cluster(text)


def test_a_file_that_is_missing_or_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none.toml"):
        load_cluster(tmp_path / "none.toml")
    (tmp_path / "wrong.toml").write_text("wrong")
    with pytest.raises(ConfigError, match=r"wrong.toml: not TOML"):
        load_cluster(tmp_path / "wrong.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"bytes.toml"):
        load_cluster(tmp_path / "bytes.toml")
