"""What an operator's wish means, that as little as can be moves, and why a wish is refused."""

import itertools
import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.membership import Ending, Leaving, Members, NodeLost, Starting
from actors.messages import ChangePlan, WorkerDown
from actors.placement import ServiceSettings
from actors.target_plan import Target, describe_moves, match, target_of
from scheduling.errors import InvalidPlan
from scheduling.plan import NodeId, PipelinePlan, WorkerId, check_pipeline
from tests.actors.members import join, members_of, plan_of, slot, up
from tests.actors.wanted import MB, wanted_service

WANTED = wanted_service(6)
PLAN = plan_of([(0, 3), (3, 6)], ["a/0", "b/0"])
ALL = members_of("a/0", "b/0")
Range = tuple[int, int]


def wish(*, layers: str = "", stages: int = 0, plan: bytes = b"") -> ChangePlan:
    return ChangePlan(pipeline="", layers=layers, num_stages=stages, plan=plan, is_dry_run=False)


def packed(plan: PipelinePlan) -> bytes:
    return json.dumps(asdict(plan)).encode()


def target(
    wanted: ChangePlan,
    *,
    members: Members = ALL,
    plan: PipelinePlan = PLAN,
    spares: tuple[str, ...] = (),
    settings: ServiceSettings = WANTED,
) -> Target:
    return target_of(wanted, plan, members, spares, settings)


def places(found: Target) -> list[tuple[str, int, int]]:
    return [(stage.worker, stage.start, stage.end) for stage in found.plan.stages]


def refusal(wanted: ChangePlan, **given: Any) -> str:
    with pytest.raises(InvalidPlan) as caught:
        target(wanted, **given)
    return str(caught.value)


# --- by layers


def test_whoever_holds_most_of_a_stages_layers_gets_that_stage() -> None:
    assert places(target(wish(layers="0:1,1:6"))) == [("a/0", 0, 1), ("b/0", 1, 6)]
    assert places(target(wish(layers="0:5,5:6"))) == [("a/0", 0, 5), ("b/0", 5, 6)]


def test_what_is_wished_as_it_is_moves_nothing() -> None:
    assert target(wish(layers="0:3,3:6")) == Target(PLAN, ())


def test_fewer_stages_leave_the_worker_out_that_would_get_most() -> None:
    plan = plan_of([(0, 2), (2, 6)], ["a/0", "b/0"])
    assert places(target(wish(layers="0:6"), plan=plan)) == [("b/0", 0, 6)]


def test_more_stages_take_a_spare_before_a_new_worker() -> None:
    members = ALL + Starting(slot("b/spare")) + up("b/spare")
    found = target(wish(layers="0:1,1:4,4:6"), members=members, spares=("b/spare",))
    assert sorted(worker for worker, _, _ in places(found)) == ["a/0", "b/0", "b/spare"]
    assert found.new_slots == ()


def test_a_new_worker_is_started_on_the_device_that_has_the_fewest() -> None:
    plan = plan_of([(0, 2), (2, 4), (4, 6)], ["a/0", "a/1", "b/0"])
    found = target(
        wish(layers="0:1,1:2,2:4,4:6"), members=members_of("a/0", "a/1", "b/0"), plan=plan
    )
    (new,) = found.new_slots
    assert (new.node, new.device, new.layers) == ("b", "cpu", None)
    assert new.worker in [worker for worker, _, _ in places(found)]


def test_new_workers_have_names_that_nobody_had() -> None:
    members = members_of("a/0", "a/extra-0")
    plan = plan_of([(0, 6)], ["a/0"])
    found = target(wish(layers="0:1,1:2,2:6"), members=members, plan=plan)
    names = [new.worker for new in found.new_slots]
    assert len({*names, "a/0", "a/extra-0"}) == 4


@pytest.mark.parametrize("end", [Ending("b/0"), WorkerDown(worker="b/0", pid=1, reason="")])
def test_a_worker_that_ends_gets_no_stage(end: Ending | WorkerDown) -> None:
    found = target(wish(layers="0:3,3:6"), members=ALL + end)
    assert "b/0" not in [worker for worker, _, _ in places(found)]
    assert len(found.new_slots) == 1


@pytest.mark.parametrize(
    ("layers", "why"),
    [("0:3", "expected layers 0:6, got 0:3"), ("0:3,4:6", "a gap at 4:6"), ("x", "start:end")],
)
def test_layers_that_do_not_cover_the_model_are_refused(layers: str, why: str) -> None:
    assert why in refusal(wish(layers=layers))


def test_with_no_node_left_for_a_new_worker_a_wish_is_refused() -> None:
    members = ALL + NodeLost("b") + Leaving("a")
    assert "no node of the pipeline is left" in refusal(wish(layers="0:6"), members=members)


# --- by number


@pytest.mark.parametrize("stages", [1, 2, 3, 6])
def test_so_many_stages_cover_the_model(stages: int) -> None:
    found = target(wish(stages=stages))
    check_pipeline(found.plan, 6)
    assert len(found.plan.stages) == stages
    assert len(found.new_slots) == max(0, stages - 2)


def test_layers_are_split_by_what_the_workers_measured() -> None:
    fast = replace_up(ALL, "b/0", flops_per_s=5e12, bytes_per_s=5e9)
    (first, second) = target(wish(stages=2), members=fast).plan.stages
    assert (first.worker, second.worker) == ("a/0", "b/0")
    assert first.end - first.start < second.end - second.start


def replace_up(members: Members, worker: str, **changes: Any) -> Members:
    told = up(worker)
    return members + type(told)(**{name: getattr(told, name) for name in FIELDS} | changes)


FIELDS = up("a/0").__struct_fields__


