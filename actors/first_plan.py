"""The first plan of a service: a worker for each stage, and layers by what all of them measured.

It is made once; whatever happens to it later is for `mender`, and what would be better for
`replanning`.
"""

from actors.cluster import Cluster
from actors.cluster_state import PipelineRecord
from actors.cluster_status import missing_parts
from actors.placement import plan_pipelines, wanted_workers
from scheduling.errors import SchedulingError


def make_plan(cluster: Cluster) -> None:
    """Take the next step to a first plan; nothing, where there is a plan.

    A plan that cannot be made is the service's failure.
    """
    if cluster.pipelines:
        return
    members = cluster.members
    try:
        if not members.slots:
            _start_workers(cluster)
        elif len(members.workers) == len(members.slots):
            slots = tuple(members.slots.values())
            for plan in plan_pipelines(cluster.settings, slots, members.workers):
                cluster.pipelines[plan.id] = PipelineRecord(plan=plan, wanted=plan)
        else:
            _start_again(cluster)
    except SchedulingError as error:
        cluster.fail(str(error))


def _start_workers(cluster: Cluster) -> None:
    """All nodes must be here: who is placed on which depends on all of them."""
    if not missing_parts(cluster.settings, cluster.members, ()):
        for slot in wanted_workers(cluster.settings, cluster.members.nodes):
            cluster.start_worker(slot)


def _start_again(cluster: Cluster) -> None:
    """Who keeps its place keeps its layers: a worker that ended is started where it was."""
    for name in cluster.members.slots:
        if cluster.members.may_start(name):
            cluster.start_worker(cluster.members.slots[name])
