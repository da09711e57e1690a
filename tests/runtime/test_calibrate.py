"""`runtime.calibrate`: a service's steps in, a cluster file's devices out, with the error left."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from runtime import calibrate
from scheduling import calibrate as of_files
from tests.runtime.gateway.scripted import Client, ScriptedBackend, ScriptedOperator, gateway
from tests.scheduling.test_calibrate_command import told_stage
from tests.scheduling.test_calibration import LAYERS, SHAPE

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def operator() -> ScriptedOperator:
    return ScriptedOperator()


@pytest.fixture
async def client(operator: ScriptedOperator) -> AsyncIterator[Client]:
    async with gateway(ScriptedBackend(), operator=operator) as client:
        yield client


async def ran(*arguments: str) -> int:
    return await asyncio.to_thread(calibrate.main, list(arguments))


async def test_what_is_saved_of_a_service_is_fitted_to_the_same_devices_later(
    client: Client, operator: ScriptedOperator, capsys: Capture, tmp_path: Path
) -> None:
    stages = [told_stage("NVIDIA L4", layers) for layers in LAYERS]
    operator.steps = {"shape": asdict(SHAPE), "stages": stages}
    path = tmp_path / "steps.json"
    assert await ran("--url", client.url, "--save", str(path)) == 0
    now = capsys.readouterr().out
    assert "[devices.NVIDIA-L4]" in now
    assert of_files.main([str(path)]) == 0
    assert capsys.readouterr().out == now


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"shape": None, "stages": []}, "shape is not known"),
        ({"shape": asdict(SHAPE), "stages": []}, "no stage answered"),
        (
            {"shape": asdict(SHAPE), "stages": [told_stage("L4", (0, 2), (1,))]},
            "expected steps of 4 sizes or more, got 1",
        ),
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
    assert await ran("--url", client.url) == 1
    last = capsys.readouterr().err
    assert last.startswith("error: ")
    assert reason in last
