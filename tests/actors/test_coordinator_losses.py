"""What a coordinator does about losses: once each, at the next epoch, and not without end."""

import asyncio
from typing import Any

import pytest

from actors.bring_up import ALIKE_S, LOAD_TIMEOUT_S
from actors.cluster import MAX_FAILURES
from actors.mender import SOON_S
from actors.messages import (
    AssignStage,
    ChangeAborted,
    ChangeStages,
    OpenPipeline,
    PlanChanged,
    StageFailed,
    StartWorker,
    StopWorker,
)
from actors.placement import StageWish
from tests.support.actor_worlds import (
    Cluster,
    Played,
    World,
    cluster_of,
    on_virtual_time,
    settle,
    stage_failed,
    stage_ready,
)

A0, A1 = "a/stage-0.0", "a/stage-0.1"
B1 = "b/stage-0.1"
OTHER = "b/stage-1.0"
NO_ROOM = 0.005
"""Of a worker's memory: two layers fit with their KV, and four do not."""


async def one_node(world: World, num_stages: int = 2, **changes: Any) -> Cluster:
    cluster = await cluster_of(world, num_stages=num_stages, **changes)
    await cluster.serve("a")
    return cluster


async def two_nodes(world: World, **changes: Any) -> Cluster:
    cluster = await cluster_of(world, wait_nodes=("a", "b"), num_stages=2, **changes)
    await cluster.serve("a", "b")
    return cluster


async def two_pipelines(world: World) -> Cluster:
    wishes = ((StageWish(node="a"),), (StageWish(node="b"),))
    cluster = await cluster_of(world, pipelines=wishes, num_nodes=2)
    await cluster.serve("a", "b")
    return cluster


async def load_for_ever(cluster: Cluster, worker: str) -> Played:
    """Lose a worker, and have its next life load its layers and never be done."""
    cluster.end(worker)
    await settle()
    await cluster.obey()
    loading = cluster.workers[worker]
    loading.postponed[AssignStage] = []
    await loading.hears(AssignStage)
    return loading


def starts(cluster: Cluster, node: str) -> list[str]:
    return [start.worker for start in cluster.nodes[node].all_of(StartWorker)]


# --- workers


@on_virtual_time
async def test_a_lost_worker_is_replaced_at_the_next_epoch_and_the_pipelines_actor_stays(
    world: World,
) -> None:
    cluster = await one_node(world)
    kept, lost = cluster.workers[A0], cluster.workers[A1]
    home = cluster.status.pipelines[0].ref
    cluster.end(A1, "killed by signal 9")
    plan = await cluster.learns(lambda plan: plan.missing)
    assert plan.missing == ("waiting for stage 1 on node a to start",)
    assert (plan.pipelines[0].state, plan.pipelines[0].ref) == ("recovering", home)
    assert [stage.pid for stage in plan.pipelines[0].stages][1] == 0
    await cluster.obey()
    plan = await cluster.ready(epoch=2)
    before, after = kept.all_of(AssignStage)
    assert (after.epoch, after.start, after.end) == (2, before.start, before.end)
    assert after.successor == cluster.workers[A1].ref != before.successor
    (change,) = cluster.homes["0"].all_of(ChangeStages)
    assert (change.epoch, change.lost) == (2, (lost.ref,))
    assert [stage.ref for stage in change.stages] == [kept.ref, cluster.workers[A1].ref]
    assert plan.pipelines[0].ref == home
    assert len(cluster.nodes["a"].all_of(OpenPipeline)) == 1


@on_virtual_time
async def test_a_warm_spare_takes_the_place_of_a_lost_worker_at_once(world: World) -> None:
    cluster = await one_node(world, num_spares=1)
    await settle()
    await cluster.obey()
    await settle()
    (spare,) = set(cluster.workers) - {A0, A1}
    cluster.end(A1)
    await cluster.learns(
        lambda plan: [stage.worker for stage in plan.pipelines[0].stages] == [A0, spare]
    )
    assert (cluster.status.epoch, cluster.status.missing) == (2, ())
    await settle()
    await cluster.obey()
    assert len(set(cluster.workers) - {A0, spare}) == 1  # and another is kept warm


@on_virtual_time
async def test_a_worker_lost_while_it_loads_again_is_replaced_again(world: World) -> None:
    cluster = await one_node(world)
    await load_for_ever(cluster, A1)
    cluster.end(A1)
    await settle(2 * ALIKE_S)
    await cluster.obey()
    await cluster.ready(epoch=3)
    assert cluster.status.failure is None


