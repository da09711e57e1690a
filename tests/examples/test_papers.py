import pytest

from examples.papers import cost_efficiency, helix, routing, shuntserve
from scheduling.shuntserve.catalogue import AWS_STOCK, LLAMA_31_70B
from scheduling.shuntserve.estimator import Estimator
from scheduling.solvers.rent_baselines import best_rent

HELIX = helix.reference_folder() / "helix"
needs_helix = pytest.mark.skipif(not HELIX.is_dir(), reason=f"no {HELIX}; set REMUDA_REFERENCE")


def test_shuntserves_pins_and_the_uniform_baseline() -> None:
    estimator = Estimator(LLAMA_31_70B)
    for stages, published in shuntserve.PUBLISHED_PINS:
        assert estimator.estimate(stages).requests_per_s == pytest.approx(published, rel=1e-9)
    uniform = shuntserve.uniform_placement(estimator, AWS_STOCK)
    assert 0 < shuntserve.total(uniform) < 2.9742


def test_slower_gpus_lower_the_uniform_placement() -> None:
    estimator = Estimator(LLAMA_31_70B)
    usual = shuntserve.total(shuntserve.uniform_placement(estimator, AWS_STOCK))
    slow = shuntserve.scaled_stock(flops=0.8, num_bytes=0.8)
    assert shuntserve.total(shuntserve.uniform_placement(estimator, slow)) < usual


@needs_helix
@pytest.mark.parametrize("name", helix.PUBLISHED)
def test_helix_rows_are_what_was_published(name: str) -> None:
    cluster = helix.load_cluster(HELIX)
    value = helix.saved_flow(HELIX, cluster, name)
    assert value == pytest.approx(helix.PUBLISHED[name], abs=1e-4)


@needs_helix
def test_helix_is_passed_by_our_first_placement() -> None:
    assert helix.best_of(helix.load_cluster(HELIX), seconds=0.0, seed=0).score >= 1212.18


def test_the_worked_example_of_cost_efficiency_is_passed() -> None:
    plan = best_rent(cost_efficiency.WORKED)
    assert plan.makespan_s == pytest.approx(28.431, abs=5e-4)
    assert plan.makespan_s < cost_efficiency.PUBLISHED_WORKED_S


def test_the_mixes_of_cost_efficiency_are_whole() -> None:
    for mix in cost_efficiency.MIXES.values():
        assert sum(mix) == pytest.approx(1.0, abs=0.011)
    problem = cost_efficiency.cloud_problem("T1")
    assert len(problem.configurations) > 20


@pytest.mark.parametrize("name", routing.CLUSTERS)
def test_predicted_completion_serves_more_than_the_other_policies(name: str) -> None:
    fits = routing.CLUSTERS[name]
    requests = routing.make_requests(0, per_s=20.0, number=300)
    spans = {
        policy: routing.makespan_s(fits, requests, choose)
        for policy, choose in routing.policies(fits, seed=1).items()
    }
    assert min(spans, key=lambda policy: spans[policy]) == "predicted completion"


def test_routing_stands_a_fit_that_is_a_fifth_off() -> None:
    fits = routing.CLUSTERS["one fast, two slow"]
    requests = routing.make_requests(0, per_s=20.0, number=300)
    usual = routing.makespan_s(fits, requests, routing.policies(fits, seed=1)["round robin"])
    for factor in (0.8, 1.2):
        wrong = routing.policies(routing.skewed(fits, factor), seed=1)["predicted completion"]
        assert routing.makespan_s(fits, requests, wrong) < usual
