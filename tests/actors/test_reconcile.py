"""What is decided, case by case, and that deciding again and again leads to a whole pipeline."""

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from actors.membership import Ending, Leaving, Members, NodeLost, Starting
from actors.messages import WorkerDown
from actors.placement import ServiceSettings
from actors.reconcile import Await, Change, Decision, Open, Present, Stay, decide
from scheduling.plan import PipelinePlan, check_pipeline
from tests.actors.members import join, members_of, plan_of, ref, slot, up
from tests.actors.wanted import MB, wanted_service

WANTED = wanted_service(6)
PLAN = plan_of([(0, 2), (2, 4), (4, 6)], ["a/0", "a/1", "b/0"])


def serving(plan: PipelinePlan = PLAN, **lives: int) -> Present:
    """It serves over its plan; other lives than the first are given by worker."""
    refs = {str(s.worker): ref(s.worker, lives.get(s.worker[2:], 1)) for s in plan.stages}
    return Present(plan=plan, serves_plan=True, serving=refs, lost=frozenset())


def without(members: Members, worker: str) -> Members:
    return members + WorkerDown(worker=worker, pid=1, reason="killed by signal 9")


def decided(
    members: Members,
    *,
    present: Present | None = None,
    spares: Sequence[str] = (),
    wanted: ServiceSettings = WANTED,
) -> Decision:
    return decide(present or serving(), members, spares, wanted)


def workers_of(decision: Decision) -> list[str]:
    assert isinstance(decision, Change | Open)
    return [stage.worker for stage in decision.plan.stages]


def ranges_of(decision: Decision) -> list[tuple[int, int]]:
    assert isinstance(decision, Change | Open)
    return [(stage.start, stage.end) for stage in decision.plan.stages]


# --- case by case

ALL = members_of("a/0", "a/1", "b/0")


def test_a_whole_pipeline_stays() -> None:
    assert decided(ALL) == Stay()


def test_a_pipeline_without_an_actor_is_opened_over_its_plan() -> None:
    present = replace(serving(), serving={})
    assert decided(ALL, present=present) == Open(PLAN)


def test_a_pipeline_that_serves_another_plan_than_is_wanted_is_changed() -> None:
    present = replace(serving(), serves_plan=False)
    assert decided(ALL, present=present) == Change(PLAN)


def test_a_workers_next_life_takes_its_place() -> None:
    members = without(ALL, "a/1") + Starting(slot("a/1")) + up("a/1", 2)
    assert decided(members) == Change(PLAN)


def test_a_lost_worker_is_started_and_awaited_where_nobody_stands_in() -> None:
    decision = decided(without(ALL, "a/1"))
    waits = "waiting for stage 1 on node a to start"
    assert decision == Await((slot("a/1", stage=1),), (waits,))


def test_a_worker_that_starts_or_ends_is_awaited_and_not_started_again() -> None:
    waits = Await((), ("waiting for stage 1 on node a to start",))
    assert decided(without(ALL, "a/1") + Starting(slot("a/1"))) == waits
    assert decided(ALL + Ending("a/1")) == waits


def test_a_spare_on_the_same_device_stands_in_before_one_on_another() -> None:
    members = without(ALL, "a/1") + join("a", devices=["cpu", "cuda:0"])
    for name, device in (("a/gpu", "cuda:0"), ("a/cpu", "cpu")):
        members = members + Starting(slot(name, device=device)) + up(name)
    decision = decided(members, spares=["a/gpu", "a/cpu"])
    assert workers_of(decision) == ["a/0", "a/cpu", "b/0"]
    assert workers_of(decided(members, spares=["a/gpu"])) == ["a/0", "a/gpu", "b/0"]


def test_a_spare_elsewhere_waits_for_a_node_that_is_still_here() -> None:
    members = without(ALL, "a/1") + Starting(slot("b/spare")) + up("b/spare")
    assert isinstance(decided(members, spares=["b/spare"]), Await)


def test_a_spare_elsewhere_stands_in_for_a_worker_of_a_node_that_is_gone() -> None:
    members = ALL + Starting(slot("a/spare")) + up("a/spare") + NodeLost("b")
    decision = decided(members, spares=["a/spare"])
    assert workers_of(decision) == ["a/0", "a/1", "a/spare"]
    assert ranges_of(decision) == [(0, 2), (2, 4), (4, 6)]
    assert decision == decided(
        ALL + Starting(slot("a/spare")) + up("a/spare") + Leaving("b"), spares=["a/spare"]
    )


def test_those_that_are_left_share_the_layers_of_a_node_that_is_gone() -> None:
    decision = decided(ALL + NodeLost("b"))
    assert isinstance(decision, Change)
    assert workers_of(decision) == ["a/0", "a/1"]
    assert ranges_of(decision) == [(0, 3), (3, 6)]
    assert decision.plan.num_blocks == PLAN.num_blocks


def test_where_the_layers_do_not_fit_those_that_are_left_the_node_is_awaited() -> None:
    small = members_of() + join("a") + join("b")
    for name in ("a/0", "a/1", "b/0"):
        small = small + Starting(slot(name)) + up(name, memory_bytes=5 * MB)
    decision = decided(small + NodeLost("b"))
    assert decision == Await((), ("waiting for node b",))