@on_virtual_time
async def test_a_pipeline_that_opens_after_its_stage_was_lost_is_not_ready(world: World) -> None:
    cluster = await one_node(world)
    node = cluster.nodes["a"]
    postponed = node.postponed[OpenPipeline] = []
    cluster.lose_pipeline("0", epoch=1, is_stuck=False)
    opening = await node.hears(OpenPipeline, 2)
    cluster.end(A0)
    await settle()
    postponed[0].reply(cluster.open_pipeline(node, opening))
    await settle()
    assert cluster.status.pipelines[0].state == "recovering"
    del node.postponed[OpenPipeline]
    await cluster.obey()
    plan = await cluster.ready(epoch=3)
    assert plan.pipelines[0].ref == cluster.homes["0"].ref


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
    assert (cluster.status.failure, cluster.status.pipelines[0].state) == (None, "recovering")
    await cluster.start(A0)
    await cluster.learns(lambda plan: not plan.missing)


@on_virtual_time
async def test_losses_that_follow_each_other_soon_are_counted_and_end_the_service(
    world: World,
) -> None:
    cluster = await one_node(world)
    for epoch in range(2, MAX_FAILURES + 1):
        cluster.end(A0)
        await settle()
        await cluster.obey()
        await cluster.ready(epoch)
    assert cluster.status.failure is None
    cluster.end(A0, "exit status 1")
    plan = await cluster.learns(lambda plan: plan.failure)
    assert plan.failure == (
        "pipeline 0 was lost: a worker is gone; 5 attempts in a row did not help"
    )
    num_started = starts(cluster, "a").count(A0)
    await settle(600)
    assert starts(cluster, "a").count(A0) == num_started


@on_virtual_time
async def test_losses_that_are_far_apart_never_end_the_service(world: World) -> None:
    cluster = await one_node(world)
    for epoch in range(2, 3 * MAX_FAILURES):
        await asyncio.sleep(SOON_S)
        cluster.end(A0)
        await settle()
        await cluster.obey()
        await cluster.ready(epoch)
    assert cluster.status.failure is None


@on_virtual_time
async def test_a_worker_that_never_comes_up_again_is_not_started_for_ever(world: World) -> None:
    """As one does whose device is broken: each of its lives ends before it says a word."""
    cluster = await one_node(world)
    cluster.end(A0)
    for _ in range(10 * MAX_FAILURES):
        await settle()
        if cluster.status.failure is not None:
            break
        cluster.end(A0, "exit status 1; its last line: no such device")
    assert "no such device" in str(cluster.status.failure)


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
async def test_a_worker_that_only_its_pipeline_cannot_reach_is_ended_and_replaced(
    world: World,
) -> None:
    cluster = await one_node(world)
    cluster.degrade_pipeline("0", 1, A1)
    assert await cluster.nodes["a"].hears(StopWorker) == StopWorker(worker=A1)
    assert cluster.status.pipelines[0].state == "recovering"
    await cluster.obey()
    await settle()
    await cluster.obey()
    await cluster.ready(epoch=2)
    assert cluster.nodes["a"].all_of(StopWorker) == [StopWorker(worker=A1)]


@on_virtual_time
async def test_a_change_that_a_stage_refuses_is_tried_again_and_given_up_at_last(
    world: World,
) -> None:
    cluster = await one_node(world)
    await settle(SOON_S)
    cluster.workers[A0].answers[AssignStage] = stage_failed
    cluster.end(A1)
    await settle()
    await cluster.obey()
    plan = await cluster.learns(lambda plan: plan.failure)
    assert plan.failure == (
        "pipeline 0 was lost: stage 0 on node a could not start: no such folder; "
        "5 attempts in a row did not help"
    )
    assert len(cluster.workers[A0].all_of(AssignStage)) == 1 + MAX_FAILURES


@on_virtual_time
async def test_a_change_that_its_pipeline_aborts_is_tried_again(world: World) -> None:
    cluster = await one_node(world)
    home = cluster.homes["0"]
    change = home.answers.pop(ChangeStages)
    home.answers[ChangeStages] = lambda wanted: ChangeAborted(
        epoch=wanted.epoch, phase="delta", reason="a stage was lost"
    )
    cluster.end(A1)
    await settle()
    await cluster.obey()
    await home.hears(ChangeStages, 2)
    home.answers[ChangeStages] = change
    plan = await cluster.learns(lambda plan: not plan.missing)
    assert plan.failure is None


