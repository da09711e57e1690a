"""Where every process listens, by the names that an operator knows it by. Pure."""

from collections.abc import Iterable, Iterator

from actors.cluster import Cluster
from actors.kernel.ref import Ref
from actors.messages import ProcessAddress, Processes


def process_addresses(cluster: Cluster, coordinator: Ref, routers: Iterable[Ref]) -> Processes:
    """Every process but the launchers, which carry nothing.

    A stage is `stage:PIPELINE/N`, and `stage:N` as well where there is one pipeline.
    """
    gateways = (
        ProcessAddress(names=("gateway", f"gateway:gateway-{n}"), address=router.address)
        for n, router in enumerate(routers)
    )
    return Processes(
        processes=(
            ProcessAddress(names=("coordinator",), address=coordinator.address),
            *gateways,
            *_nodes(cluster),
            *_workers(cluster),
        )
    )


def _nodes(cluster: Cluster) -> Iterator[ProcessAddress]:
    """A pipeline's actor lives in its head node's process."""
    for name, node in cluster.members.nodes.items():
        homes = (p for p, r in cluster.pipelines.items() if r.home_node == name)
        names = (f"node:{name}", *(f"pipeline:{pipeline}" for pipeline in homes))
        yield ProcessAddress(names=names, address=node.ref.address)


def _workers(cluster: Cluster) -> Iterator[ProcessAddress]:
    stages = _stage_names(cluster)
    for name, worker in cluster.members.workers.items():
        node = cluster.members.slots[name].node
        names = (f"node:{node}", *stages.get(name, ()))
        yield ProcessAddress(names=names, address=worker.ref.address)


def _stage_names(cluster: Cluster) -> dict[str, tuple[str, ...]]:
    """The names of each stage, by its worker."""
    is_one = len(cluster.pipelines) == 1
    return {
        stage.worker: (f"stage:{pipeline}/{n}", *((f"stage:{n}",) if is_one else ()))
        for pipeline, record in cluster.pipelines.items()
        for n, stage in enumerate(record.plan.stages)
    }
