"""What of a coordinator's knowledge outlives it, and what a record says of its pipeline."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.bring_up import BringUp
from actors.cluster_state import VERSION, PipelineRecord, Restored, restored, stored
from actors.membership import Ending, Leaving, Members, Starting
from actors.messages import LOADING, LOST, READY, RECOVERING, LoadProgress, StageReady
from tests.actors.members import join, members_of, plan_of, ref, slot
from tests.actors.wanted import wanted_service

PLAN = plan_of([(0, 2), (2, 6)], ["a/0", "b/0"])
OTHER = plan_of([(0, 4), (4, 6)], ["a/0", "b/0"])
WORKERS = {"a/0": ref("a/0"), "b/0": ref("b/0")}


def told(stage: int, epoch: int = 1) -> StageReady:
    return StageReady(
        epoch=epoch,
        pipeline="0",
        stage=stage,
        kept_start=0,
        kept_end=2,
        num_logged_blocks=16,
        keeps_log=True,
        weight_bytes=100,
        kv_bytes=10,
        resident_bytes=1000,
    )


def wanted(plan: Any = PLAN, epoch: int = 1) -> BringUp:
    return BringUp(
        epoch=epoch,
        plan=plan,
        settings=wanted_service(6),
        workers=WORKERS,
        head=ref("node-a"),
        home=None,
        takes_over=False,
        lost=(),
        old_epoch=0,
        observer=ref("coordinator"),
    )


def serving() -> PipelineRecord:
    record = PipelineRecord(plan=PLAN, wanted=PLAN)
    record.begin(PLAN, 1, LOADING)
    record.is_busy = False
    record.opened(ref("pipeline"), wanted(), (told(0), told(1)), now=5.0)
    return record


# --- a record


def test_a_record_serves_what_was_brought_up() -> None:
    record = serving()
    assert (record.state, record.home, record.home_node) == (READY, ref("pipeline"), "a")
    assert (record.serving, record.has_served) == (WORKERS, True)
    assert (record.served_epoch, record.opened_epoch, record.ready_at) == (1, 1, 5.0)


def test_a_change_leaves_its_actor_and_the_epoch_in_which_that_began() -> None:
    record = serving()
    record.lost.add(ref("a/0"))
    record.begin(OTHER, 2, RECOVERING)
    assert (record.plan, record.wanted, record.served_epoch) == (PLAN, OTHER, 1)
    record.changed(wanted(OTHER, epoch=2), (told(0, 2), told(1, 2)), now=9.0)
    assert (record.plan, record.served_epoch, record.opened_epoch) == (OTHER, 2, 1)
    assert (record.home, record.state, record.lost) == (ref("pipeline"), READY, set())


def test_without_its_actor_it_uses_no_worker() -> None:
    record = serving()
    record.lost.add(ref("a/0"))
    record.lose_home()
    assert (record.home, record.home_node, record.serving) == (None, "", {})
    assert not record.lost


def test_loaded_bytes_are_those_of_the_present_attempt() -> None:
    record = serving()
    for stage in (0, 1):
        record.loaded[stage] = LoadProgress(
            epoch=1, pipeline="0", stage=stage, num_bytes=30, total_bytes=100
        )
    assert record.num_loaded_bytes == 60
    record.begin(OTHER, 2, READY)
    assert record.num_loaded_bytes == 0


# --- another life


def again(members: Members, *records: PipelineRecord) -> tuple[int, Members, list[PipelineRecord]]:
    found = restored(stored(7, members, records))
    return found.epoch, found.members, found.records


def test_a_running_service_is_taken_up_as_it_was() -> None:
    members = members_of("a/0", "b/0")
    epoch, same, (record,) = again(members, serving())
    assert (epoch, same) == (7, members)
    before = serving()
    for name in (
        "plan",
        "wanted",
        "epoch",
        "opened_epoch",
        "served_epoch",
        "state",
        "home",
        "home_node",
        "serving",
        "stages",
        "has_served",
    ):
        assert getattr(record, name) == getattr(before, name), name


def test_what_was_under_way_begins_again_from_what_serves() -> None:
    record = serving()
    record.begin(OTHER, 2, READY)
    _, _, (taken_up,) = again(members_of("a/0", "b/0"), record)
    assert (taken_up.plan, taken_up.wanted) == (PLAN, PLAN)
    assert (taken_up.epoch, taken_up.served_epoch, taken_up.is_busy) == (2, 1, False)


def test_a_pipeline_that_has_no_actor_is_lost_and_not_new() -> None:
    record = serving()
    record.lose_home()
    _, _, (taken_up,) = again(members_of("a/0", "b/0"), record)
    assert (taken_up.state, taken_up.has_served) == (LOST, True)
    never = PipelineRecord(plan=PLAN, wanted=PLAN)
    _, _, (new,) = again(members_of("a/0", "b/0"), never)
    assert (new.state, new.has_served) == (LOST, False)


NODES = st.sampled_from(["a", "b", "ü-node"])


@given(
    epoch=st.integers(0, 1 << 48),
    nodes=st.lists(NODES, unique=True),
    starting=st.booleans(),
    ending=st.booleans(),
    leaving=st.booleans(),
)
def test_members_come_back_as_they_were(
    epoch: int, nodes: list[str], starting: bool, ending: bool, leaving: bool
) -> None:
    members = members_of(*(f"{node}/{number}" for node in nodes for number in range(2)))
    for node in nodes[:1]:
        members = members + Starting(slot(f"{node}/9")) if starting else members
        members = members + Ending(f"{node}/0") if ending else members
        members = members + Leaving(node) if leaving else members + join(node, 2)
    assert restored(stored(epoch, members, ())) == Restored(epoch, members, [])


@pytest.mark.parametrize(
    "saved",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        stored(1, Members(), ())[:-1],
        stored(1, Members(), ()).replace(b'"epoch":1', b'"epoch":"1"'),
    ],
)
def test_what_is_no_state_is_refused(saved: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        restored(saved)


def test_a_state_of_another_layout_is_refused_with_both_versions() -> None:
    other = msgspec.json.decode(stored(1, Members(), ())) | {"version": VERSION + 1}
    with pytest.raises(ValueError, match=f"expected version {VERSION}, got {VERSION + 1}"):
        restored(msgspec.json.encode(other))
