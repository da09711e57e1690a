"""Lines that links share: whose turn it is, and what that makes of hand-offs."""

import asyncio
import random
from pathlib import Path

import pytest

from actors.kernel.virtual_time import run
from runtime.errors import ConfigError
from runtime.simulation.cluster_reading import parse_cluster
from runtime.simulation.line import Line
from runtime.simulation.load import Arrival
from runtime.simulation.simulation import Job, simulate
from runtime.simulation.topology import Topology
from scheduling.cluster_toml import parse_cluster as planned_cluster
from tests.runtime.simulation.clusters import MODEL, NODES, ONE_PIPELINE, SERVING, cluster_of
from tests.runtime.simulation.test_device import Bench, now

SLOW = "[[links]]\nbetween = {between}\nbytes_per_s = 2e5\nlatency_s = 0.001\nshared = {shared}\n"
TWO_GIVERS = MODEL + NODES.replace('devices = ["slow"]', 'devices = ["slow", "slow"]') + SERVING
TWO_GIVERS += """
[[pipelines]]
phase = "prefill"
stages = [{ node = "a", device = 0 }]

[[pipelines]]
phase = "prefill"
stages = [{ node = "a", device = 1 }]

[[pipelines]]
phase = "decode"
stages = [{ node = "b", device = 0 }, { node = "b", device = 1 }]
"""


def shared(between: str = '["east", "west"]', *, is_shared: bool = True) -> str:
    return SLOW.format(between=between, shared=str(is_shared).lower())


def test_a_line_carries_one_after_another_and_rests_between() -> None:
    line = Line()
    assert [line.carry(1.0, 2.0), line.carry(1.5, 2.0), line.carry(9.0, 1.0)] == [3.0, 5.0, 10.0]


def test_a_shared_link_is_one_line_each_way_whoever_sends() -> None:
    found = Topology(cluster_of(ONE_PIPELINE + shared()))
    line = found.line("a/stage-0.0.1", "b/stage-0.1.2")
    assert line is not None
    assert found.line("node-a", "b/stage-0.1.7") is line
    back = found.line("b/stage-0.1.2", "a/stage-0.0.1")
    assert back is not None
    assert back is not line
    assert found.line("b/stage-0.1.2", "b/stage-0.1.3") is None


def test_a_link_between_two_nodes_is_another_line_than_that_of_their_sites() -> None:
    more = '[[nodes]]\nid = "c"\nsite = "west"\ndevices = ["slow"]\n'
    found = Topology(cluster_of(ONE_PIPELINE + more + shared() + shared('["a", "c"]')))
    assert found.line("node-a", "node-c") is not found.line("node-a", "node-b")
    unshared = Topology(cluster_of(ONE_PIPELINE + shared(is_shared=False)))
    assert unshared.line("node-a", "node-b") is None


def test_what_a_place_has_inside_cannot_be_shared() -> None:
    with pytest.raises(ConfigError, match="expected two places of a shared link, got one"):
        parse_cluster(ONE_PIPELINE + shared('["a", "a"]'))


def test_a_planner_reads_the_same_file() -> None:
    assert planned_cluster(ONE_PIPELINE + shared()) == planned_cluster(
        ONE_PIPELINE + shared(is_shared=False)
    )
    text = Path("examples/clusters/thunderserve.toml").read_text(encoding="utf-8")
    assert any(link.shared for link in parse_cluster(text).links)


def test_devices_that_send_over_one_line_wait_for_each_other_but_go_on_working() -> None:
    async def main(_: random.Random) -> list[float]:
        line, benches = Line(), [Bench(), Bench()]
        ended = []

        async def sent(bench: Bench, work_s: float) -> None:
            await bench.device.run(lambda: bench.device.charge(work_s, 10.0, line))
            ended.append(now())

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(sent(benches[0], 2.0))  # asked for first, ready last
            tasks.create_task(sent(benches[1], 1.0))
            await asyncio.sleep(0)
            after = await benches[1].device.run(benches[1].charge(1.0))
        return [*ended, after]

    assert run(main, seed=0) == [11.0, 21.0, 1.0]


def test_hand_offs_of_two_pipelines_take_longer_over_a_line_they_share() -> None:
    arrivals = [Arrival(0.0, 80, 20), Arrival(0.0, 80, 20)]

    def until_end(is_shared: bool) -> float:
        cluster = parse_cluster(TWO_GIVERS + shared(is_shared=is_shared))
        history = simulate(Job(cluster=cluster, arrivals=arrivals))
        assert history.hand_offs.num_done == 2
        assert all(outcome.is_right for outcome in history.outcomes)
        return max(outcome.last_at for outcome in history.outcomes)

    kv_s = 80 * 4 * 2 * 2 * 64 * 2 / 2e5  # tokens, layers, keys and values, heads, size, bytes
    assert until_end(True) - until_end(False) == pytest.approx(kv_s, rel=0.3)
