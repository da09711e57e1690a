import itertools
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.chaos.load import make_asks
from runtime.chaos.schedule import (
    MAX_PAUSE_S,
    known_links,
    random_layers,
    random_moment,
    random_strike,
)
from runtime.chaos.strikes import (
    Disturb,
    Kill,
    Pause,
    Swap,
    find_pid,
    is_gateway,
    known_splits,
    known_targets,
)
from runtime.control.service import CommandFailed
from scheduling.plan import parse_layers


def pipeline(name: str, *pids: int) -> dict[str, Any]:
    return {"id": name, "stages": [{"stage": n, "pid": pid} for n, pid in enumerate(pids)]}


def process(role: str, name: str, pid: int) -> dict[str, Any]:
    return {"role": role, "name": name, "pid": pid}


ONE = {
    "pipelines": [pipeline("0", 11, 12)],
    "processes": [
        process("coordinator", "coordinator", 1),
        process("gateway", "gateway-0", 2),
        process("node", "local", 3),
    ],
}


def test_one_machine_has_a_name_for_every_process_and_its_pipeline_lives_in_the_node() -> None:
    assert known_targets(ONE) == {
        "stage:0": 11,
        "stage:1": 12,
        "coordinator": 1,
        "gateway": 2,
        "node:local": 3,
        "pipeline:0": 3,
    }


def test_several_pipelines_and_gateways_are_told_apart_by_name() -> None:
    nodes = [process("node", "a", 3), process("node", "b", 4)]
    gateways = [process("gateway", "gateway-0", 5), process("gateway", "gateway-1", 6)]
    status = {"pipelines": [pipeline("0", 11), pipeline("1", 12)], "processes": nodes + gateways}
    assert known_targets(status) == {
        "stage:0/0": 11,
        "stage:1/0": 12,
        "node:a": 3,
        "node:b": 4,
        "gateway:gateway-0": 5,
        "gateway:gateway-1": 6,
    }


def test_a_process_that_does_not_live_is_no_target() -> None:
    assert known_targets({"pipelines": [pipeline("0", 0, 12)]}) == {"stage:1": 12}


def test_a_target_is_found_and_an_unknown_one_is_refused_with_those_there_are() -> None:
    assert find_pid(ONE, "stage:1") == 12
    with pytest.raises(CommandFailed, match="no process stage:2; there are stage:0, stage:1, coo"):
        find_pid(ONE, "stage:2")
    with pytest.raises(CommandFailed, match="there are none"):
        find_pid({"pipelines": []}, "stage:0")


@pytest.mark.parametrize(
    ("strike", "is_one"),
    [
        (Kill("gateway"), True),
        (Kill("gateway:gateway-1"), True),
        (Kill("coordinator"), False),
        (Pause("gateway", 1.0), False),
        (Disturb("partition", "gateway", "b", 1.0), False),
    ],
)
def test_only_the_end_of_a_gateway_cuts_its_clients(strike: Any, is_one: bool) -> None:
    assert is_gateway(strike) is is_one


def test_a_strike_says_in_words_what_it_is() -> None:
    assert str(Kill("stage:1")) == "kill stage:1"
    assert str(Pause("stage:1", 2.5)) == "pause stage:1 for 2.5 s"
    assert str(Disturb("partition", "a", "b", 5.0)) == "partition a|b for 5 s"
    assert str(Swap("0", "0:4,4:12")) == "swap 0 to 0:4,4:12"


@pytest.mark.parametrize("seed", range(40))
def test_a_random_strike_hits_what_there_is_and_never_the_only_node(seed: int) -> None:
    strike = random_strike(list(known_targets(ONE)), random.Random(seed))
    assert isinstance(strike, Kill | Pause)
    assert strike.target in known_targets(ONE)
    assert strike.target not in ("node:local", "pipeline:0")
    assert not (isinstance(strike, Pause) and strike.target == "gateway")
    assert not (isinstance(strike, Pause) and strike.for_s > MAX_PAUSE_S)


def test_random_strikes_hit_everything_sooner_or_later_and_depend_on_the_seed_alone() -> None:
    targets = ["stage:0", "coordinator", "gateway", "node:a", "node:b"]
    rng, again = random.Random(3), random.Random(3)
    strikes = [random_strike(targets, rng) for _ in range(200)]
    assert strikes == [random_strike(targets[::-1], again) for _ in range(200)]
    assert {strike.target for strike in strikes if isinstance(strike, Kill)} == set(targets)


SEEDS = st.integers(0, 2**32)


@st.composite
def splits(draw: st.DrawFn) -> tuple[tuple[int, int], ...]:
    """Layers from 0 on over stages, fewer stages than layers."""
    num_layers = draw(st.integers(3, 40))
    cuts = draw(st.sets(st.integers(1, num_layers - 1), min_size=1, max_size=num_layers - 2))
    bounds = [0, *sorted(cuts), num_layers]
    return tuple(itertools.pairwise(bounds))


