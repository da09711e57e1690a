import itertools

from actors.messages import PlanChanged
from runtime.telemetry.events import Event
from runtime.telemetry.plan_events import events_between
from tests.runtime.telemetry.plans import change, pipeline, plan, stage


def between(before: PlanChanged | None, after: PlanChanged) -> list[Event]:
    return list(events_between(before, after))


def kinds(before: PlanChanged | None, after: PlanChanged) -> list[str]:
    return [event.kind for event in between(before, after)]


def test_the_same_state_twice_is_no_event() -> None:
    state = plan(pipeline(change=change()), nodes=("a", "b"))
    assert kinds(state, state) == []


def test_the_first_state_tells_what_is_there() -> None:
    first = between(None, plan(pipeline(), nodes=("a", "b")))
    assert [(e.kind, e.facts.get("node")) for e in first] == [
        ("node_joined", "a"),
        ("node_joined", "b"),
        ("pipeline_state", None),
    ]


def test_nodes_join_and_leave() -> None:
    found = between(plan(nodes=("a", "b")), plan(nodes=("b", "c")))
    assert [(e.kind, e.facts) for e in found] == [
        ("node_joined", {"node": "c"}),
        ("node_left", {"node": "a"}),
    ]


def test_a_lost_stage_and_its_pipeline_are_told() -> None:
    before = plan(pipeline(stage("w0"), stage("w1", number=1)))
    lost = stage("w1", "lost", 1)
    found = between(before, plan(pipeline(stage("w0"), lost, state="degraded")))
    assert [e.kind for e in found] == ["pipeline_state", "stage_state"]
    assert found[0].facts == {"pipeline": "0", "epoch": 1, "state": "degraded", "was": "ready"}
    assert (found[1].facts["stage"], found[1].facts["state"]) == (1, "lost")


def test_a_swap_is_told_phase_by_phase_and_when_it_is_done() -> None:
    states = [
        plan(pipeline()),
        plan(pipeline(phase="prepare")),
        plan(pipeline(phase="copy")),
        plan(pipeline(phase="copy")),
        plan(pipeline(stage("w9"), epoch=2, change=change())),
    ]
    found = [e for a, b in itertools.pairwise(states) for e in between(a, b)]
    assert [e.kind for e in found] == [
        "swap_phase",
        "swap_phase",
        "stage_placed",
        "stages_changed",
    ]
    done = found[-1].facts
    assert (done["cause"], done["pause_s"], done["moved_bytes"]) == ("swap", 0.5, 520)
    assert (done["recomputed"], done["preempted"]) == (0.5, 3)


def test_pipelines_come_and_go() -> None:
    found = between(plan(pipeline(name="0")), plan(pipeline(name="1")))
    assert [(e.kind, e.facts["pipeline"]) for e in found] == [
        ("pipeline_state", "1"),
        ("pipeline_removed", "0"),
    ]
