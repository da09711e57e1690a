"""The comparison of ways to pick a pipeline: each way by itself, what is counted, a brief run."""

from dataclasses import replace

import pytest

from examples.papers import routing_simulated
from examples.papers.routing_simulated import OURS, SCENES, Result, Scene
from runtime.simulation.client import Outcome
from runtime.simulation.load import Arrival
from runtime.simulation.routing_policies import random_choice, round_robin, shortest_queue
from scheduling.routing import Choose, PipelineLoad, choose_pipeline

SCENE = Scene(name="unequal", ttft_s=1.0, tpot_s=0.1, duration_s=2.0)


def load(name: str, *, queued: int = 0, running: int = 0) -> PipelineLoad:
    return PipelineLoad(pipeline=name, num_queued_tokens=queued, num_running=running)


def outcome(seconds: float, ended: str = "length") -> Outcome:
    arrival = Arrival(0.0, 10, 10)
    found = Outcome(number=0, arrival=arrival, sent_at=5.0, last_at=5.0 + seconds, ended=ended)
    found.num_tokens = 10
    return found


def result(p50_s: float = 1.0, p99_s: float = 2.0, goodput_per_s: float = 4.0) -> Result:
    return Result(num_requests=1, num_done=1, p50_s=p50_s, p99_s=p99_s, goodput_per_s=goodput_per_s)


@pytest.mark.parametrize("policy", routing_simulated.policies(0).values())
def test_every_policy_picks_one_of_the_pipelines_and_none_of_none(policy: Choose) -> None:
    assert policy([], num_prompt_tokens=10) is None
    for _ in range(3):
        assert policy([load("b"), load("a")], num_prompt_tokens=10) in ("a", "b")


def test_round_robin_takes_turns_and_goes_on_when_one_is_gone() -> None:
    policy = round_robin()
    loads = [load("a"), load("b"), load("c")]
    assert [policy(loads, num_prompt_tokens=1) for _ in range(4)] == ["a", "b", "c", "a"]
    assert policy([load("a"), load("c")], num_prompt_tokens=1) == "c"


def test_a_random_choice_is_the_one_that_is_drawn() -> None:
    policy = random_choice(lambda count: count - 1)
    assert policy([load("b"), load("a")], num_prompt_tokens=1) == "b"


def test_the_shortest_queue_counts_sequences_first() -> None:
    loads = [load("a", running=2), load("b", running=1, queued=9)]
    assert shortest_queue()(loads, num_prompt_tokens=1) == "b"


def test_a_request_is_good_that_ended_in_time() -> None:
    outcomes = [outcome(1.9), outcome(2.1), outcome(0.1, "queue_full")]
    found = routing_simulated.result_of(SCENE, outcomes)
    assert (found.num_done, found.num_requests, found.goodput_per_s) == (2, 3, 0.5)
    assert found.p50_s == pytest.approx(2.0)
    with pytest.raises(RuntimeError, match="no request came to its end, of 1"):
        routing_simulated.result_of(SCENE, outcomes[2:])


@pytest.mark.parametrize(
    ("ours", "word"),
    [
        (result(), "ok"),
        (result(p50_s=1.04, goodput_per_s=3.9), "ok"),
        (result(p50_s=1.1), "MISSED"),
        (result(p99_s=2.2), "MISSED"),
        (result(goodput_per_s=3.0), "MISSED"),
    ],
)
def test_ours_is_held_against_the_best_of_the_others(ours: Result, word: str) -> None:
    others = {"a": result(), "b": result(p50_s=9.0, p99_s=9.0, goodput_per_s=1.0)}
    assert routing_simulated.verdict({**others, OURS: ours}).endswith(word)


def test_a_brief_run_has_every_request_end_and_ours_ahead_where_pipelines_are_unequal() -> None:
    brief = replace(SCENES[0], duration_s=0.3)
    both: dict[str, Choose] = {"round robin": round_robin(), OURS: choose_pipeline}
    told: list[str] = []
    found = routing_simulated.compare(brief, 0.5, both, on_result=lambda name, _: told.append(name))
    assert told == list(found) == list(both)
    assert all(each.num_done == each.num_requests > 0 for each in found.values())
    assert max(routing_simulated.shortfalls(found).values()) <= 0
