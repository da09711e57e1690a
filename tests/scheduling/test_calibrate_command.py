"""`scheduling.calibrate`: saved steps in, a cluster file's devices out, with the error left."""

import json
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from scheduling.calibrate import main
from scheduling.cluster_toml import parse_cluster
from scheduling.steps_file import ToldStage, kind_name
from tests.scheduling.test_calibration import LAYERS, SHAPE, SIZES, TRUE, step

Capture = pytest.CaptureFixture[str]


def told_stage(
    name: str, layers: tuple[int, int], sizes: tuple[int, ...] = SIZES
) -> dict[str, Any]:
    """What a service tells of a stage whose device is truly `TRUE`."""
    found = [step(tokens, layers=layers) for tokens in sizes]
    steps = [
        [int(s.work.num_tokens), int(s.work.num_pairs), int(s.work.num_context), 1, s.seconds]
        for s in found
    ]
    return {
        "node": "a",
        "device": "cuda:0",
        "layers": list(layers),
        "steps": steps,
        "name": name,
        "memory_bytes": TRUE.memory_bytes,
        "flops_per_s": TRUE.peak_flops_per_s,
        "bytes_per_s": TRUE.peak_bytes_per_s,
        "layer_overhead_s": 1e-5,
    }


def saved(path: Path, *stages: dict[str, Any], shape: Any = SHAPE) -> str:
    told = {"shape": None if shape is None else asdict(shape), "stages": stages}
    path.write_text(json.dumps(told), encoding="utf-8")
    return str(path)


def test_the_printed_devices_are_those_of_a_cluster_file(tmp_path: Path, capsys: Capture) -> None:
    few = told_stage("Other", (0, 2), (1,))
    one = saved(tmp_path / "one.json", told_stage("NVIDIA L4", LAYERS[0]), few)
    two = saved(tmp_path / "two.json", *(told_stage("NVIDIA L4", layers) for layers in LAYERS[1:]))
    assert main([one, two]) == 0
    text = capsys.readouterr().out
    assert "24 measured steps of 24 sizes" in text
    assert "serve requests of different lengths" in text
    kinds = parse_cluster(f'{text}\n[[nodes]]\nid = "n"\ndevices = ["NVIDIA-L4"]\n').cluster.kinds
    found, true = kinds["NVIDIA-L4"].rates, TRUE.rates
    assert found.flops_per_s == pytest.approx(true.flops_per_s, rel=0.01)
    assert found.bytes_per_s == pytest.approx(true.bytes_per_s, rel=0.01)
    assert found.step_overhead_s == pytest.approx(true.step_overhead_s, rel=0.01)
    assert "Other" not in tomllib.loads(text)["devices"]


def test_files_of_two_models_are_not_mixed(tmp_path: Path, capsys: Capture) -> None:
    one = saved(tmp_path / "one.json", told_stage("L4", LAYERS[0]))
    other = saved(tmp_path / "other.json", shape=replace(SHAPE, vocab=7))
    assert main([one, other]) == 1
    assert "expected files of one model, got 2 models" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "steps.json: expected what GET /admin/steps answers"),
        ('{"shape": null, "stages": []}', "shape is not known"),
        ('{"shape": null, "stages": 3}', "steps.json: expected what GET /admin/steps answers"),
    ],
)
def test_where_nothing_can_be_fitted_one_line_says_why(
    tmp_path: Path, capsys: Capture, text: str, reason: str
) -> None:
    path = tmp_path / "steps.json"
    path.write_text(text, encoding="utf-8")
    assert main([str(path)]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert reason in told
    assert told.count("\n") == 1
    assert main([str(tmp_path / "none.json")]) == 1
    assert "No such file" in capsys.readouterr().err


def test_a_device_without_a_plain_name_still_has_one() -> None:
    told = ToldStage(node="a", device="cuda:0", layers=(0, 1), steps=(), name="***")
    assert kind_name(told) == "device-cuda-0"
