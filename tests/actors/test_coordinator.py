"""How a coordinator brings a service up, and what it tells of that in each phase."""

import pytest

from actors.bring_up import pipeline_ref
from actors.messages import (
    AssignStage,
    Cancel,
    JoinRefused,
    LoadProgress,
    LogLine,
    OpenPipeline,
    PlanChanged,
    Progress,
    RegisterRouter,
    StartWorker,
    Welcome,
    WorkerDown,
)
from actors.placement import StageWish
from tests.actors.wanted import MB
from tests.support.actor_worlds import (
    Cluster,
    World,
    cluster_of,
    on_virtual_time,
    settle,
    stage_failed,
)

A0, B1 = "a/stage-0.0", "b/stage-0.1"


async def two_nodes(world: World) -> Cluster:
    return await cluster_of(world, wait_nodes=("a", "b"), num_stages=2)


# --- joining


@on_virtual_time
async def test_it_says_who_is_missing_while_it_waits(world: World) -> None:
    cluster = await two_nodes(world)
    assert cluster.status.missing == ("waiting for node a", "waiting for node b")
    assert cluster.status.nodes == ()
    assert isinstance(await cluster.join("b"), Welcome)
    plan = await cluster.learns(lambda plan: plan.nodes)
    assert (plan.nodes, plan.missing) == (("b",), ("waiting for node a",))
    assert (plan.epoch, plan.pipelines, plan.failure) == (0, (), None)


@on_virtual_time
async def test_unnamed_nodes_are_counted(world: World) -> None:
    cluster = await cluster_of(world, num_nodes=2)
    assert cluster.status.missing == ("waiting for 2 more nodes",)
    await cluster.join("whoever")
    await cluster.learns(lambda plan: plan.missing == ("waiting for 1 more node",))


@pytest.mark.parametrize(
    ("name", "reason"),
    [("a", "a node named 'a' is here already"), ("z", "node 'z' is not in the plan; it has: a, b")],
)
@on_virtual_time
async def test_a_node_without_a_place_is_refused_and_changes_nothing(
    world: World, name: str, reason: str
) -> None:
    cluster = await two_nodes(world)
    await cluster.join("a")
    await settle()
    before = cluster.launcher.all_of(PlanChanged)
    assert await cluster.join(name) == JoinRefused(reason=reason)
    await settle()
    assert cluster.launcher.all_of(PlanChanged) == before


@on_virtual_time
async def test_a_refused_nodes_end_is_not_the_loss_of_the_one_of_its_name(world: World) -> None:
    cluster = await two_nodes(world)
    await cluster.join("a")
    first = cluster.nodes["a"]
    await cluster.join("a")
    world.lose("node-a.2")
    await settle()
    assert cluster.status.nodes == ("a",)
    await cluster.join("b")
    assert (await first.hears(StartWorker)).worker == A0


@on_virtual_time
async def test_nothing_starts_before_every_node_is_there(world: World) -> None:
    cluster = await two_nodes(world)
    await cluster.join("b")
    await settle(600)
    assert cluster.nodes["b"].all_of(StartWorker) == []
    await cluster.join("a")
    started = [await cluster.nodes[name].hears(StartWorker) for name in ("a", "b")]
    assert started == [
        StartWorker(worker=worker, device="cpu", num_threads=8) for worker in (A0, B1)
    ]


# --- coming up


@on_virtual_time
async def test_stages_are_assigned_when_all_workers_are_up_and_linked_in_order(
    world: World,
) -> None:
    cluster = await two_nodes(world)
    await cluster.join("a")
    await cluster.join("b")
    first = await cluster.start(A0)
    await settle()
    assert first.all_of(AssignStage) == []
    second = await cluster.start(B1)
    one, two = await first.hears(AssignStage), await second.hears(AssignStage)
    assert [(one.start, one.end), (two.start, two.end)] == [(0, 2), (2, 4)]
    assert one.successor == second.ref
    assert two.successor == pipeline_ref(cluster.nodes["a"].ref, "0", 1)
    opening = await cluster.nodes["a"].hears(OpenPipeline)
    assert [stage.ref for stage in opening.stages] == [first.ref, second.ref]
    assert {one.epoch, two.epoch, opening.epoch} == {1}
    assert cluster.nodes["b"].all_of(OpenPipeline) == []


