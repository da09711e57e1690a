"""`runtime.calibrate`: a service's steps in, a cluster file's devices out, with the error left."""

import asyncio
import tomllib
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import pytest

from runtime import calibrate
from scheduling.calibration import predict
from scheduling.cluster_toml import parse_cluster
from scheduling.measured_steps import measurement_of
from tests.runtime.gateway.scripted import Client, ScriptedBackend, ScriptedOperator, gateway
from tests.scheduling.test_measured_steps import SHAPE, TRUE, step

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def operator() -> ScriptedOperator:
    return ScriptedOperator()


@pytest.fixture
async def client(operator: ScriptedOperator) -> AsyncIterator[Client]:
    async with gateway(ScriptedBackend(), operator=operator) as client:
        yield client


def stage(name: str, sizes: list[int], **changes: Any) -> dict[str, Any]:
    """What a service tells of a stage whose device is truly `TRUE`."""
    steps = []
    for tokens in sizes:
        found = step(tokens, 500)
        seconds = predict(TRUE, measurement_of(SHAPE, found))
        work = found.work
        counts = [work.num_tokens, work.num_pairs, work.num_context, work.num_drawn]
        steps.append([*map(int, counts), seconds])
    return {
        "node": "a",
        "device": "cuda:0",
        "layers": [0, 6],
        "steps": steps,
        "name": name,
        "memory_bytes": TRUE.memory_bytes,
        "flops_per_s": TRUE.peak_flops_per_s,
        "bytes_per_s": TRUE.peak_bytes_per_s,
        "layer_overhead_s": 1e-5,
    } | changes


SIZES = [1, 8, 64, 512, 1024, 2048, 4096]


async def ran(url: str) -> int:
    return await asyncio.to_thread(calibrate.main, ["--url", url])


async def test_the_printed_devices_are_those_of_a_cluster_file(
    client: Client, operator: ScriptedOperator, capsys: Capture
) -> None:
    few = stage("Other", [1])
    operator.steps = {"shape": asdict(SHAPE), "stages": [stage("NVIDIA L4", SIZES), few]}
    assert await ran(client.url) == 0
    text = capsys.readouterr().out
    assert "error of the fit:" in text
    assert "serve requests of different lengths" in text
    kinds = parse_cluster(f'{text}\n[[nodes]]\nid = "n"\ndevices = ["NVIDIA-L4"]\n').cluster.kinds
    found, true = kinds["NVIDIA-L4"].rates, TRUE.rates
    assert found.flops_per_s == pytest.approx(true.flops_per_s, rel=0.05)
    assert found.bytes_per_s == pytest.approx(true.bytes_per_s, rel=0.05)
    assert "Other" not in tomllib.loads(text)["devices"]


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"shape": None, "stages": []}, "shape is not known"),
        ({"shape": asdict(SHAPE), "stages": []}, "no stage answered"),
        ({"shape": asdict(SHAPE), "stages": [stage("L4", [1])]}, "expected 3 steps or more, got 1"),
        ({"stages": 3}, "it did not answer with what its steps took"),
    ],
)
async def test_where_nothing_can_be_fitted_one_line_says_why(
    client: Client,
    operator: ScriptedOperator,
    capsys: Capture,
    told: dict[str, Any],
    reason: str,
) -> None:
    operator.steps = told
    assert await ran(client.url) == 1
    last = capsys.readouterr().err
    assert last.startswith("error: ")
    assert reason in last


def test_a_device_without_a_plain_name_still_has_one() -> None:
    told = calibrate.ToldStage(node="a", device="cuda:0", layers=(0, 1), steps=(), name="***")
    assert calibrate._kind_name(told) == "device-cuda-0"
