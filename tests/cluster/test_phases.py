"""Prefill in one pipeline of real processes and decode in another: the texts of one pipeline."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from runtime import ctl
from tests.support.services import Client, service

APART = """
[serving]
max_step_tokens = 32

[[pipelines]]
phase = "prefill"
stages = [{ layers = "0:5", node = "local" }, { layers = "5:12", node = "local" }]

[[pipelines]]
phase = "decode"
stages = [{ layers = "0:12", node = "local" }]
"""
PROMPTS = [
    f"{start} {what} of the module is described by its name. " * 6
    for start in ("The list", "A class")
    for what in ("value", "function", "length", "type")
]


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    file = tmp_path_factory.mktemp("phases") / "apart.toml"
    file.write_text(APART)
    with service(str(file)) as (client, _):
        yield client


def texts(client: Client, max_tokens: int = 32) -> list[str]:
    def one(prompt: str, number: int) -> str:
        how = {"temperature": 0.8, "seed": number} if number % 2 else {}
        return str(client.complete(prompt, max_tokens=max_tokens, **how)["choices"][0]["text"])

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, PROMPTS, range(8)))


def hand_offs(client: Client) -> dict[str, dict[str, Any]]:
    _, status = client.get("/admin/status")
    return {pipeline["id"]: pipeline["hand_offs"] for pipeline in status["pipelines"]}


def test_eight_streams_that_are_handed_off_say_what_they_would_have_said(
    demo: Client, apart: Client
) -> None:
    assert texts(apart) == texts(demo)
    counts = hand_offs(apart)
    assert counts["0"]["done"] == 8
    assert counts["0"]["failed"] == counts["0"]["stayed"] == 0
    assert counts["0"]["bytes"] > 8 * 12 * 16
    assert counts["1"]["done"] == 0


def test_phases_are_flipped_under_load_and_no_stream_loses_anything(
    demo: Client, apart: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = texts(demo, 64)
    pids = [stage["pid"] for stage in apart.stages()]
    found: list[list[str]] = []
    load = threading.Thread(target=lambda: found.extend(texts(apart, 64) for _ in range(2)))
    load.start()
    flips = (("0", "decode", "1", "prefill"), ("0", "both", "1", "both"))
    for words in flips:
        assert ctl.main(["--url", apart.url, "flip", *words]) == 0
    assert ctl.main(["--url", apart.url, "flip", "0", "prefill", "1", "decode"]) == 0
    load.join(timeout=100)
    assert found == [expected, expected]
    assert [stage["pid"] for stage in apart.stages()] == pids
    assert "pipeline 1 serves prefill instead of decode" in capsys.readouterr().out
    _, status = apart.get("/admin/status")
    assert [p["phase"] for p in status["pipelines"]] == ["prefill", "decode"]
    assert status["recoveries"] == 0
    code, refused = apart.post("/admin/flip", {"phases": {"1": "prefill"}})
    assert (code, refused["done"]) == (409, False)
    assert "expected a pipeline that serves decode or both" in refused["reason"]