def told(plan: PlanChanged) -> tuple[tuple[str, ...], list[str], list[tuple[str, int]]]:
    pipelines = plan.pipelines
    stages = [(stage.state, stage.weight_bytes) for p in pipelines for stage in p.stages]
    return plan.missing, [p.state for p in pipelines], stages


@on_virtual_time
async def test_the_status_is_right_in_each_phase(world: World) -> None:
    cluster = await two_nodes(world)
    await cluster.join("a")
    await cluster.join("b")
    await settle()
    waits = "waiting for stage {} on node {} to start"
    assert told(cluster.status) == ((waits.format(0, "a"), waits.format(1, "b")), [], [])
    await cluster.start(B1)
    await settle()
    assert told(cluster.status) == ((waits.format(0, "a"),), [], [])
    cluster.nodes["a"].postponed[OpenPipeline] = []
    await cluster.start(A0)
    await settle()
    loading = [("loading", 0)] * 2
    assert told(cluster.status) == (("pipeline 0 is loading",), ["loading"], loading)
    assert cluster.status.pipelines[0].ref is None


@on_virtual_time
async def test_a_ready_service_misses_nothing_and_names_its_parts(world: World) -> None:
    cluster = await two_nodes(world)
    plan = await cluster.serve("a", "b")
    assert told(plan) == ((), ["ready"], [("ready", 2 * MB)] * 2)
    assert plan.pipelines[0].ref == cluster.homes["0"].ref
    places = [(s.node, s.worker, s.start, s.end) for s in plan.pipelines[0].stages]
    assert places == [("a", A0, 0, 2), ("b", B1, 2, 4)]


# --- failing to come up


@on_virtual_time
async def test_a_stage_that_cannot_load_ends_the_launch_with_its_reason(world: World) -> None:
    cluster = await two_nodes(world)
    await cluster.join("a")
    await cluster.join("b")
    await cluster.start(A0)
    second = await cluster.start(B1)
    second.answers[AssignStage] = stage_failed
    plan = await cluster.learns(lambda plan: plan.failure)
    assert plan.failure == "stage 1 on node b could not start: no such folder"
    assert cluster.nodes["a"].all_of(OpenPipeline) == []


@on_virtual_time
async def test_the_longest_reason_there_may_be_still_reaches_the_launcher(world: World) -> None:
    cluster = await cluster_of(world, num_stages=1)
    await cluster.join("a")
    worker = await cluster.start(A0)
    worker.answers[AssignStage] = lambda wanted: stage_failed(wanted, "x" * 8192)
    plan = await cluster.learns(lambda plan: plan.failure)
    assert str(plan.failure).startswith("stage 0 on node a could not start: xxx")


@on_virtual_time
async def test_a_worker_that_ends_before_it_served_ends_the_launch(world: World) -> None:
    cluster = await two_nodes(world)
    await cluster.join("a")
    await cluster.join("b")
    cluster.end(B1, "exit status 1; its last line: no such device")
    plan = await cluster.learns(lambda plan: plan.failure)
    assert plan.failure == (
        "stage 1 on node b could not start: exit status 1; its last line: no such device"
    )
    await settle()
    assert len(cluster.nodes["b"].all_of(StartWorker)) == 1


@on_virtual_time
async def test_the_first_failure_is_the_one_that_is_told(world: World) -> None:
    cluster = await two_nodes(world)
    await cluster.join("a")
    await cluster.join("b")
    cluster.end(A0, "first")
    cluster.end(B1, "second")
    await settle()
    assert cluster.status.failure == "stage 0 on node a could not start: first"


@on_virtual_time
async def test_a_place_that_no_node_has_ends_the_launch(world: World) -> None:
    wish = StageWish(node="a", device="cuda:7")
    cluster = await cluster_of(world, pipelines=((wish,),), wait_nodes=("a",))
    await cluster.join("a")
    plan = await cluster.learns(lambda plan: plan.failure)
    assert plan.failure == "node a has no device 'cuda:7'; it has: cpu"
    assert cluster.nodes["a"].all_of(StartWorker) == []


