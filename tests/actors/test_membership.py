"""Who is here, after every order of events that nodes and workers can bring about."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from actors.membership import Ending, Event, Leaving, Members, NodeLost, Starting
from actors.messages import WorkerDown
from tests.actors.members import join, members_of, ref, slot, up

WORKERS = ("a/0", "a/1", "b/0", "b/1")
NODES = ("a", "b")


def down(worker: str, pid: int = 1) -> WorkerDown:
    return WorkerDown(worker=worker, pid=pid, reason="killed by signal 9")


# --- one event at a time


def test_a_worker_is_usable_from_its_up_to_its_down() -> None:
    members = Members() + join("a") + Starting(slot("a/0"))
    assert members.usable("a/0") is None
    assert not members.may_start("a/0")
    members += up("a/0")
    assert members.usable("a/0") == up("a/0")
    members += down("a/0")
    assert members.usable("a/0") is None
    assert members.may_start("a/0")


def test_a_worker_that_is_to_end_is_nobodys_and_its_name_not_free_before_its_end() -> None:
    members = members_of("a/0") + Ending("a/0")
    assert members.usable("a/0") is None
    assert not members.may_start("a/0")
    assert members.worker_at(ref("a/0")) == "a/0"
    members += down("a/0")
    assert members.may_start("a/0")


def test_a_lost_node_takes_its_workers_along_and_no_others() -> None:
    members = members_of(*WORKERS) + Ending("a/1") + NodeLost("a")
    assert set(members.nodes) == {"b"}
    assert set(members.workers) == {"b/0", "b/1"}
    assert members.ending == frozenset()
    assert members.on_node("a") == ("a/0", "a/1")
    assert not members.may_start("a/0")
    assert (members + join("a", 2)).may_start("a/0")


def test_a_worker_that_was_starting_on_a_lost_node_starts_anew_when_that_is_back() -> None:
    members = Members() + join("a") + Starting(slot("a/0")) + NodeLost("a") + join("a", 2)
    assert members.may_start("a/0")


def test_nothing_new_goes_to_a_leaving_node_until_it_joins_again() -> None:
    members = members_of("a/0", "b/0") + Starting(slot("a/1")) + down("a/1") + Leaving("a")
    assert members.usable("a/0") is None
    assert not members.may_start("a/1")
    assert members.usable("b/0") is not None
    members += join("a", 2)
    assert members.usable("a/0") is not None
    assert members.may_start("a/1")


def test_a_worker_is_found_by_its_present_life_alone() -> None:
    members = members_of("a/0") + down("a/0") + Starting(slot("a/0")) + up("a/0", 2)
    assert members.worker_at(ref("a/0", 2)) == "a/0"
    assert members.worker_at(ref("a/0", 1)) is None
    assert members.node_at(ref("node-a")) == "a"
    assert members.node_at(ref("node-a", 2)) is None


def test_a_worker_that_nobody_started_is_not_taken_in() -> None:
    members = members_of("a/0")
    assert members + up("a/9") == members
    assert members + down("a/9") == members


def test_what_a_node_that_is_gone_still_says_of_its_workers_changes_nothing() -> None:
    members = members_of("a/0", "b/0") + NodeLost("a")
    assert members + up("a/0") == members
    assert members + up("a/0", 2) == members


@pytest.mark.parametrize(
    "event",
    [
        join("a", 2),
        NodeLost("a"),
        Leaving("a"),
        Starting(slot("a/9")),
        up("a/0", 2),
        Ending("a/0"),
        down("a/0"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_was_known_before_an_event_stays_as_it_was(event: Event) -> None:
    members, same = members_of(*WORKERS), members_of(*WORKERS)
    assert members + event != members
    assert members == same


# --- in every order


class MembersMachine(RuleBasedStateMachine):
    """A cluster beside what is known of it; what its nodes tell may come after they are gone."""

    def __init__(self) -> None:
        super().__init__()
        self.members = Members()
        self.life = 0
        self.nodes: set[str] = set()
        self.up: dict[str, int] = {}
        self.told: list[str] = []

    def next_life(self) -> int:
        self.life += 1
        return self.life

    @rule(node=st.sampled_from(NODES))
    def a_node_joins(self, node: str) -> None:
        if node not in self.nodes:
            self.nodes.add(node)
            self.members += join(node, self.next_life())

    @rule(node=st.sampled_from(NODES))
    def a_node_is_lost(self, node: str) -> None:
        self.nodes.discard(node)
        self.up = {w: life for w, life in self.up.items() if not w.startswith(node)}
        self.members += NodeLost(node)

    @rule(node=st.sampled_from(NODES))
    def a_node_is_to_leave(self, node: str) -> None:
        if node in self.nodes:
            self.members += Leaving(node)

    @rule(worker=st.sampled_from(WORKERS))
    def a_worker_is_told_to_start(self, worker: str) -> None:
        is_known = worker in self.members.slots
        if self.members.may_start(worker) if is_known else worker[0] in self.nodes:
            self.members += Starting(slot(worker))

    @rule(worker=st.sampled_from(WORKERS))
    def a_worker_comes_up(self, worker: str) -> None:
        if worker in self.members.starting:
            self.up[worker] = self.next_life()
            self.members += up(worker, self.up[worker])

    @rule(worker=st.sampled_from(WORKERS), life=st.integers(1, 5))
    def a_node_that_is_gone_still_tells_of_a_worker(self, worker: str, life: int) -> None:
        if worker[0] not in self.nodes:
            self.members += up(worker, life)

    @rule(worker=st.sampled_from(WORKERS))
    def a_worker_is_told_to_end(self, worker: str) -> None:
        if worker in self.up:
            self.members += Ending(worker)

    @rule(worker=st.sampled_from(WORKERS))
    def a_worker_ends(self, worker: str) -> None:
        if worker in self.up or worker in self.members.starting:
            self.members += down(worker, self.up.pop(worker, 0))

    @invariant()
    def those_are_known_to_be_up_that_are(self) -> None:
        assert {w: told.pid for w, told in self.members.workers.items()} == self.up
        assert set(self.members.nodes) == self.nodes

    @invariant()
    def a_worker_is_in_one_state_and_on_a_node_that_is_here(self) -> None:
        members = self.members
        assert not members.starting & set(members.workers)
        assert members.ending <= set(members.workers)
        for worker in (*members.workers, *members.starting):
            assert members.slots[worker].node in members.nodes

    @invariant()
    def only_nodes_that_are_here_leave(self) -> None:
        assert self.members.leaving <= set(self.members.nodes)

    @invariant()
    def what_may_start_is_nowhere_and_what_is_usable_may_not_start(self) -> None:
        for worker in self.members.slots:
            is_known = worker in self.members.workers or worker in self.members.starting
            assert not (self.members.may_start(worker) and is_known)
            assert (self.members.usable(worker) is None) or worker in self.up


TestMembersMachine = MembersMachine.TestCase
TestMembersMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
