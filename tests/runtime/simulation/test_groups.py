"""Devices in tensor parallel: which are refused, what they take, and that tokens stay right."""

import pytest

from runtime.errors import ConfigError
from runtime.simulation.cluster_reading import parse_cluster
from runtime.simulation.groups import Group, name_of, parts_of
from runtime.simulation.load import Arrival
from runtime.simulation.simulation import Job, simulate
from scheduling.hardware import CATALOGUE
from scheduling.model_profile import known_model
from scheduling.roofline import (
    LinkRate,
    StageTime,
    StepWork,
    all_reduce_time_s,
    tensor_parallel,
)
from tests.runtime.simulation.clusters import MODEL, NODES, SERVING

LINK = LinkRate(bytes_per_s=1e9, latency_s=1e-5)
GROUP = '[[pipelines]]\nstages = [{ node = "b", devices = [0, 1] }]\n'
BASE = MODEL + NODES + SERVING


def test_a_name_says_what_and_how_many() -> None:
    assert parts_of(name_of("A40", (1, 3))) == ("A40", 2)
    assert parts_of(name_of("A40", (1,))) == ("A40", 1)
    assert name_of("A40", (1, 3)) != name_of("A40", (0, 2))


def test_one_device_has_nobody_to_tell_and_a_group_tells_twice_a_layer() -> None:
    assert Group(degree=1, link=LINK).told_s(4, 1e6) == 0.0
    assert Group().told_s(4, 1e6) == 0.0
    found = Group(degree=2, link=LINK).told_s(4, 1e6)
    assert found == pytest.approx(8 * all_reduce_time_s(LINK, 2, 1e6))


def test_a_worker_measures_a_long_prompt_as_long_as_it_takes_with_all_reduces() -> None:
    shape = known_model("llama-30b")
    rates = tensor_parallel(CATALOGUE["A40"].rates, 2)
    group = Group(degree=2, link=LINK)
    work = StepWork(num_tokens=2048, num_pairs=0.0, num_context=0.0, num_drawn=0)
    layers = (0, 10)
    takes_s = StageTime(rates, shape, layers).of(work)
    takes_s += group.told_s(10, 2048 * shape.token_bytes)
    measured = group.measured(rates, shape)
    assert StageTime(measured, shape, layers).of(work) == pytest.approx(takes_s)
    assert Group().measured(rates, shape) == rates


def test_a_node_offers_a_group_as_one_device_beside_the_others() -> None:
    cluster = parse_cluster(BASE + GROUP)
    assert [cluster.offers(node) for node in cluster.nodes] == [("slow:0",), ("slow*2:0",)]
    assert cluster.device("slow*2:0").flops_per_s == 2 * cluster.device("slow:0").flops_per_s


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ('{ node = "b", devices = [0, 2] }', "has 2 devices; got device 2"),
        ('{ node = "b", devices = [0, 0] }', "expected a device or different devices"),
        ('{ node = "b", device = 1, devices = [0, 1] }', "expected a device or different devices"),
        ('{ node = "b", devices = [0, 1] }, { node = "b", device = 1 }', "in a group and in"),
        ('{ node = "c", devices = [0, 1] }', "expected devices of one kind, got T4, slow"),
    ],
)
def test_groups_that_cannot_be_are_refused(stages: str, message: str) -> None:
    mixed = '[[nodes]]\nid = "c"\ndevices = ["slow", "T4"]\n'
    with pytest.raises(ConfigError, match=message):
        parse_cluster(BASE + mixed + f"[[pipelines]]\nstages = [{stages}]\n")


def test_a_node_with_a_group_is_not_a_pipeline_of_single_devices_as_well() -> None:
    with pytest.raises(ConfigError, match="some of them are a group in another pipeline"):
        parse_cluster(BASE + GROUP + '[[pipelines]]\nnodes = ["b"]\n')


def test_a_group_takes_for_a_token_what_the_roofline_says_and_gives_right_ones() -> None:
    cluster = parse_cluster(BASE + GROUP)
    history = simulate(Job(cluster=cluster, arrivals=[Arrival(0.0, 8, 3)]))
    (outcome,) = history.outcomes
    assert outcome.is_right
    assert outcome.first_at is not None
    shape, rates = cluster.shape, cluster.device("slow*2:0")
    work = StepWork(num_tokens=1, num_pairs=9.5, num_context=9.5, num_drawn=1)
    inside = LinkRate(bytes_per_s=10e9, latency_s=20e-6)
    step_s = StageTime(rates, shape, (0, 4)).of(work)
    step_s += 8 * all_reduce_time_s(inside, 2, shape.token_bytes)
    token_s = (outcome.last_at - outcome.first_at) / 2
    messages_s = 2 * (20e-6 + 0.01)  # to the stage and back, between sites at most
    assert step_s < token_s < step_s + messages_s
