"""Weights of real services: from the node's shared memory, and from another node."""

import os
import re
import signal

from tests.cluster.joining import waiting_cluster
from tests.cluster.striking import strike_in_mid_stream
from tests.support.services import Client, Launched, is_alive, launched, service


def attached(running: Launched) -> list[tuple[int, int]]:
    """Of each load of a stage, how many parts were in memory, and how many it needed."""
    pattern = re.compile(r"tensors attached parts=(\d+) of=(\d+)")
    return [(int(m[1]), int(m[2])) for line in running.lines if (m := pattern.search(line))]


def test_a_node_takes_its_weights_from_another_and_serves_the_same(demo: Client) -> None:
    expected = strike_in_mid_stream(demo, lambda: None).text
    arguments = ["--set", "cluster.num_nodes=2", "--stages", "2", "--set", "weights.source=peer"]
    with waiting_cluster(*arguments) as cluster, cluster.joining("other"):
        client = cluster.client()
        cluster.main.wait_line(r"other/stage-\S+ \| .*weights fetched parts=\d+ bytes=\d+")
        assert strike_in_mid_stream(client, lambda: None).text == expected
        assert "Traceback" not in "\n".join(cluster.main.lines)


def test_a_replacement_attaches_what_the_lost_stage_left_in_memory(demo: Client) -> None:
    expected = strike_in_mid_stream(demo, lambda: None).text
    with service("--model", "demo", "--stages", "2") as (client, running):
        store = running.store()
        kept = {file.name: file.stat().st_ino for file in store.glob("*.safetensors")}
        assert len(kept) == 14
        pid = client.stages()[0]["pid"]
        struck = strike_in_mid_stream(client, lambda: os.kill(pid, signal.SIGKILL))
        assert struck.text == expected
        assert {f.name: f.stat().st_ino for f in store.glob("*.safetensors")} == kept
        assert client.stages()[0]["pid"] != pid
        first, second, third = attached(running)
        assert first[0] < first[1]
        assert second[0] < second[1]
        assert third[0] == third[1] in (first[1], second[1])
    assert not store.exists()


def test_a_service_without_a_store_keeps_nothing_in_shared_memory() -> None:
    arguments = ["--stages", "1", "--set", "weights.store_bytes=0"]
    with service("--model", "demo", *arguments) as (_, running):
        assert not list(running.store().glob("*.safetensors"))


def test_a_store_that_cannot_fit_is_refused_with_numbers() -> None:
    arguments = ["--stages", "1", "--port", "0", "--set", f"weights.store_bytes={1 << 47}"]
    with launched("--model", "demo", *arguments) as running:
        assert running.process.wait(60) == 1
        running.wait_line(r"^error: weights.store_bytes: node local: 140737488\.4 MB .* are free")


def test_the_next_launch_removes_what_a_killed_launcher_left(demo: Client) -> None:
    with service("--model", "demo", "--stages", "1") as (_, running):
        left = running.store()
        running.process.kill()
        running.process.wait()
        demo.wait_until(lambda: not is_alive(running.process.pid))
        assert left.exists()
    with service("--model", "demo", "--stages", "1"):
        assert not left.exists()