# --- nodes


@on_virtual_time
async def test_a_lost_nodes_layers_go_to_those_that_are_left(world: World) -> None:
    cluster = await two_nodes(world)
    home = cluster.status.pipelines[0].ref
    cluster.lose_node("b")
    plan = await cluster.ready(epoch=2)
    (stage,) = plan.pipelines[0].stages
    assert (stage.worker, stage.start, stage.end) == (A0, 0, 4)
    assert (plan.nodes, plan.pipelines[0].ref) == (("a",), home)
    await cluster.join("b")
    await settle()
    assert (starts(cluster, "a"), starts(cluster, "b")) == ([A0], [])
    assert cluster.status.epoch == 2


@on_virtual_time
async def test_a_lost_node_that_had_the_pipelines_actor_takes_it_along(world: World) -> None:
    cluster = await two_nodes(world)
    cluster.lose_node("a")
    plan = await cluster.ready(epoch=2)
    (stage,) = plan.pipelines[0].stages
    assert (stage.worker, stage.start, stage.end) == (B1, 0, 4)
    assert len(cluster.nodes["b"].all_of(OpenPipeline)) == 1
    assert cluster.homes["0"].all_of(ChangeStages) == []


@on_virtual_time
async def test_a_node_without_which_there_is_no_room_is_missed_until_it_is_back(
    world: World,
) -> None:
    cluster = await two_nodes(world, memory_fraction=NO_ROOM)
    cluster.lose_node("b")
    plan = await cluster.learns(lambda plan: plan.missing)
    assert plan.missing == ("waiting for node b",)
    assert (plan.nodes, plan.pipelines[0].state) == (("a",), "recovering")
    await cluster.join("b")
    await settle()
    await cluster.obey()
    await cluster.ready(epoch=2)
    assert (starts(cluster, "a"), starts(cluster, "b")) == ([A0], [B1])


@on_virtual_time
async def test_a_node_lost_in_the_moment_its_worker_comes_up_is_only_lost(world: World) -> None:
    cluster = await two_nodes(world, memory_fraction=NO_ROOM)
    cluster.end(B1)
    await settle()
    await cluster.start(B1)
    cluster.lose_node("a")
    await settle(2 * ALIKE_S)
    assert cluster.status.missing == ("waiting for node a",)
    await cluster.join("a")
    await settle()
    await cluster.obey()
    await cluster.learns(lambda plan: not plan.missing)


@on_virtual_time
async def test_the_head_node_lost_while_the_pipeline_opens_is_waited_for(world: World) -> None:
    cluster = await two_nodes(world, memory_fraction=NO_ROOM)
    cluster.nodes["a"].postponed[OpenPipeline] = []
    cluster.lose_pipeline("0", epoch=1, is_stuck=False)
    await cluster.nodes["a"].hears(OpenPipeline, 2)
    cluster.lose_node("a")
    await settle()
    assert cluster.status.missing == ("waiting for node a",)
    await cluster.join("a")
    await settle()
    await cluster.obey()
    await cluster.ready(epoch=3)


@on_virtual_time
async def test_a_node_without_workers_does_not_hide_that_one_with_stages_is_gone(
    world: World,
) -> None:
    cluster = await cluster_of(world, num_nodes=2, num_stages=2, memory_fraction=NO_ROOM)
    await cluster.serve("a", "b")
    await cluster.join("idle")
    cluster.lose_node("b")
    await settle()
    assert cluster.status.missing == ("waiting for node b",)
    await cluster.join("idle too")
    await settle()
    assert cluster.status.missing == ("waiting for node b",)
    await cluster.join("b")
    await settle()
    await cluster.obey()
    await cluster.ready(epoch=2)


# --- pipelines


@on_virtual_time
async def test_a_pipelines_actor_that_ends_is_opened_again_over_the_same_workers(
    world: World,
) -> None:
    cluster = await one_node(world)
    before = dict(cluster.workers)
    cluster.lose_pipeline("0", epoch=1, is_stuck=False)
    await settle()
    plan = await cluster.ready(epoch=2)
    assert plan.pipelines[0].ref == cluster.homes["0"].ref
    assert len(cluster.nodes["a"].all_of(OpenPipeline)) == 2
    assert (cluster.workers, cluster.nodes["a"].all_of(StopWorker)) == (before, [])


