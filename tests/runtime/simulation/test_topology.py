import pytest

from runtime.simulation.topology import BETWEEN_SITES, WITHIN_NODE, WITHIN_SITE, Topology
from scheduling.roofline import LinkRate
from tests.runtime.simulation.clusters import ONE_PIPELINE, cluster_of

LINK = "[[links]]\nbetween = {between}\nbytes_per_s = {rate}\nlatency_s = 0.5\n"
MORE = '[[nodes]]\nid = "c"\nsite = "west"\ndevices = ["slow"]\n'


def topology(*links: tuple[str, float]) -> Topology:
    text = "".join(LINK.format(between=between, rate=rate) for between, rate in links)
    return Topology(cluster_of(ONE_PIPELINE + MORE + text))


@pytest.mark.parametrize(
    ("one", "other", "link"),
    [
        ("node-a", "a/stage-0.0.1000", WITHIN_NODE),
        ("b/stage-0.1.1001", "node-c", WITHIN_SITE),
        ("b/stage-0.1.1001", "a/stage-0.0.1000", BETWEEN_SITES),
        ("coordinator", "node-a", WITHIN_SITE),
        ("gateway", "node-b", BETWEEN_SITES),
        ("gateway", "coordinator", WITHIN_NODE),
    ],
)
def test_links_that_nobody_described_are_the_usual_ones(
    one: str, other: str, link: LinkRate
) -> None:
    assert topology().link(one, other) == topology().link(other, one) == link


def test_a_link_between_nodes_goes_before_one_between_sites() -> None:
    found = topology(('["east", "west"]', 10.0), ('["b", "a"]', 20.0))
    assert found.link("node-a", "node-b").bytes_per_s == 20.0
    assert found.link("node-a", "node-c").bytes_per_s == 10.0


def test_a_link_of_a_site_with_itself_is_what_is_inside_it() -> None:
    found = topology(('["west", "west"]', 10.0))
    assert found.link("node-b", "node-c").bytes_per_s == 10.0
    assert found.link("node-a", "a/stage-0.0.1") == WITHIN_NODE


def test_a_packet_takes_the_latency_and_its_bytes() -> None:
    found = topology(('["east", "west"]', 10.0))
    assert found.delay_s("node-a", "node-b", 5) == pytest.approx(1.0)
    assert found.delay_s("node-a", "node-b", 0) == pytest.approx(0.5)


def test_a_slowed_link_is_slow_until_that_is_undone() -> None:
    found = topology(('["east", "west"]', 10.0))
    usual = found.delay_s("node-a", "node-b", 5)
    found.slow_down("west", "east", 3.0)
    assert found.delay_s("node-a", "node-b", 5) == pytest.approx(3 * usual)
    found.slow_down("west", "east", 1.0)
    assert found.delay_s("node-a", "node-b", 5) == pytest.approx(usual)
