"""Links between nodes are measured when nodes join, one at a time, and again only much later."""

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import link_probing
from actors.kernel.virtual_time import run
from actors.link_probing import AGAIN_S, MAX_NODES, RETRY_S, LinkProber, links_between
from scheduling.change_cost import AutoPolicy
from scheduling.goal import Goal
from scheduling.roofline import LinkRate
from tests.actors.emulated_service import Service, service
from tests.actors.test_replanning import wanted
from transport.probe import LinkMeasure

Measured = list[tuple[float, str]]


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> Measured:
    """When nodes measured, and what those were that began."""
    times: Measured = []

    async def note(send: Any, clock: Any) -> LinkMeasure:
        began = clock()
        await send(64)
        times.append((began, "ok"))
        return LinkMeasure(latency_s=0.01, bytes_per_s=1e8)

    monkeypatch.setattr(link_probing, "probe", note)
    return times


def simulate(scenario: Any, *nodes: str, **changes: Any) -> None:
    async def main(rng: random.Random) -> None:
        async with service(rng, wanted(AutoPolicy(), **changes)) as world:
            for name in nodes:
                await world.start_node(name)
            await world.until(lambda world: world.is_ready)
            await scenario(world)

    run(main, seed=0)


def test_each_link_is_measured_once_when_nodes_join_and_again_much_later(
    probed: Measured,
) -> None:
    async def scenario(world: Service) -> None:
        await asyncio.sleep(AGAIN_S / 2)
        assert len(probed) == 3
        await asyncio.sleep(AGAIN_S)
        assert len(probed) == 6

    simulate(scenario, "a", "b", "c")


def test_what_was_measured_is_what_plans_are_made_with() -> None:
    async def scenario(world: Service) -> None:
        await asyncio.sleep(20)
        found = await world.recommendation()
        (link,) = found["links"]
        assert link["between"] == ["a", "b"]
        assert 0 < link["latency_s"] < 0.01
        assert link["bytes_per_s"] > 0

    simulate(scenario, "a", "b")


def test_a_link_that_cannot_be_measured_is_tried_again_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times: list[float] = []

    async def fail(send: Any, clock: Any) -> LinkMeasure:
        times.append(clock())
        raise TimeoutError

    monkeypatch.setattr(link_probing, "probe", fail)

    async def scenario(world: Service) -> None:
        await asyncio.sleep(3.5 * RETRY_S)
        assert len(times) == 4
        assert (await world.recommendation())["links"] == []

    simulate(scenario, "a", "b")


def test_a_node_that_dies_while_it_measures_stops_nothing(probed: Measured) -> None:
    async def scenario(world: Service) -> None:
        await world.start_node("c")
        world.kill_node("b")
        await asyncio.sleep(2 * RETRY_S)
        links = (await world.recommendation())["links"]
        assert [link["between"] for link in links] == [["a", "c"]]

    simulate(scenario, "a", "b", num_stages=1)


def test_a_service_that_does_not_plan_measures_no_links(probed: Measured) -> None:
    async def scenario(world: Service) -> None:
        await asyncio.sleep(30)
        assert probed == []

    simulate(scenario, "a", "b", shape=None)


def test_a_fixed_plan_whose_phases_follow_what_comes_is_chosen_by_measured_links(
    probed: Measured,
) -> None:
    async def scenario(world: Service) -> None:
        await asyncio.sleep(30)
        assert len(probed) == 1

    simulate(scenario, "a", "b", is_fixed=True, targets=Goal(measure="slo", ttft_s=1.0))


def test_links_that_are_known_are_told_when_both_nodes_are_here_and_not_measured() -> None:
    near, far = (LinkRate(bytes_per_s=rate, latency_s=0.01) for rate in (1e9, 1e6))
    told: list[tuple[str, str, LinkRate]] = []
    members = SimpleNamespace(nodes={"a": None})
    cluster: Any = SimpleNamespace(members=members)

    def take(one: str, other: str, rate: LinkRate) -> None:
        told.append((one, other, rate))

    prober = LinkProber(cluster, take, {("a", "b"): near, ("b", "c"): far})
    prober.note()
    assert told == []
    members.nodes["b"] = None
    prober.note()
    prober.note()
    assert told == [("a", "b", near)]
    del members.nodes["a"]
    members.nodes["c"] = None
    prober.note()
    assert told[1:] == [("b", "c", far)]
    members.nodes["a"] = None  # whoever left has taken along what was known of its links
    prober.note()
    assert told[2:] == [("a", "b", near)]


@given(st.sets(st.text("abcdef", min_size=1, max_size=4), max_size=80), st.data())
def test_every_link_is_named_once_and_few_nodes_have_one(nodes: set[str], data: Any) -> None:
    serving = data.draw(
        st.sets(st.sampled_from(sorted(nodes)), max_size=MAX_NODES) if nodes else st.just(set())
    )
    links = links_between(nodes, serving)
    assert len(set(links)) == len(links)
    assert all(one < other for one, other in links)
    count = min(len(nodes), MAX_NODES)
    assert len(links) == count * (count - 1) // 2
    if count > 1:
        assert serving <= {end for ends in links for end in ends}
