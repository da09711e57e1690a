from itertools import pairwise, product

import numpy as np
import pytest

from scheduling.errors import InvalidCluster, InvalidPlan
from scheduling.helix.files import read_cluster, read_quantity, read_ranges
from scheduling.helix.flow import FlowCluster, Ranges, continues, max_flow, rate_bound
from scheduling.helix.groups import grouped_placement, sites_of
from tests.scheduling.helix_reference import helix_cluster, needs_helix, read_text

PUBLISHED = [("ilp", 1212.1768), ("petals", 952.1074), ("swarm", 616.4551)]

CLUSTER_INI = """
[NodeNames]
total_compute_nodes=2
[ComputeNode-0]
type=fast
[ComputeNode-1]
type=slow
[Link-source-0]
bandwidth=1 * mbps
[Link-1-sink]
bandwidth=2 * mbps
[Link-0-1]
bandwidth=0.5 * gbps
"""
TABLE = {
    "throughput": {"fast": {"1": 900.0, "2": 400.0}, "slow": {"1": 100.0}},
    "num_layers": 3,
    "activation_bytes": 10_000,
    "token_bytes": 2,
}
SOLUTION = "[Settings]\noffset=2\n[Solution]\ncompute_node_2=[0, 1]\ncompute_node_3=[2]\n"


def random_cluster(seed: int, *, num_nodes: int = 3, num_layers: int = 3) -> FlowCluster:
    rng = np.random.default_rng(seed)
    rates = []
    for _ in range(num_nodes):
        layers = int(rng.integers(1, num_layers + 1))
        speed = rng.uniform(50, 200)
        rates.append(tuple(float(speed / k**1.1) for k in range(1, layers + 1)))
    return FlowCluster(
        num_layers=num_layers,
        names=tuple(f"n{node}" for node in range(num_nodes)),
        rates=tuple(rates),
        links=rng.uniform(5, 200, (num_nodes, num_nodes)),
        entries=np.full(num_nodes, 1e6),
        exits=np.full(num_nodes, 1e6),
    )


def all_placements(cluster: FlowCluster) -> list[Ranges]:
    choices = [
        [(0, 0)]
        + [
            (start, start + count)
            for count in range(1, cluster.max_layers(node) + 1)
            for start in range(cluster.num_layers - count + 1)
        ]
        for node in range(len(cluster.names))
    ]
    return list(product(*choices))


@needs_helix
@pytest.mark.parametrize(("name", "tokens_per_s"), PUBLISHED)
def test_the_saved_placements_carry_what_was_published(name: str, tokens_per_s: float) -> None:
    cluster = helix_cluster()
    ranges = read_ranges(read_text(f"distributed/llama70b_{name}_sol.ini"), cluster)
    assert max_flow(cluster, ranges).tokens_per_s == pytest.approx(tokens_per_s, abs=1e-4)


@needs_helix
def test_the_petals_placement_carries_nothing_without_partial_inference() -> None:
    cluster = helix_cluster()
    ranges = read_ranges(read_text("distributed/llama70b_petals_sol.ini"), cluster)
    assert max_flow(cluster, ranges, partial=False).tokens_per_s == 0.0


@needs_helix
def test_the_bound_is_tighter_than_the_published_one() -> None:
    assert 1212.1768 < rate_bound(helix_cluster()) < 2803.86098


@needs_helix
def test_groups_in_a_row_pass_the_published_placement() -> None:
    cluster = helix_cluster()
    assert max_flow(cluster, grouped_placement(cluster)).tokens_per_s > 1212.1768
    assert [len(site) for site in sites_of(cluster, 10_000.0)] == [4, 10, 10]


def test_a_token_enters_in_the_middle_only_with_partial_inference() -> None:
    assert continues(2, (1, 4), partial=True)
    assert not continues(2, (1, 4), partial=False)
    assert continues(1, (1, 4), partial=False)
    assert not continues(4, (1, 4), partial=True)


def test_two_nodes_share_what_one_alone_cannot_carry() -> None:
    cluster = FlowCluster(
        num_layers=2,
        names=("a", "b", "c"),
        rates=((100.0,), (60.0,), (30.0,)),
        links=np.full((3, 3), 1000.0),
        entries=np.full(3, 1000.0),
        exits=np.full(3, 1000.0),
    )
    flow = max_flow(cluster, ((0, 1), (1, 2), (1, 2)))
    assert flow.tokens_per_s == 90.0
    assert flow.links[0, 1] == 60.0
    assert flow.links[0, 2] == 30.0
    assert flow.links[None, 0] == 90.0
    assert flow.links[1, None] + flow.links[2, None] == 90.0


