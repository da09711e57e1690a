import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster.joining import TOKEN, Cluster, waiting_cluster
from tests.cluster.striking import strike_in_mid_stream
from tests.support.services import Client, Launched, descendants, is_alive, launched

PROMPTS = [f"{start} {what}" for start in ("The", "If the") for what in ("list", "class", "value")]

PLAN = """
[[nodes]]
id = "a"
[[nodes]]
id = "b"
[[nodes]]
id = "c"
[[pipelines]]
stages = [
    { layers = "0:2", node = "c", num_threads = 1 },
    { layers = "2:9", node = "a", num_threads = 1 },
    { layers = "9:12", node = "b", device = "cpu", num_threads = 1 },
]
"""


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes as a file names them, the first played by the waiting launcher itself."""
    file = tmp_path_factory.mktemp("plan") / "cluster.toml"
    file.write_text(PLAN, encoding="utf-8")
    with waiting_cluster(str(file), "--node-id", "a") as cluster:
        cluster.main.wait_line("^waiting for node b; waiting for node c$")
        with cluster.joining("b", "c"):
            cluster.client()
            yield cluster


@pytest.fixture
def two() -> Iterator[Cluster]:
    """Two nodes that no file names, for the tests that hurt them."""
    arguments = ["--set", "cluster.num_nodes=2", "--stages", "2"]
    with waiting_cluster(*arguments) as cluster, cluster.joining("other"):
        cluster.client()
        yield cluster


def greedy(client: Client) -> list[str]:
    def one(prompt: str) -> str:
        return str(client.complete(prompt, max_tokens=24)["choices"][0]["text"])

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(one, PROMPTS))


def node_of(pid: int) -> int:
    """The parent of a stage worker's process: its node's."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_one_pipeline_lies_on_three_nodes_with_the_layers_of_the_file(three: Cluster) -> None:
    stages = three.client().stages()
    assert [(stage["node"], stage["layers"]) for stage in stages] == [
        ("c", [0, 2]),
        ("a", [2, 9]),
        ("b", [9, 12]),
    ]
    assert len({node_of(stage["pid"]) for stage in stages}) == 3
    assert {stage["state"] for stage in stages} == {"ready"}


def test_three_nodes_give_the_greedy_text_of_one_machine(three: Cluster, demo: Client) -> None:
    assert greedy(three.client()) == greedy(demo)


def test_a_waiting_launcher_says_who_is_missing_and_how_they_join(three: Cluster) -> None:
    lines = three.main.lines
    waiting = [line for line in lines if line.startswith("waiting for node ")]
    assert "waiting for node b; waiting for node c" in waiting
    assert waiting[-1] in ("waiting for node b", "waiting for node c")
    hint = f"  join with: python -m runtime.launch --join {three.address} --token {TOKEN}"
    assert f"{hint} --node-id b" in lines


def test_a_joining_launcher_says_where_it_is_and_when_the_service_is_ready(three: Cluster) -> None:
    joined = three.joined["b"]
    joined.wait_line(rf"^node b at 127\.0\.0\.1 joins {re.escape(three.address)}$")
    joined.wait_line(r"^the service is ready: model=demo pipelines=1 stages=3$")


def test_every_line_of_a_stage_is_shown_once_on_each_console(three: Cluster) -> None:
    for running in (three.main, three.joined["b"]):
        running.wait_line(r"b/stage-0\.2 \| .*stage ready")
        assert len([line for line in running.lines if re.search(r"b/.*stage ready", line)]) == 1


@pytest.mark.parametrize(
    ("node", "token", "reason"),
    [
        ("z", "not-the-token", r"cannot join .*token.*compare --join, --token"),
        ("b", TOKEN, r"a node named 'b' is here already"),
        ("z", TOKEN, r"node 'z' is not in the plan; it has: a, b, c"),
    ],
    ids=["wrong token", "name taken", "name unknown"],
)
def test_a_node_that_is_refused_ends_with_the_reason_and_leaves_the_others_alone(
    three: Cluster, node: str, token: str, reason: str
) -> None:
    with launched(*three.join_arguments(node, token)) as refused:
        assert refused.process.wait(30) == 1
        refused.wait_line("^<end>$")
        assert re.search(rf"^error: .*{reason}", refused.lines[-2])
        assert "Traceback" not in "\n".join(refused.lines)
    assert three.client().get("/health")[0] == 200


def test_a_killed_remote_node_leaves_its_layers_to_the_others(two: Cluster) -> None:
    client, other = two.client(), two.joined["other"]
    processes = descendants(other.process.pid)
    expected = strike_in_mid_stream(client, lambda: None).text
    struck = strike_in_mid_stream(client, other.process.kill)
    assert struck.is_whole
    assert struck.text == expected
    client.wait_until(lambda: not [pid for pid in processes if is_alive(pid)])
    client.wait_until(lambda: client.get("/health")[0] == 200)
    assert "other" not in {stage["node"] for stage in client.stages()}
    assert two.main.process.poll() is None
    with two.joining("other"):
        two.joined["other"].wait_line("node other is in the cluster")
        assert strike_in_mid_stream(client, lambda: None).text == expected
    assert "Traceback" not in "\n".join(two.main.lines)


def test_sigterm_of_a_joined_launcher_and_of_the_main_one_leaves_no_process(two: Cluster) -> None:
    client, other = two.client(), two.joined["other"]
    with two.joining("spare"):
        spare = two.joined["spare"]
        spare.wait_line("joined node=spare")
        theirs = descendants(other.process.pid)
        assert len(theirs) >= 2
        expected = strike_in_mid_stream(client, lambda: None).text
        assert other.stop() == 0
        assert not [pid for pid in theirs if is_alive(pid)]
        client.wait_until(lambda: client.get("/health")[0] == 200)
        assert "other" not in {stage["node"] for stage in client.stages()}
        assert strike_in_mid_stream(client, lambda: None).text == expected

        rest = descendants(two.main.process.pid) | descendants(spare.process.pid)
        assert two.main.stop() == 0
        assert spare.process.wait(12) == 1
        spare.wait_line(r"^error: the service was stopped")
        assert not [pid for pid in rest if is_alive(pid)]
    for running in (two.main, other, spare):
        assert "Traceback" not in "\n".join(running.lines)
    assert lines_after_stopping(two.main) == []


def lines_after_stopping(running: Launched) -> list[str]:
    running.wait_line("^<end>$")
    return running.lines[running.lines.index("stopping") + 1 : -1]


def test_a_hung_remote_node_is_noticed_and_its_stream_goes_on(two: Cluster) -> None:
    """A machine that freezes closes no socket: silence is all there is to notice."""
    client = two.client()
    (stage,) = [stage for stage in client.stages() if stage["node"] == "other"]
    frozen = [stage["pid"], node_of(stage["pid"])]

    def freeze() -> None:
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)

    try:
        expected = strike_in_mid_stream(client, lambda: None).text
        struck = strike_in_mid_stream(client, freeze)
        assert struck.is_whole
        assert struck.text == expected
        client.wait_until(lambda: client.get("/health")[0] == 200)
        assert "other" not in {stage["node"] for stage in client.stages()}
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGKILL)
