"""What a coordinator does about losses: once each, at the next epoch, and not without end."""

import asyncio

import pytest

from actors.coordinator import LOST_GRACE_S, MAX_RESTARTS, RESTART_PERIOD_S
from actors.messages import (
    AssignStage,
    OpenPipeline,
    PlanChanged,
    StageFailed,
    StartWorker,
    StopWorker,
)
from actors.placement import StageWish
from tests.support.actor_worlds import (
    Cluster,
    World,
    cluster_of,
    on_virtual_time,
    opened,
    settle,
    stage_failed,
    stage_ready,
)

A0, A1 = "a/stage-0.0", "a/stage-0.1"
B1 = "b/stage-0.1"
OTHER = "b/stage-1.0"


async def one_node(world: World, num_stages: int = 2) -> Cluster:
    cluster = await cluster_of(world, num_stages=num_stages)
    await cluster.serve("a")
    return cluster


async def two_nodes(world: World) -> Cluster:
    cluster = await cluster_of(world, wait_nodes=("a", "b"), num_stages=2)
    await cluster.serve("a", "b")
    return cluster


async def two_pipelines(world: World) -> Cluster:
    wishes = ((StageWish(node="a"),), (StageWish(node="b"),))
    cluster = await cluster_of(world, pipelines=wishes, num_nodes=2)
    await cluster.serve("a", "b")
    return cluster


def starts(cluster: Cluster, node: str) -> list[str]:
    return [start.worker for start in cluster.nodes[node].all_of(StartWorker)]


# --- workers


@on_virtual_time
async def test_a_lost_worker_is_replaced_at_the_next_epoch_and_the_other_keeps_its_layers(
    world: World,
) -> None:
    cluster = await one_node(world)
    kept = cluster.workers[A0]
    cluster.end(A1, "killed by signal 9")
    plan = await cluster.learns(lambda plan: plan.missing)
    assert plan.missing == ("waiting for stage 1 on node a to start",)
    assert (plan.pipelines[0].state, plan.pipelines[0].ref) == ("lost", None)
    assert [stage.pid for stage in plan.pipelines[0].stages][1] == 0
    await cluster.obey()
    plan = await cluster.ready(epoch=2)
    before, after = kept.all_of(AssignStage)
    assert (after.epoch, after.start, after.end) == (2, before.start, before.end)
    assert after.successor == cluster.workers[A1].ref != before.successor
    assert plan.pipelines[0].ref != before.observer


@on_virtual_time
async def test_a_worker_lost_while_it_loads_again_is_replaced_again(world: World) -> None:
    cluster = await one_node(world)
    cluster.end(A1)
    await settle()
    cluster.workers[A0].postponed[AssignStage] = []
    await cluster.obey()
    await cluster.workers[A1].hears(AssignStage)
    cluster.end(A1)
    await settle()
    del cluster.workers[A0].postponed[AssignStage]
    await cluster.obey()
    await cluster.ready(epoch=3)
    assert cluster.status.failure is None


@on_virtual_time
async def test_a_pipeline_that_opens_after_its_stage_was_lost_is_not_ready(world: World) -> None:
    cluster = await one_node(world)
    node = cluster.nodes["a"]
    postponed = node.postponed[OpenPipeline] = []
    cluster.end(A0)
    await settle()
    await cluster.obey()
    opening = await node.hears(OpenPipeline, 2)
    cluster.end(A0)
    await settle()
    postponed[0].reply(opened(node, opening))
    await settle()
    assert cluster.status.pipelines[0].state == "lost"
    del node.postponed[OpenPipeline]
    await cluster.obey()
    await cluster.ready(epoch=3)


@on_virtual_time
async def test_a_worker_lost_in_the_moment_the_last_one_comes_up_is_only_lost(
    world: World,
) -> None:
    cluster = await two_nodes(world)
    cluster.end(A0)
    cluster.end(B1)
    await settle()
    await cluster.start(A0)
    await cluster.start(B1)
    cluster.end(A0)
    await settle()
    assert (cluster.status.failure, cluster.status.pipelines[0].state) == (None, "lost")
    await cluster.start(A0)
    await cluster.ready(epoch=3)