@pytest.mark.parametrize("stages", [7, 100])
def test_more_stages_than_layers_are_refused_with_both_numbers(stages: int) -> None:
    assert refusal(wish(stages=stages)) == f"stages: expected 1 to 6, got {stages}"


def test_a_device_on_which_nothing_ever_ran_cannot_be_counted_on() -> None:
    members = members_of()
    for node in ("a", "b"):
        members = members + join(node) + Starting(slot(f"{node}/0"))
    why = refusal(wish(stages=2), members=members)
    assert why == "nothing is known of cpu of node a: nothing runs there"


# --- by plan


def test_a_plan_is_taken_as_it_is_written() -> None:
    plan = plan_of([(0, 1), (1, 2), (2, 6)], ["b/0", "a/new", "a/0"])
    found = target(wish(plan=packed(plan)))
    assert found.plan == plan
    assert [(s.worker, s.node, s.num_threads) for s in found.new_slots] == [("a/new", "a", 4)]


def test_a_plan_may_ask_for_another_number_of_blocks() -> None:
    found = target(wish(plan=packed(replace(PLAN, num_blocks=50))))
    assert found.plan == replace(PLAN, num_blocks=50)


def moved(worker: str, node: str = "a", device: str = "cpu") -> PipelinePlan:
    first, second = PLAN.stages
    there = replace(first, worker=WorkerId(worker), node=NodeId(node), device=device)
    return replace(PLAN, stages=(there, second))


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        (replace(PLAN, block_tokens=8), "with blocks of 4 tokens, got '0' with 8"),
        (plan_of([(0, 3), (3, 5)], ["a/0", "b/0"]), "expected layers 0:6, got 0:5"),
        (moved("a/0", node="b"), "worker 'a/0' lives on cpu of node a; give another name"),
        (moved("z/0", node="z"), "stage 0 is on node 'z'; here are: a, b"),
        (moved("a/9", device="cuda:3"), "node a has no device 'cuda:3'; it has: cpu"),
    ],
    ids=["blocks", "layers", "another place", "no such node", "no such device"],
)
def test_a_plan_that_cannot_be_is_refused_with_what_there_is(plan: PipelinePlan, why: str) -> None:
    assert why in refusal(wish(plan=packed(plan)))


@pytest.mark.parametrize("text", [b"{", b"[]", b"null", b"{}", b"\xff\xfe"])
def test_what_is_no_plan_is_refused(text: bytes) -> None:
    assert "expected" in refusal(wish(plan=text))


def test_a_plan_with_one_worker_for_two_stages_is_refused() -> None:
    plan = plan_of([(0, 3), (3, 6)], ["a/0", "a/0"])
    assert "a/0" in refusal(wish(plan=packed(plan)))


def test_a_plan_that_takes_another_pipelines_worker_is_refused() -> None:
    """It is up, and neither this pipeline's nor a spare: whoever uses it would lose its layers."""
    members = ALL + Starting(slot("a/1")) + up("a/1")
    plan = plan_of([(0, 3), (3, 6)], ["a/1", "b/0"])
    assert "a/1" in refusal(wish(plan=packed(plan)), members=members)
    assert target(wish(plan=packed(plan)), members=members, spares=("a/1",)).plan == plan


# --- memory


def test_what_does_not_fit_beside_what_serves_is_refused_with_the_numbers() -> None:
    small = members_of()
    for name in ("a/0", "b/0"):
        small = small + join(name[0]) + Starting(slot(name)) + up(name, memory_bytes=11 * MB)
    assert places(target(wish(layers="0:4,4:6"), members=small)) == [("a/0", 0, 4), ("b/0", 4, 6)]
    why = refusal(wish(layers="0:5,5:6"), members=small)
    assert why == (
        "stage 0 on a/0: old and new layers together need 6.1 MB with 16 KV blocks, "
        "and it may take 5.5 MB"
    )


# --- what moves


def test_moves_are_told_in_runs_with_their_bytes() -> None:
    new = plan_of([(0, 1), (1, 6)], ["a/0", "b/0"])
    assert describe_moves(PLAN, new, WANTED.cost) == (
        "layers 1:3 (2.0 MB weights, up to 0.0 MB KV) from a/0 to b/0",
    )
    assert describe_moves(PLAN, PLAN, WANTED.cost) == ()


def test_runs_end_where_their_owner_does() -> None:
    new = plan_of([(0, 6)], ["c/0"])
    told = describe_moves(PLAN, new, WANTED.cost)
    assert [text.split(" (")[0] for text in told] == ["layers 0:3", "layers 3:6"]


@st.composite
def rangess(draw: st.DrawFn) -> list[Range]:
    cuts = sorted(draw(st.sets(st.integers(1, 9), max_size=4)))
    return list(itertools.pairwise([0, *cuts, 10]))


def kept(ranges: list[Range], holders: dict[str, Range], found: dict[int, str]) -> int:
    """Layers that stay where they are."""
    total = 0
    for number, name in found.items():
        (start, end), (held_start, held_end) = ranges[number], holders[name]
        total += max(0, min(end, held_end) - max(start, held_start))
    return total


@given(rangess(), rangess())
def test_no_other_matching_keeps_more_layers_where_they_are(
    ranges: list[Range], held: list[Range]
) -> None:
    holders = {f"w{number}": layers for number, layers in enumerate(held)}
    found = match(ranges, holders)
    assert len(set(found.values())) == len(found)
    numbers = range(len(ranges))
    size = min(len(ranges), len(holders))
    best = max(
        kept(ranges, holders, dict(zip(chosen, names, strict=True)))
        for chosen in itertools.combinations(numbers, size)
        for names in itertools.permutations(holders, size)
    )
    assert kept(ranges, holders, found) == best
