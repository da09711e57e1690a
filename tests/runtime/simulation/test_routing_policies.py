"""The usual ways to pick pipelines, by name, for requests whole and handed off."""

from collections import Counter

import pytest

from runtime.simulation.load import Arrival
from runtime.simulation.routing_policies import POLICIES, policy_of
from runtime.simulation.simulation import Job, simulate
from scheduling.pairing import SERVICE
from tests.runtime.simulation.clusters import MODEL, NODES, SERVING, cluster_of

PARTED = MODEL + NODES.replace('["slow"]', '["slow", "slow"]') + SERVING
PARTED += "".join(
    f'[[pipelines]]\nphase = "{phase}"\nstages = [{{ node = "{node}", device = {device} }}]\n'
    for phase, node, device in (
        ("prefill", "a", 0),
        ("prefill", "a", 1),
        ("decode", "b", 0),
        ("decode", "b", 1),
    )
)


def test_the_first_of_the_names_is_the_services_own_way() -> None:
    assert policy_of(POLICIES[0]) is SERVICE


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected one of predicted, .*, got 'nearest'"):
        policy_of("nearest")


@pytest.mark.parametrize("name", POLICIES)
def test_every_way_serves_every_request_rightly(name: str) -> None:
    arrivals = [Arrival(0.2 * number, 20, 10) for number in range(12)]
    job = Job(cluster=cluster_of(PARTED), arrivals=arrivals, policy=policy_of(name))
    history = simulate(job)
    assert all(outcome.is_right for outcome in history.outcomes)
    assert history.hand_offs.num_done == 12


def test_dealt_in_turn_each_pipeline_of_a_phase_gets_as_many() -> None:
    arrivals = [Arrival(0.5 * number, 20, 10) for number in range(12)]
    job = Job(cluster=cluster_of(PARTED), arrivals=arrivals, policy=policy_of("round-robin"))
    rows = simulate(job).record
    tokens: Counter[str] = Counter()
    for worker, place in rows.places.items():
        tokens[place.stage] += rows.rows[worker].num_tokens
    assert (tokens["0.0"], tokens["2.0"]) == (tokens["1.0"], tokens["3.0"])
    assert tokens["0.0"] > 0
    assert tokens["2.0"] > 0