def test_with_nobody_left_every_node_is_named_once() -> None:
    decision = decided(ALL + NodeLost("a") + NodeLost("b"))
    assert decision == Await((), ("waiting for node a", "waiting for node b"))


def test_a_worker_that_only_the_pipeline_cannot_reach_is_not_used() -> None:
    present = replace(serving(), lost=frozenset({ref("a/1")}))
    assert isinstance(decided(ALL, present=present), Await)
    again = without(ALL, "a/1") + Starting(slot("a/1")) + up("a/1", 2)
    assert decided(again, present=present) == Change(PLAN)


# --- again and again

NODES = ("a", "b", "c")
WORKERS = ("a/0", "a/1", "b/0", "b/1", "c/0")


class ReconcileMachine(RuleBasedStateMachine):
    """A cluster that loses and regains its parts, and does what is decided."""

    @initialize(num_spares=st.integers(0, 2))
    def begin(self, num_spares: int) -> None:
        self.life = 1
        serves = WORKERS[: len(WORKERS) - num_spares]
        bounds = [(i, i + 1) for i in range(len(serves) - 1)]
        self.plan = plan_of([*bounds, (len(serves) - 1, 6)], serves)
        self.members = members_of(*WORKERS)
        self.serving = {str(s.worker): ref(s.worker) for s in self.plan.stages}
        self.lost: set[object] = set()

    @property
    def present(self) -> Present:
        return Present(
            plan=self.plan,
            serves_plan=True,
            serving=self.serving,
            lost=frozenset(r for r in self.serving.values() if r in self.lost),
        )

    def decide(self) -> Decision:
        used = {stage.worker for stage in self.plan.stages}
        spares = [name for name in self.members.workers if name not in used]
        return decide(self.present, self.members, spares, WANTED)

    # what happens

    @rule(worker=st.sampled_from(WORKERS))
    def a_worker_dies(self, worker: str) -> None:
        if worker in self.members.workers or worker in self.members.starting:
            self.members = without(self.members, worker)

    @rule(worker=st.sampled_from(WORKERS))
    def a_worker_falls_out_of_the_pipelines_reach(self, worker: str) -> None:
        if worker in self.serving and worker in self.members.workers:
            self.lost.add(self.serving[worker])
            self.members += Ending(worker)

    @rule(node=st.sampled_from(NODES))
    def a_node_is_lost(self, node: str) -> None:
        if node in self.members.nodes:
            self.members += NodeLost(node)

    @rule(node=st.sampled_from(NODES))
    def a_node_is_to_leave(self, node: str) -> None:
        if node in self.members.nodes:
            self.members += Leaving(node)

    @rule(node=st.sampled_from(NODES))
    def a_node_comes_back(self, node: str) -> None:
        if node not in self.members.nodes:
            self.life += 1
            self.members += join(node, self.life)

    @rule()
    def the_pipelines_actor_is_lost(self) -> None:
        self.serving = {}

    # what is done

    @rule()
    def one_step_is_taken(self) -> None:
        self.do(self.decide())

    def do(self, decision: Decision) -> None:
        match decision:
            case Open(plan) | Change(plan):
                self.plan = plan
                up_now = self.members.workers
                self.serving = {str(s.worker): up_now[s.worker].ref for s in plan.stages}
                self.lost.clear()
            case Await(starts, _):
                for wanted in starts:
                    self.members += Starting(wanted)
            case Stay():
                pass

    @rule()
    def the_nodes_do_as_they_were_told(self) -> None:
        for name in self.members.ending:
            self.members = without(self.members, name)
        for name in self.members.starting:
            self.life += 1
            self.members += up(name, self.life)

    # what holds

    @invariant()
    def a_plan_covers_all_layers_with_other_usable_workers(self) -> None:
        decision = self.decide()
        if isinstance(decision, Open | Change):
            check_pipeline(decision.plan, 6)
            names = workers_of(decision)
            assert len(set(names)) == len(names)
            for name in names:
                found = self.members.usable(name)
                assert found is not None
                assert found.ref not in self.lost
            assert isinstance(decision, Change) == bool(self.serving)

    @invariant()
    def only_what_may_start_is_started_and_whoever_waits_says_for_what(self) -> None:
        decision = self.decide()
        if isinstance(decision, Await):
            assert decision.missing
            assert all(self.members.may_start(wanted.worker) for wanted in decision.starts)

    @invariant()
    def with_a_node_of_the_plan_it_comes_to_rest_whole(self) -> None:
        """The others may be gone for good: those that are left are enough for the layers."""
        here = set(self.members.nodes) - self.members.leaving
        if not here & {stage.node for stage in self.plan.stages}:
            return
        before = self.members, self.plan, self.serving, set(self.lost), self.life
        for _ in range(8):
            self.the_nodes_do_as_they_were_told()
            if isinstance(decision := self.decide(), Stay):
                break
            self.do(decision)
        assert self.decide() == Stay()
        assert self.serving == {
            str(s.worker): self.members.workers[s.worker].ref for s in self.plan.stages
        }
        self.members, self.plan, self.serving, self.lost, self.life = before


TestReconcileMachine = ReconcileMachine.TestCase
TestReconcileMachine.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