@on_virtual_time
async def test_a_model_that_does_not_fit_ends_the_launch_before_anything_loads(
    world: World,
) -> None:
    cluster = await cluster_of(world, num_stages=1)
    await cluster.join("a")
    worker = await cluster.start(A0, memory_bytes=MB)
    plan = await cluster.learns(lambda plan: plan.failure)
    assert "GB" in str(plan.failure)
    assert (plan.pipelines, worker.all_of(AssignStage)) == ((), [])


@on_virtual_time
async def test_a_node_that_joins_after_the_failure_starts_nothing(world: World) -> None:
    cluster = await cluster_of(world, num_stages=1)
    await cluster.join("a")
    cluster.end(A0)
    await cluster.learns(lambda plan: plan.failure)
    assert isinstance(await cluster.join("b"), Welcome)
    await settle()
    assert cluster.nodes["b"].all_of(StartWorker) == []


# --- news


def loaded(stage: int, done: int, epoch: int = 1, pipeline: str = "0") -> LoadProgress:
    return LoadProgress(
        epoch=epoch, pipeline=pipeline, stage=stage, num_bytes=done, total_bytes=100
    )


@on_virtual_time
async def test_progress_is_summed_over_the_stages_of_this_epoch(world: World) -> None:
    cluster = await two_nodes(world)
    await cluster.serve("a", "b")
    worker = cluster.workers[A0]
    for progress in (
        loaded(0, 10),
        loaded(0, 99, epoch=0),
        loaded(0, 99, pipeline="unknown"),
        loaded(1, 100),
        loaded(0, 30),
    ):
        worker.tell(cluster.coordinator, progress)
    await settle()
    told = [(p.num_bytes, p.total_bytes) for p in cluster.launcher.all_of(Progress)]
    assert told == [(10, 100), (110, 200), (130, 200)]


@on_virtual_time
async def test_what_joined_nodes_write_reaches_the_launcher(world: World) -> None:
    cluster = await two_nodes(world)
    await cluster.join("a")
    line = LogLine(source=A0, line="loading")
    cluster.nodes["a"].tell(cluster.coordinator, line)
    assert await cluster.launcher.hears(LogLine) == line


@on_virtual_time
async def test_a_router_hears_the_present_plan_at_once_and_every_change(world: World) -> None:
    cluster = await two_nodes(world)
    router = await world.play("router")
    router.tell(cluster.coordinator, RegisterRouter(ref=router.ref))
    assert (await router.hears(PlanChanged)).missing == ("waiting for node a", "waiting for node b")
    await cluster.serve("a", "b")
    await router.learns(PlanChanged, lambda plan: not plan.missing)
    assert router.all_of(PlanChanged)[-1] == cluster.status


@on_virtual_time
async def test_a_listener_that_is_gone_is_told_nothing(world: World) -> None:
    cluster = await two_nodes(world)
    router = await world.play("router")
    router.tell(cluster.coordinator, RegisterRouter(ref=router.ref))
    await router.hears(PlanChanged)
    world.lose("router")
    world.lose("launcher")
    await settle()
    door = world.network.endpoints["coordinator"]
    gone = ("router", "launcher")
    num_sent = sum(peer.name in gone for peer, _, _ in door.sent)
    await cluster.join("a")
    await settle()
    assert sum(peer.name in gone for peer, _, _ in door.sent) == num_sent


@on_virtual_time
async def test_workers_and_messages_it_does_not_know_change_nothing(world: World) -> None:
    cluster = await two_nodes(world)
    await cluster.serve("a", "b")
    before = cluster.launcher.all_of(PlanChanged)
    node = cluster.nodes["a"]
    node.tell(cluster.coordinator, WorkerDown(worker="a/stage-9.9", pid=1, reason="?"))
    node.tell(cluster.coordinator, Cancel(request="r"))
    await cluster.start("a/stage-9.9")
    cluster.lose_pipeline("unknown", 1)
    await settle()
    assert set(map(str, cluster.launcher.all_of(PlanChanged)[len(before) :])) <= {str(before[-1])}
