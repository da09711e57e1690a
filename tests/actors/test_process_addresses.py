"""Where every process listens, as the coordinator tells it."""

from actors.messages import GetProcesses, Processes, RegisterRouter
from tests.support.actor_worlds import Cluster, World, cluster_of, on_virtual_time, settle


async def names_by_address(cluster: Cluster) -> dict[str, tuple[str, ...]]:
    context = cluster.launcher.context
    told = await context.ask(cluster.coordinator, GetProcesses(), timeout_s=5.0)
    assert isinstance(told, Processes)
    return {process.address: process.names for process in told.processes}


@on_virtual_time
async def test_every_process_is_told_by_all_names_that_an_operator_may_mean_it_by(
    world: World,
) -> None:
    cluster = await cluster_of(world, wait_nodes=("a", "b"), num_stages=2)
    router = await world.play("gateway")
    router.tell(cluster.coordinator, RegisterRouter(ref=router.ref, pid=3))
    await cluster.serve("a", "b")
    assert await names_by_address(cluster) == {
        cluster.coordinator.address: ("coordinator",),
        router.ref.address: ("gateway", "gateway:gateway-0"),
        cluster.nodes["a"].ref.address: ("node:a", "pipeline:0"),
        cluster.nodes["b"].ref.address: ("node:b",),
        cluster.workers["a/stage-0.0"].ref.address: ("node:a", "stage:0/0", "stage:0"),
        cluster.workers["b/stage-0.1"].ref.address: ("node:b", "stage:0/1", "stage:1"),
    }


@on_virtual_time
async def test_a_process_that_is_lost_is_told_no_more_and_before_a_plan_there_are_no_stages(
    world: World,
) -> None:
    cluster = await cluster_of(world, num_stages=1)
    assert set(await names_by_address(cluster)) == {cluster.coordinator.address}
    await cluster.serve("a")
    lost = cluster.nodes["a"].ref.address
    assert lost in await names_by_address(cluster)
    cluster.lose_node("a")
    await settle()
    assert set(await names_by_address(cluster)) == {cluster.coordinator.address}
