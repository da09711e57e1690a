"""Starts the processes of a service, shows how it comes up, and stops them in order.

One launcher is one machine: with a `ServicePlan` it starts coordinator, gateway and (unless the
file names other nodes only) a node; with a `JoinPlan` just a node. It holds no part of the
service itself: it is the parent that all die with, that starts again what died alone, and the
console that all speak through.
"""

import asyncio
import signal
import tempfile
from pathlib import Path

from runtime.errors import LaunchFailed
from runtime.launch_join import run_join
from runtime.launch_plans import JoinPlan, ServicePlan
from runtime.launch_service import run_service
from runtime.process_parent import ProcessParent
from runtime.scratch import node_directories, owned_directory

STOP_ORDER = (
    ("gateway", 3.0, signal.SIGTERM),
    ("node", 4.5, signal.SIGINT),
    ("coordinator", 1.5, signal.SIGTERM),
)
"""A whole service has nobody to leave its work to, so its node is asked to end now."""
NODE_GRACE_S = 4.5


async def launch(plan: ServicePlan | JoinPlan) -> None:
    """Run until a signal.

    Raises:
        LaunchFailed: the service could not start, or a part of it ended for good.
    """
    with (
        owned_directory(Path(tempfile.gettempdir()), "launch") as scratch,
        node_directories() as directories,
    ):
        async with asyncio.TaskGroup() as tasks:
            parent = ProcessParent(tasks, is_service=isinstance(plan, ServicePlan))
            if isinstance(plan, ServicePlan):
                running = run_service(parent, plan, scratch, directories)
            else:
                running = run_join(parent, plan, directories)
            starting = tasks.create_task(parent.follow(running))
            failure = await parent.outcome
            parent.announcer.close()
            parent.say_stopping(failure)
            starting.cancel()
            for role, grace_s, number in _stop_order(plan):
                await parent.children.stop(role, grace_s, number)
    if failure is not None:
        raise LaunchFailed(failure)


def _stop_order(plan: ServicePlan | JoinPlan) -> tuple[tuple[str, float, int], ...]:
    if isinstance(plan, ServicePlan):
        return STOP_ORDER
    return (("node", plan.drain_s + NODE_GRACE_S, signal.SIGTERM),)