@on_virtual_time
async def test_a_loss_that_an_earlier_actor_tells_of_is_ignored(world: World) -> None:
    cluster = await one_node(world)
    for _ in range(2):
        cluster.lose_pipeline("0", epoch=1, is_stuck=False)
        await settle(SOON_S)
    assert (cluster.status.epoch, cluster.status.pipelines[0].state) == (2, "ready")


@on_virtual_time
async def test_one_lost_pipeline_leaves_the_other_as_it_is(world: World) -> None:
    cluster = await two_pipelines(world)
    epoch = cluster.status.epoch
    cluster.end(A0)
    await settle()
    assert [p.state for p in cluster.status.pipelines] == ["recovering", "ready"]
    await cluster.obey()
    plan = await cluster.ready(epoch + 1)
    assert [p.epoch for p in plan.pipelines] == [epoch + 1, 2]
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
    assert [p.state for p in plan.pipelines] == ["ready", "lost"]
    assert plan.missing == ("waiting for node b",)


@on_virtual_time
async def test_a_pipeline_that_is_stuck_gets_new_workers(world: World) -> None:
    cluster = await one_node(world)
    before = dict(cluster.workers)
    cluster.lose_pipeline("0", epoch=1)
    cluster.lose_pipeline("0", epoch=1)
    await cluster.nodes["a"].hears(StopWorker, 2)
    await settle()
    assert cluster.status.pipelines[0].state == "lost"
    await cluster.obey()
    await settle()
    await cluster.obey()
    await cluster.ready(epoch=2)
    assert all(cluster.workers[name] is not played for name, played in before.items())
    assert len(cluster.nodes["a"].all_of(StopWorker)) == 2


@on_virtual_time
async def test_a_pipeline_that_is_stuck_again_and_again_is_given_up_with_the_reason(
    world: World,
) -> None:
    """However many workers it has, each time counts once, though it is noticed late."""
    cluster = await one_node(world, num_stages=4, step_deadline_s=5.0)
    for epoch in range(1, MAX_FAILURES):
        await asyncio.sleep(5.0)
        cluster.lose_pipeline("0", epoch)
        await cluster.nodes["a"].hears(StopWorker, 4 * epoch)
        await cluster.obey()
        await settle()
        await cluster.obey()
        await cluster.ready(epoch + 1)
    await asyncio.sleep(5.0)
    cluster.lose_pipeline("0", MAX_FAILURES)
    plan = await cluster.learns(lambda plan: plan.failure)
    assert plan.failure == (
        "pipeline 0 was lost: a step took longer than 5 s; 5 attempts in a row did not help"
    )


@on_virtual_time
async def test_a_worker_lost_with_its_pipeline_is_the_only_one_replaced(world: World) -> None:
    cluster = await one_node(world)
    cluster.silence(A1)
    cluster.lose_pipeline("0", epoch=1, is_stuck=False)
    await settle(10 * SOON_S)
    assert cluster.nodes["a"].all_of(StopWorker) == [StopWorker(worker=A1)]


@on_virtual_time
async def test_a_stage_that_never_loads_ends_the_launch(world: World) -> None:
    cluster = await cluster_of(world, num_stages=2)
    await cluster.join("a")
    await cluster.start(A0)
    stuck = await cluster.start(A1)
    stuck.postponed[AssignStage] = []
    await settle((MAX_FAILURES + 1) * LOAD_TIMEOUT_S)
    reason = "pipeline 0 was lost: stage 1 on node a was lost while loading"
    assert str(cluster.status.failure).startswith(reason)


@pytest.mark.parametrize("answer", [stage_ready, stage_failed])
@on_virtual_time
async def test_what_a_stage_of_an_old_epoch_answers_changes_nothing(
    world: World, answer: object
) -> None:
    cluster = await one_node(world)
    slow = cluster.workers[A0]
    postponed = slow.postponed[AssignStage] = []
    await load_for_ever(cluster, A1)
    old = await slow.hears(AssignStage, 2)
    cluster.end(A1)
    await settle(2 * ALIKE_S)
    del slow.postponed[AssignStage]
    await cluster.obey()
    await cluster.ready(epoch=3)
    late = stage_ready(old) if answer is stage_ready else stage_failed(old)
    assert isinstance(late, StageFailed) == (answer is stage_failed)
    postponed[0].reply(late)
    await settle()
    assert (cluster.status.epoch, cluster.status.failure) == (3, None)
    assert cluster.launcher.all_of(PlanChanged)[-1].pipelines[0].state == "ready"