@given(splits(), SEEDS)
def test_layers_cut_at_random_are_all_there_once_over_as_many_stages_and_cut_elsewhere(
    split: tuple[tuple[int, int], ...], seed: int
) -> None:
    layers = tuple(parse_layers(random_layers(split, random.Random(seed)), split[-1][1]))
    assert len(layers) == len(split)
    assert layers != split


@given(splits(), SEEDS)
def test_a_random_strike_is_of_the_offered_and_depends_on_the_seed_alone(
    split: tuple[tuple[int, int], ...], seed: int
) -> None:
    targets = list(known_targets(ONE))
    strike = random_strike(targets, random.Random(seed), {"0": split})
    assert strike == random_strike(targets[::-1], random.Random(seed), {"0": split})
    match strike:
        case Kill(target) | Pause(target, _):
            assert target in targets
        case Swap(pipeline, _):
            assert pipeline == "0"
        case _:
            pytest.fail(f"{strike} was not offered")


ENDS = [
    "coordinator",
    "gateway",
    "gateway:gateway-0",
    "node:a",
    "node:b",
    "pipeline:0",
    "stage:0",
    "stage:0/0",
    "stage:0/1",
]


def test_links_to_disturb_are_between_names_that_share_no_process() -> None:
    assert known_links(["node:a", "pipeline:0", "stage:0", "stage:0/0"]) == []
    links = known_links(ENDS)
    assert links == known_links(reversed(ENDS))
    assert set(links) == {
        ("coordinator", "gateway"),
        ("coordinator", "node:a"),
        ("coordinator", "node:b"),
        ("coordinator", "stage:0/0"),
        ("coordinator", "stage:0/1"),
        ("gateway", "node:a"),
        ("gateway", "node:b"),
        ("gateway", "stage:0/0"),
        ("gateway", "stage:0/1"),
        ("node:a", "node:b"),
        ("stage:0/0", "stage:0/1"),
    }


@given(SEEDS)
def test_a_random_strike_disturbs_links_where_that_is_allowed_and_never_for_long(seed: int) -> None:
    rng, again = random.Random(seed), random.Random(seed)
    strikes = [random_strike(["stage:0"], rng, link_ends=ENDS) for _ in range(60)]
    assert strikes == [random_strike(["stage:0"], again, link_ends=ENDS[::-1]) for _ in range(60)]
    found = [strike for strike in strikes if isinstance(strike, Disturb)]
    assert {strike.kind for strike in found} <= {"partition", "slow-link"}
    for strike in found:
        assert (strike.a, strike.b) in known_links(ENDS)
        assert strike.for_s <= MAX_PAUSE_S
        assert (strike.kind == "partition") == (strike.latency_s is None)


def test_partitions_and_slow_links_come_sooner_or_later_and_only_where_they_are_allowed() -> None:
    rng = random.Random(3)
    strikes = [random_strike(["stage:0"], rng, link_ends=ENDS) for _ in range(100)]
    kinds = {strike.kind for strike in strikes if isinstance(strike, Disturb)}
    assert kinds == {"partition", "slow-link"}
    assert not any(isinstance(random_strike(["stage:0"], rng), Disturb | Swap) for _ in range(100))


@given(SEEDS, st.sampled_from([(), ((0, 12),), ((0, 1), (1, 2))]))
def test_what_cannot_be_cut_elsewhere_is_never_swapped(
    seed: int, split: tuple[tuple[int, int], ...]
) -> None:
    rng = random.Random(seed)
    strikes = [random_strike(["stage:0"], rng, {"0": split}) for _ in range(20)]
    assert not any(isinstance(strike, Swap) for strike in strikes)


def test_swaps_come_sooner_or_later() -> None:
    offered = {"0": ((0, 5), (5, 12))}
    rng = random.Random(3)
    found = {type(random_strike(["stage:0"], rng, offered)) for _ in range(100)}
    assert found == {Kill, Pause, Swap}


def test_the_layers_of_a_pipeline_are_known_where_all_its_stages_tell_them() -> None:
    whole = {"id": "0", "stages": [{"layers": [0, 5]}, {"layers": [5, 12]}]}
    partial = {"id": "1", "stages": [{"layers": [0, 5]}, {}]}
    assert known_splits({"pipelines": [whole, partial]}) == {"0": ((0, 5), (5, 12))}


@pytest.mark.parametrize("num_tokens", [1, 2, 9, 200])
def test_a_random_moment_is_before_the_end(num_tokens: int) -> None:
    moments = {random_moment(num_tokens, random.Random(seed)) for seed in range(200)}
    assert min(moments) == 1
    assert max(moments) <= max(1, num_tokens // 2)


def test_half_of_the_requests_are_greedy_and_all_depend_on_the_seed_alone() -> None:
    asks = make_asks(8, 50, random.Random(1))
    assert asks == make_asks(8, 50, random.Random(1))
    assert asks != make_asks(8, 50, random.Random(2))
    assert [asked.temperature for asked in asks] == [0.0, 1.0] * 4
    assert len({asked.prompt for asked in asks}) == 8
    body = asks[1].body("demo")
    assert (body["max_tokens"], body["ignore_eos"], body["seed"]) == (50, True, asks[1].seed)
