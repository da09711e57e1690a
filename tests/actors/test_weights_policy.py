from dataclasses import replace
from typing import Any

import msgspec
import pytest

from actors.membership import Members
from actors.placement import ServiceSettings, WorkerSlot, plan_pipelines, store_bound
from actors.weights import weights_of
from actors.weights_policy import MAX_HOLDERS, holders, weight_policy
from scheduling.errors import Infeasible
from tests.actors.members import members_of, plan_of, slot, up
from tests.actors.wanted import MB, wanted_service

WORKERS = ("a/0", "a/1", "b/0", "b/1", "c/0")


def settings(**changes: Any) -> ServiceSettings:
    return wanted_service(6, **{"weight_source": "auto", "store_bytes": -1, **changes})


def named(members: Members, *names: str) -> tuple[object, ...]:
    return tuple(weights_of(members.workers[name].ref) for name in names)


def with_shared(members: Members, num_bytes: int) -> Members:
    for name in members.workers:
        members += msgspec.structs.replace(members.workers[name], shared_bytes=num_bytes)
    return members


def test_other_nodes_come_first_one_of_each_and_the_own_node_last() -> None:
    members = members_of(*WORKERS)
    (stage,) = plan_of([(0, 6)], ["a/0"]).stages
    assert holders(stage, members) == named(members, "b/0", "c/0", "b/1", "a/1")


def test_a_worker_is_never_its_own_holder_and_only_so_many_are_named() -> None:
    members = members_of(*(f"n{number}/0" for number in range(MAX_HOLDERS + 5)))
    (stage,) = plan_of([(0, 6)], ["n0/0"]).stages
    found = holders(stage, members)
    assert len(found) == MAX_HOLDERS
    assert weights_of(members.workers["n0/0"].ref) not in found


def test_who_may_use_its_disk_alone_is_told_of_nobody() -> None:
    members = with_shared(members_of(*WORKERS), 100 * MB)
    (stage,) = plan_of([(0, 6)], ["a/0"]).stages
    policy = weight_policy(stage, members, settings(weight_source="disk", weight_verify="full"))
    assert (policy.source, policy.verify, policy.holders) == ("disk", "full", ())
    assert policy.store_bytes == 50 * MB


def test_a_worker_that_is_gone_meanwhile_is_promised_no_store() -> None:
    members = members_of("a/0")
    (stage,) = plan_of([(0, 6)], ["b/0"]).stages
    assert weight_policy(stage, members, settings()).store_bytes == 0


@pytest.mark.parametrize(
    ("wish", "device", "shared", "expected"),
    [
        (-1, "cpu", 400 * MB, 200 * MB),
        (-1, "cpu", 4000 * MB, 250 * MB),
        (-1, "cuda:0", 4000 * MB, 2000 * MB),
        (0, "cpu", 400 * MB, 0),
        (300 * MB, "cpu", 400 * MB, 300 * MB),
        (500 * MB, "cpu", 400 * MB, 400 * MB),
        (-1, "cpu", 0, 0),
    ],
)
def test_a_store_takes_what_is_asked_or_half_of_what_is_free(
    wish: int, device: str, shared: int, expected: int
) -> None:
    worker = msgspec.structs.replace(up("a/0", memory_bytes=1000 * MB), shared_bytes=shared)
    assert store_bound(settings(store_bytes=wish), device, worker) == expected


@pytest.mark.parametrize(
    ("wish", "shared", "why"),
    [
        (500 * MB, 400 * MB, r"node a: 500\.0 MB .* shared memory, and 400\.0 MB of it are free"),
        (600 * MB, 900 * MB, r"node a: 600\.0 MB .* of 1000\.0 MB free stages may take 500\.0 MB"),
    ],
)
def test_a_store_that_was_asked_for_and_cannot_fit_is_refused_before_anything_is_planned(
    wish: int, shared: int, why: str
) -> None:
    worker = msgspec.structs.replace(up("a/0", memory_bytes=1000 * MB), shared_bytes=shared)
    slots: list[WorkerSlot] = [replace(slot("a/0"), layers=None)]
    with pytest.raises(Infeasible, match=why):
        plan_pipelines(settings(store_bytes=wish), slots, {"a/0": worker})
    assert plan_pipelines(settings(store_bytes=0), slots, {"a/0": worker})