def test_a_thin_link_limits_the_flow() -> None:
    cluster = read_cluster(CLUSTER_INI, {**TABLE, "activation_bytes": 10_000_000})
    assert max_flow(cluster, ((0, 2), (2, 3))).tokens_per_s == 50.0


@pytest.mark.parametrize("seed", range(6))
def test_no_placement_passes_the_bound(seed: int) -> None:
    cluster = random_cluster(seed, num_nodes=2)
    bound = rate_bound(cluster)
    for ranges in all_placements(cluster):
        assert max_flow(cluster, ranges).tokens_per_s <= bound * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_a_flow_enters_as_much_as_it_leaves_every_node(seed: int) -> None:
    cluster = random_cluster(seed, num_nodes=4)
    for ranges in all_placements(cluster)[seed::97]:
        flow = max_flow(cluster, ranges)
        for node in range(4):
            into = sum(rate for (_, head), rate in flow.links.items() if head == node)
            out = sum(rate for (tail, _), rate in flow.links.items() if tail == node)
            assert into == pytest.approx(out, rel=1e-6)
            assert into <= cluster.rate(node, ranges[node]) * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_groups_in_a_row_fit_their_nodes(seed: int) -> None:
    cluster = random_cluster(seed, num_nodes=5, num_layers=4)
    ranges = grouped_placement(cluster)
    assert max_flow(cluster, ranges).tokens_per_s >= 0.0
    covered = sorted({border for held in ranges for border in held if held[0] < held[1]})
    for low, high in pairwise(covered):
        assert any(start <= low and high <= end for start, end in ranges)


@pytest.mark.parametrize(
    ("ranges", "complaint"),
    [
        (((0, 2),), "expected 2, a node each, got 1"),
        (((0, 2), (1, 3)), "expected at most 1 layers, got 2"),
        (((0, 2), (2, 4)), "expected a range in 0:3, got 2:4"),
    ],
)
def test_ranges_that_nodes_cannot_hold_are_refused(ranges: Ranges, complaint: str) -> None:
    with pytest.raises(InvalidPlan, match=complaint):
        max_flow(read_cluster(CLUSTER_INI, TABLE), ranges)


def test_a_cluster_file_is_read_with_its_units() -> None:
    cluster = read_cluster(CLUSTER_INI, TABLE)
    assert cluster.names == ("fast-0", "slow-1")
    assert cluster.links[0, 1] == cluster.links[1, 0] == 50_000.0
    assert cluster.entries[0] == 500_000.0
    assert cluster.exits[1] == 1_000_000.0
    assert read_ranges(SOLUTION, cluster) == ((0, 2), (2, 3))


@pytest.mark.parametrize("text", ["10", "10 * furlongs", "__import__('os') * mbps", "1e3 * mbps"])
def test_a_quantity_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidCluster, match="NUMBER \\* UNIT"):
        read_quantity(text)


@pytest.mark.parametrize(
    "text", ["no section", "[NodeNames]\ntotal_compute_nodes=1\n", CLUSTER_INI + "[Link-0-9]\n"]
)
def test_a_malformed_cluster_file_is_refused(text: str) -> None:
    with pytest.raises(InvalidCluster, match="file"):
        read_cluster(text, TABLE)


def test_links_of_another_shape_are_refused() -> None:
    with pytest.raises(InvalidCluster, match="flow cluster of 1 nodes"):
        FlowCluster(
            num_layers=1,
            names=("a",),
            rates=((1.0,),),
            links=np.zeros((2, 2)),
            entries=np.zeros(1),
            exits=np.zeros(1),
        )


@pytest.mark.parametrize(
    "text",
    [
        SOLUTION.replace("[0, 1]", "[0, 2]"),
        SOLUTION.replace("[0, 1]", "range(2)"),
        SOLUTION.replace("node_3", "node_9"),
        SOLUTION.replace("offset", "shift"),
    ],
)
def test_a_malformed_solution_file_is_refused(text: str) -> None:
    with pytest.raises(InvalidPlan):
        read_ranges(text, read_cluster(CLUSTER_INI, TABLE))
