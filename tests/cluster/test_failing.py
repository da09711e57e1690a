import contextlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import pytest

from models.demo import demo_path
from tests.cluster.striking import LONG, STRUCK, kill, post_raw, strike_in_mid_stream
from tests.support.services import (
    STOP_TIMEOUT_S,
    Client,
    Launched,
    descendants,
    is_alive,
    launched,
    service,
)

PATIENCE_S = 200.0
"""A process starts slowly where many do."""


def free_blocks(client: Client) -> int:
    _, status = client.get("/admin/status")
    return int(status["kv"]["free_blocks"])


def read_to_its_end(stream: Iterator[str]) -> None:
    """Keep a request alive until the service stops, whatever it then answers."""
    with contextlib.suppress(OSError, HTTPException):
        list(stream)


def idle(client: Client) -> bool:
    _, status = client.get("/admin/status")
    return bool(status["requests"] == {"running": 0, "waiting": 0})


@pytest.mark.timeout(400)
def test_while_a_stage_is_lost_health_says_503_and_requests_wait_and_a_stream_goes_on() -> None:
    arguments = ["--set", "cluster.spares=0", "--set", "serving.recovery_timeout_s=200"]
    with service("--model", "demo", "--stages", "2", *arguments) as (client, _):
        expected = short_text(client)

        def strike() -> None:
            kill(client.stages()[1]["pid"])
            client.wait_until(lambda: client.get("/health")[0] == 503)
            assert short_text(client) == expected

        struck = strike_in_mid_stream(client, strike, PATIENCE_S)
        assert struck.is_whole
        assert not struck.is_cut
        assert [line for line in struck.lines if line.startswith(": recovered stage=1 gap_ms=")]
        assert client.get("/health")[0] == 200
        assert client.get("/admin/status")[1]["recoveries"] == 1


def short_text(client: Client) -> str:
    """What a new request says, however long it has to wait."""
    return strike_in_mid_stream(client, lambda: None, PATIENCE_S, {**STRUCK, "max_tokens": 4}).text


def test_requests_that_no_capacity_comes_for_end_with_an_error_event_and_a_cut_connection() -> None:
    arguments = ["--set", "serving.recovery_timeout_s=1"]
    with service("--model", "demo", "--stages", "1", *arguments) as (client, _):
        processes = client.get("/admin/status")[1]["processes"]
        (node,) = [process["pid"] for process in processes if process["role"] == "node"]
        try:
            struck = strike_in_mid_stream(client, lambda: os.kill(node, signal.SIGSTOP))
        finally:
            kill(node)
        assert set(struck.error()) == {"message", "type", "param", "code"}
        assert struck.error()["code"] == "no_capacity"
        assert struck.is_cut
        assert "data: [DONE]" not in struck.lines


def test_a_client_that_goes_away_frees_its_blocks(demo: Client) -> None:
    everything = free_blocks(demo)
    with post_raw(demo, {**LONG, "stream": True}) as connection:
        assert connection.recv(4096)
        demo.wait_until(lambda: free_blocks(demo) < everything)
    demo.wait_until(lambda: idle(demo))
    assert free_blocks(demo) == everything


def test_a_full_queue_answers_429_with_retry_after() -> None:
    arguments = ["--set", "serving.max_running=1", "--set", "serving.max_waiting=1"]
    with service("--model", "demo", "--stages", "1", *arguments) as (client, _):
        streams = [client.stream("/v1/completions", LONG) for _ in range(2)]
        for stream in streams:
            threading.Thread(target=read_to_its_end, args=[stream], daemon=True).start()
        client.wait_until(lambda: client.get("/admin/status")[1]["requests"]["waiting"] == 1)
        code, answer = client.post("/v1/completions", LONG)
        assert code == 429
        assert answer["error"]["type"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything_in_order_and_leaves_no_process(how: signal.Signals) -> None:
    with service("--model", "demo", "--stages", "2") as (_, running):
        processes = descendants(running.process.pid)
        assert len(processes) >= 5
        shared = running.shared_files()
        assert shared
        running.process.send_signal(how)
        assert running.process.wait(STOP_TIMEOUT_S) == 0
        assert not [pid for pid in processes if is_alive(pid)]
    assert not [file for file in shared if file.exists()]


def test_a_second_interrupt_stops_at_once(demo: Client) -> None:
    with service("--model", "demo", "--stages", "2") as (client, running):
        processes = descendants(running.process.pid)
        os.kill(client.stages()[0]["pid"], signal.SIGSTOP)  # one that would not stop in order
        running.process.send_signal(signal.SIGINT)
        running.wait_line("stopping")
        running.process.send_signal(signal.SIGINT)
        running.wait_line("^the node did not stop in order: killed by signal 9")
        running.process.wait(STOP_TIMEOUT_S)
        demo.wait_until(lambda: not [pid for pid in processes if is_alive(pid)])


def test_a_killed_launcher_takes_everything_along(demo: Client) -> None:
    with service("--model", "demo", "--stages", "2") as (_, running):
        processes = descendants(running.process.pid)
        running.process.kill()
        running.process.wait()
        demo.wait_until(lambda: not [pid for pid in processes if is_alive(pid)])


def test_a_model_that_is_not_there_ends_the_launch_with_its_reason() -> None:
    with launched("--model", "/no/such/model", "--port", "0") as running:
        assert running.process.wait(30) == 1
        running.wait_line(r"^error: model: .*/no/such/model")


@pytest.fixture
def mismatched(tmp_path: Path) -> Path:
    """A model whose headers are sound and whose tensors do not have the shapes of its config."""
    model = shutil.copytree(demo_path(), tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["intermediate_size"] += 1
    (model / "config.json").write_text(json.dumps(config))
    return model


def failed(running: Launched) -> str:
    """The last line of a launch that fails, whose output holds no traceback."""
    assert running.process.wait(60) == 1
    running.wait_line("^<end>$")
    assert "Traceback" not in "\n".join(running.lines)
    return running.lines[-2]


def test_a_stage_that_cannot_load_ends_the_launch_with_its_reason(mismatched: Path) -> None:
    arguments = ["--model", str(mismatched), "--stages", "1", "--port", "0"]
    with launched(*arguments) as running:
        last = failed(running)
        assert last.startswith("error: stage 0 on node local could not start: ")
        assert "expected" in last
        assert not descendants(running.process.pid)


def test_a_device_that_no_node_has_ends_the_launch_with_those_it_has(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    stage = '{ layers = "0:12", node = "local", device = "cuda:77" }'
    file.write_text(f"[[pipelines]]\nstages = [{stage}]\n")
    with launched(str(file), "--port", "0") as running:
        assert failed(running).startswith("error: node local has no device 'cuda:77'; it has: ")


def test_nodes_that_never_come_end_the_launch_with_who_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text('[cluster]\njoin_timeout_s = 0.2\n[[nodes]]\nid = "a"\n[[nodes]]\nid = "b"\n')
    with launched(str(file), "--port", "0") as running:
        expected = "error: not ready after 0.2 s: waiting for node a; waiting for node b"
        assert failed(running) == expected
