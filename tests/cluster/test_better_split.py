"""A real service with a bad split: what would be better is told, and gone over to under load."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import pytest

from runtime import ctl
from tests.cluster.joining import waiting_cluster
from tests.support.services import Client, launched

PLAN = """
[[nodes]]
id = "fast"
[[nodes]]
id = "slow"
[[pipelines]]
stages = [
    { layers = "0:2", node = "fast", num_threads = 1 },
    { layers = "2:12", node = "slow", num_threads = 1 },
]
"""
BODY = {"model": "demo", "max_tokens": 24, "temperature": 0, "ignore_eos": True}
PROMPTS = ("The", "If the", "A list", "A class")


@pytest.fixture(scope="module")
def badly_split(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Ten of twelve layers lie on the node with a quarter of the other's speed."""
    file = tmp_path_factory.mktemp("plan") / "cluster.toml"
    file.write_text(PLAN, encoding="utf-8")
    speeds = {"fast": "0.8", "slow": "0.2"}
    arguments = ["--node-id", "fast", "--emulated-speed", speeds["fast"]]
    with (
        waiting_cluster(str(file), *arguments, "--set", "cluster.spares=0") as cluster,
        ExitStack() as ending,
    ):
        joining = [*cluster.join_arguments("slow"), "--emulated-speed", speeds["slow"]]
        ending.enter_context(launched(*joining))
        yield cluster.client()
        cluster.main.stop()  # first, so that no node hands its work on


def burst(client: Client, under_way: threading.Event | None = None) -> tuple[list[str], float]:
    """What all streams say, and how many pieces came a second; tells when all are under way."""
    begun = threading.Barrier(len(PROMPTS), under_way.set if under_way is not None else None)

    def one(prompt: str) -> list[str]:
        lines = []
        for line in client.stream("/v1/completions", {**BODY, "prompt": prompt}):
            lines.append(line)
            if len(lines) == 9:
                begun.wait(60)
        assert "data: [DONE]" in lines
        return [line.split('"text"')[1].split('"')[1] for line in lines if '"text"' in line]

    began = monotonic()
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        said = list(pool.map(one, PROMPTS))
    return ["".join(pieces) for pieces in said], sum(map(len, said)) / (monotonic() - began)


def planner_of(client: Client) -> dict[str, object]:
    found: dict[str, object] = client.get("/admin/plan")[1]["planner"]
    return found


@pytest.mark.long
def test_a_better_split_is_told_and_gone_over_to_under_load_without_a_loss(
    badly_split: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = badly_split
    client.wait_until(lambda: not planner_of(client)["is_stale"])
    expected, before = burst(client)

    assert ctl.main(["--url", client.url, "plan"]) == 0
    shown = capsys.readouterr().out
    assert "predicted gain" in shown
    assert "rates of" in shown
    assert "datasheet" in shown
    assert float(str(planner_of(client)["gain"])) > 0.3

    file = tmp_path / "better.json"
    assert ctl.main(["--url", client.url, "plan", "--json", "--proposed"]) == 0
    file.write_text(capsys.readouterr().out, encoding="utf-8")
    under_way = threading.Event()
    with ThreadPoolExecutor(1) as beside:
        running = beside.submit(burst, client, under_way)
        assert under_way.wait(60)
        assert ctl.main(["--url", client.url, "swap", "--plan", str(file)]) == 0
        assert running.result()[0] == expected

    start, end = {stage["node"]: stage["layers"] for stage in client.stages()}["fast"]
    assert end - start > 6  # it has most of the layers now, or all of them
    again, after = burst(client)
    assert again == expected
    assert after >= before