@on_virtual_time
async def test_after_so_many_restarts_in_a_minute_it_gives_up_with_the_reason(
    world: World,
) -> None:
    cluster = await one_node(world)
    for epoch in range(2, MAX_RESTARTS + 2):
        cluster.end(A0)
        await settle()
        await cluster.obey()
        await cluster.ready(epoch)
    assert cluster.status.failure is None
    cluster.end(A0, "exit status 1")
    plan = await cluster.learns(lambda plan: plan.failure)
    assert plan.failure == (
        "stage 0 on node a ended: exit status 1; 5 restarts in 60 s did not help"
    )
    assert plan.pipelines[0].state == "lost"
    assert starts(cluster, "a").count(A0) == 1 + MAX_RESTARTS


@on_virtual_time
async def test_losses_that_are_far_apart_never_use_up_the_restarts(world: World) -> None:
    cluster = await one_node(world)
    for epoch in range(2, 3 * MAX_RESTARTS):
        await asyncio.sleep(RESTART_PERIOD_S / MAX_RESTARTS)
        cluster.end(A0)
        await settle()
        await cluster.obey()
        await cluster.ready(epoch)
    assert cluster.status.failure is None


@on_virtual_time
async def test_a_worker_that_falls_silent_is_ended_and_replaced(world: World) -> None:
    cluster = await one_node(world)
    cluster.silence(A1)
    assert await cluster.nodes["a"].hears(StopWorker) == StopWorker(worker=A1)
    await cluster.obey()
    await settle()
    await cluster.obey()
    await cluster.ready(epoch=2)
    assert len(cluster.nodes["a"].all_of(StopWorker)) == 1


@on_virtual_time
async def test_a_stage_that_is_refused_on_its_return_ends_the_service(world: World) -> None:
    cluster = await one_node(world)
    cluster.workers[A0].answers[AssignStage] = stage_failed
    cluster.end(A1)
    await settle()
    await cluster.obey()
    plan = await cluster.learns(lambda plan: plan.failure)
    assert plan.failure == "stage 0 on node a could not start: no such folder"


# --- nodes


@on_virtual_time
async def test_a_lost_node_is_missed_and_only_its_workers_start_again(world: World) -> None:
    cluster = await two_nodes(world)
    cluster.lose_node("b")
    plan = await cluster.learns(lambda plan: plan.missing)
    assert plan.missing == ("waiting for node b",)
    assert (plan.nodes, plan.pipelines[0].state) == (("a",), "lost")
    await cluster.join("b")
    await settle()
    await cluster.obey()
    await cluster.ready(epoch=2)
    assert (starts(cluster, "a"), starts(cluster, "b")) == ([A0], [B1])


@on_virtual_time
async def test_a_node_lost_in_the_moment_its_worker_comes_up_is_only_lost(world: World) -> None:
    cluster = await two_nodes(world)
    cluster.end(B1)
    await settle()
    await cluster.start(B1)
    cluster.lose_node("a")
    await settle()
    assert cluster.status.missing == ("waiting for node a",)
    await cluster.join("a")
    await settle()
    await cluster.obey()
    await cluster.learns(lambda plan: not plan.missing)


@on_virtual_time
async def test_the_head_node_lost_while_the_pipeline_opens_is_waited_for(world: World) -> None:
    cluster = await two_nodes(world)
    cluster.nodes["a"].postponed[OpenPipeline] = []
    cluster.end(B1)
    await settle()
    await cluster.obey()
    await cluster.nodes["a"].hears(OpenPipeline, 2)
    cluster.lose_node("a")
    await settle()
    assert cluster.status.missing == ("waiting for node a",)
    await cluster.join("a")
    await settle()
    await cluster.obey()
    await cluster.ready(epoch=3)


@on_virtual_time
async def test_a_spare_node_does_not_hide_that_one_with_stages_is_gone(world: World) -> None:
    cluster = await cluster_of(world, num_nodes=2, num_stages=2)
    await cluster.serve("a", "b")
    await cluster.join("spare")
    cluster.lose_node("b")
    await settle()
    assert cluster.status.missing == ("waiting for node b",)
    await cluster.join("another spare")
    await settle()
    assert cluster.status.missing == ("waiting for node b",)
    await cluster.join("b")
    await settle()
    await cluster.obey()
    await cluster.ready(epoch=2)


# --- pipelines


@on_virtual_time
async def test_a_loss_that_an_old_epoch_tells_of_is_ignored(world: World) -> None:
    cluster = await one_node(world)
    cluster.end(A0)
    await settle()
    await cluster.obey()
    await cluster.ready(epoch=2)
    cluster.lose_pipeline("0", epoch=1)
    await settle(10 * LOST_GRACE_S)
    assert cluster.status.pipelines[0].state == "ready"


