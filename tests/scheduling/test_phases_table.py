"""What the table of phases says of real devices, links and loads."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduling.cluster import Cluster, Link, Node
from scheduling.goal import Goal, Limits
from scheduling.model_profile import known_model
from scheduling.objective import Objective
from scheduling.phases.choice import attained, choose_phases, colocation
from scheduling.phases.latency import LEVELS
from scheduling.phases.table import table_of
from scheduling.phases.transfer import KvTransport, transfer_between
from scheduling.phases.wait import Array, Wait, queue_wait
from scheduling.placement import Group, Phase, Placement, chain
from scheduling.roofline import LinkRate
from scheduling.solvers.interface import Problem
from scheduling.workload import fixed, synthetic

SHAPE = known_model("llama-8b")
FAST, SLOW = 12.5e9, 0.05e9


def problem_of(
    *kinds: str, bytes_per_s: float = FAST, load: str = "conversation", **goal: float
) -> tuple[Problem, Placement]:
    """A pipeline on each device, each a node."""
    nodes = tuple(Node(id=f"n{i}", devices=(kind,)) for i, kind in enumerate(kinds))
    link = Link(between=("site", "site"), rate=LinkRate(bytes_per_s=bytes_per_s, latency_s=1e-4))
    wanted = {"ttft_s": 1.0, "tpot_s": 0.05, "rate": 2.0, **goal}
    problem = Problem(
        cluster=Cluster(nodes=nodes, links=(link,)),
        shape=SHAPE,
        workload=synthetic(load, rate=wanted.pop("rate")),
        goal=Goal(measure="slo", **wanted),
        limits=Limits(max_model_len=8192),
    )
    pipelines = (chain([Group(node.id, (0,))], [SHAPE.num_layers]) for node in nodes)
    return problem, Placement(tuple(pipelines))


def test_the_fuller_a_pipeline_is_the_fewer_requests_are_in_time() -> None:
    table = table_of(*problem_of("A100-40G", "L40S", "A40"))
    for i in range(3):
        for less, more in pairwise(table.good_both[:, i]):
            assert 0 <= more <= less + 1e-9
        for j in range(3):
            for less, more in pairwise(table.good_pair[:, 0, i, j]):
                assert 0 <= more <= less + 1e-9
            for less, more in pairwise(table.good_pair[0, :, i, j]):
                assert more <= less + 1e-9
    assert len(table.levels) == len(LEVELS)


def test_capacities_are_the_objectives_forecasts() -> None:
    problem, placement = problem_of("A100-40G", "A40")
    table, objective = table_of(problem, placement), Objective.of(problem)
    capacities: dict[Phase, Array] = {"both": table.both, "decode": table.decode}
    for phase, capacity in capacities.items():
        for i, pipeline in enumerate(placement.pipelines):
            row = objective.row(pipeline.groups, phase)
            found = objective.forecaster.forecast(row, (SHAPE.num_layers,))
            assert found is not None
            assert capacity[i] == found.requests_per_s


def test_the_device_with_more_arithmetic_for_its_bandwidth_prefills() -> None:
    problem, placement = problem_of("L40S", "A100-40G", rate=11.5, tpot_s=0.03)
    choice = choose_phases(table_of(problem, placement))
    assert choice.phases == ("prefill", "decode")
    assert choice.attainment > choice.colocated + 0.05


def test_pipelines_stay_together_where_little_comes_or_links_are_slow() -> None:
    little = choose_phases(table_of(*problem_of("L40S", "A100-40G", rate=0.2)))
    assert set(little.phases) == {"both"}
    far = problem_of("L40S", "A100-40G", rate=11.5, tpot_s=0.03, bytes_per_s=SLOW)
    assert set(choose_phases(table_of(*far)).phases) == {"both"}


def test_packed_kv_brings_more_requests_in_time_over_a_slow_link() -> None:
    problem, placement = problem_of("L40S", "A100-40G", rate=4.0, bytes_per_s=0.6e9)
    parts = [
        attained(
            table_of(problem, placement, transport=KvTransport.of_bits(bits)),
            ("prefill", "decode"),
        ).attainment
        for bits in (16, 8, 4)
    ]
    assert parts[0] < parts[1] < parts[2]


def test_kv_that_travels_during_prefill_is_waited_for_less() -> None:
    problem, placement = problem_of("L40S", "A100-40G", load="code", bytes_per_s=0.6e9)
    behind, beside = (
        attained(
            table_of(problem, placement, transport=KvTransport(overlaps=overlaps)),
            ("prefill", "decode"),
        ).attainment
        for overlaps in (False, True)
    )
    assert beside > behind


def test_bursts_make_more_requests_late() -> None:
    problem, placement = problem_of("A40", "A40", rate=1.6)
    smooth, bursty = (
        attained(table_of(problem, placement, arrival_cv2=cv2), ("both", "both")).attainment
        for cv2 in (1.0, 8.0)
    )
    assert bursty < smooth


def test_a_line_between_sites_is_shared_and_a_pairs_own_link_is_not() -> None:
    problem, placement = problem_of("A40", "A40", "A40", "A40")
    own = table_of(problem, placement)
    assert own.line_room.shape == (0,)
    assert np.isfinite(own.pair_room[~np.eye(4, dtype=bool)]).all()
    nodes = tuple(
        replace(node, site="east" if i < 2 else "west")
        for i, node in enumerate(problem.cluster.nodes)
    )
    line = Link(between=("east", "west"), rate=LinkRate(bytes_per_s=1e9, latency_s=0.01))
    shared = table_of(replace(problem, cluster=Cluster(nodes=nodes, links=(line,))), placement)
    assert shared.line_room.tolist() == [1e9]
    prompt_bytes = SHAPE.kv_bytes_per_token * SHAPE.num_layers * problem.workload.mean_prompt
    assert shared.line_bytes[0, 2, 0] == pytest.approx(prompt_bytes)
    assert shared.line_bytes[0, 1, 0] == 0.0


def test_stages_send_the_layers_that_they_share() -> None:
    nodes = tuple(Node(id=name, devices=("A40",)) for name in "abcd")
    one = chain([Group("a", (0,)), Group("b", (0,))], [8, 24])
    other = chain([Group("c", (0,)), Group("d", (0,))], [16, 16])
    found = transfer_between(one, other, Cluster(nodes=nodes), SHAPE, KvTransport())
    each = float(SHAPE.kv_bytes_per_token)
    assert found.line_bytes == {
        frozenset("ac"): 8 * each,
        frozenset("bc"): 8 * each,
        frozenset("bd"): 16 * each,
    }
    assert found.token_s == pytest.approx(16 * each / 1.25e9)


def test_packing_takes_its_time_and_its_scales() -> None:
    packed = KvTransport.of_bits(4, codec_bytes_per_s=1e9)
    assert packed.ratio == pytest.approx(0.25 + 1 / 32)
    assert KvTransport.of_bits(16) == KvTransport()
    assert KvTransport.of_bits(8, dtype_bytes=1) == KvTransport()
    with pytest.raises(ValueError, match="expected 4, 8 or 16 bits, got 3"):
        KvTransport.of_bits(3)
    with pytest.raises(ValueError, match="ratio above 0, up to 1, got 0"):
        KvTransport(ratio=0)
    with pytest.raises(ValueError, match="codec_bytes_per_s above 0, got -1"):
        KvTransport(codec_bytes_per_s=-1)


def test_a_model_that_does_not_fit_has_no_capacity() -> None:
    table = table_of(*problem_of("T4", "A100-40G"))
    assert (table.both[0], table.prefill[0], table.decode[0]) == (0, 0, 0)
    assert attained(table, ("prefill", "decode")).attainment == 0.0
    assert attained(table, colocation(table)).attainment > 0.0


def test_without_a_rate_nothing_can_be_chosen() -> None:
    problem, placement = problem_of("A40")
    with pytest.raises(ValueError, match=r"a workload with a rate .* got rate None and 1 pipel"):
        table_of(replace(problem, workload=fixed(10, 10)), placement)


def test_the_wait_is_exact_for_one_server_and_poisson_arrivals() -> None:
    for load in (0.1, 0.5, 0.9):
        found = queue_wait(load, service_s=2.0, service_cv2=0.0)  # M/D/1
        assert found.mean_s == pytest.approx(load / (1 - load) * 2.0 / 2)
        assert queue_wait(load, service_s=2.0).within(np.zeros(1))[0] == pytest.approx(1 - load)


def test_many_servers_wait_as_erlang_says() -> None:
    # Erlang C for 10 servers at 80 %: mean wait 0.2046 of a service
    found = queue_wait(0.8, service_s=1.0, num_servers=10)
    assert found.mean_s == pytest.approx(0.2046, rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1.2), st.floats(0.01, 10), st.floats(1, 100), st.floats(-5, 50))
def test_a_wait_is_a_probability(load: float, service_s: float, num: float, limit: float) -> None:
    wait = queue_wait(load, service_s=service_s, num_servers=num).then(Wait(0.3, 0.1))
    found = float(wait.within(np.asarray([limit]))[0])
    longer = float(wait.within(np.asarray([limit + 1.0]))[0])
    assert 0.0 <= found <= longer <= 1.0
    assert limit >= 0 or found == 0.0