@on_virtual_time
async def test_one_lost_pipeline_leaves_the_other_as_it_is(world: World) -> None:
    cluster = await two_pipelines(world)
    cluster.end("a/stage-0.0")
    await settle()
    assert [p.state for p in cluster.status.pipelines] == ["lost", "ready"]
    await cluster.obey()
    plan = await cluster.ready(epoch=2)
    assert [p.epoch for p in plan.pipelines] == [2, 1]
    assert len(cluster.workers[OTHER].all_of(AssignStage)) == 1


@on_virtual_time
async def test_a_pipeline_comes_back_though_another_ones_node_does_not(world: World) -> None:
    cluster = await two_pipelines(world)
    cluster.lose_node("b")
    await settle()
    cluster.end(A0)
    await settle()
    await cluster.obey()
    plan = await cluster.learns(lambda plan: plan.pipelines[0].state == "ready")
    assert [(p.state, p.epoch) for p in plan.pipelines] == [("ready", 2), ("lost", 1)]
    assert plan.missing == ("waiting for node b",)


@on_virtual_time
async def test_a_pipeline_lost_while_all_its_workers_are_here_gets_new_ones(world: World) -> None:
    cluster = await one_node(world)
    before = dict(cluster.workers)
    cluster.lose_pipeline("0", epoch=1)
    cluster.lose_pipeline("0", epoch=1)
    plan = await cluster.learns(lambda plan: plan.missing)
    assert plan.missing == ("pipeline 0 is lost",)
    await cluster.nodes["a"].hears(StopWorker, 2)
    await cluster.obey()
    await settle()
    await cluster.obey()
    await cluster.ready(epoch=2)
    assert all(cluster.workers[name] is not played for name, played in before.items())


@on_virtual_time
async def test_a_pipeline_that_is_stuck_again_and_again_is_given_up_with_the_reason(
    world: World,
) -> None:
    """However many workers it has, each time counts once."""
    cluster = await one_node(world, num_stages=4)
    for epoch in range(1, MAX_RESTARTS + 1):
        cluster.lose_pipeline("0", epoch)
        await cluster.nodes["a"].hears(StopWorker, 4 * epoch)
        await cluster.obey()
        await settle()
        await cluster.obey()
        await cluster.ready(epoch + 1)
    cluster.lose_pipeline("0", MAX_RESTARTS + 1)
    plan = await cluster.learns(lambda plan: plan.failure)
    assert plan.failure == (
        "pipeline 0 was lost: a step took longer than 5 s; 5 restarts in 60 s did not help"
    )


@on_virtual_time
async def test_a_worker_lost_with_its_pipeline_is_the_only_one_replaced(world: World) -> None:
    cluster = await one_node(world)
    cluster.lose_pipeline("0", epoch=1)
    cluster.silence(A1)
    await settle(10 * LOST_GRACE_S)
    assert cluster.nodes["a"].all_of(StopWorker) == [StopWorker(worker=A1)]


@on_virtual_time
async def test_a_stage_that_never_loads_ends_the_launch(world: World) -> None:
    cluster = await cluster_of(world, num_stages=2)
    await cluster.join("a")
    await cluster.start(A0)
    stuck = await cluster.start(A1)
    stuck.postponed[AssignStage] = []
    plan = await cluster.learns(lambda plan: plan.failure)
    reason = "pipeline 0 could not start: stage 1 on node a was lost while loading"
    assert str(plan.failure).startswith(reason)


@pytest.mark.parametrize("answer", [stage_ready, stage_failed])
@on_virtual_time
async def test_what_a_stage_of_an_old_epoch_answers_changes_nothing(
    world: World, answer: object
) -> None:
    cluster = await one_node(world)
    slow = cluster.workers[A0]
    postponed = slow.postponed[AssignStage] = []
    cluster.end(A1)
    await settle()
    await cluster.obey()
    old = await slow.hears(AssignStage, 2)
    cluster.end(A1)
    await settle()
    del slow.postponed[AssignStage]
    await cluster.obey()
    await cluster.ready(epoch=3)
    late = stage_ready(old) if answer is stage_ready else stage_failed(old)
    assert isinstance(late, StageFailed) == (answer is stage_failed)
    postponed[0].reply(late)
    await settle()
    assert (cluster.status.epoch, cluster.status.failure) == (3, None)
    assert cluster.launcher.all_of(PlanChanged)[-1].pipelines[0].state == "ready"
