"""A node's process: its actor, and the stage workers that die with it."""

import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from actors.child_process import ChildProcess
from actors.kernel.errors import ActorError
from actors.kernel.ref import Ref
from actors.kernel.system import ActorSystem
from actors.messages import (
    Disturbances,
    DisturbLinks,
    DrainNode,
    GetDisturbances,
    JoinNode,
    PlanReport,
    ProcessUp,
    StartWorker,
)
from actors.node import NodeActor, NodeRefused, StartsWorker
from runtime import fault_actor
from runtime.child import CONNECT_TIMEOUT_S, REFUSED, kept_attention, run_child
from runtime.devices import list_devices, num_cores
from runtime.notice import parse_source, wait_notice
from runtime.settings import NodeSettings, WorkerSettings, to_plain
from runtime.version import package_version
from transport.endpoint import Lane
from transport.errors import TransportError

_log = logging.getLogger(__name__)

NAME = "node"
GRACE_S = 2.0
FAULTS_TIMEOUT_S = 2.0


async def start(settings: NodeSettings, system: ActorSystem, ending: AsyncExitStack) -> None:
    """Join the cluster with this machine's devices and tell the launcher."""
    await system.connect(settings.coordinator.address, timeout_s=CONNECT_TIMEOUT_S)
    self_ref = system.local_ref(NAME)
    join = JoinNode(
        node=settings.node,
        ref=self_ref,
        devices=await list_devices(),
        num_cores=num_cores(),
        version=package_version(),
        pid=os.getpid(),
    )
    actor = NodeActor(
        join,
        settings.coordinator.whichever(),
        _worker_starter(settings, self_ref, system),
        forwards_logs=settings.forward_logs,
        on_leave=_end_in_order,
        notice=_notice(settings.notice),
        attention=kept_attention(ending),
    )
    ref = system.spawn(actor, name=NAME)
    up = ProcessUp(role=settings.name, ref=ref, pid=os.getpid())
    system.tell(settings.parent, up, lane=Lane.CONTROL)


def _end_in_order() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _worker_starter(settings: NodeSettings, node: Ref, system: ActorSystem) -> StartsWorker:
    async def start_worker(wanted: StartWorker, on_line: Callable[[str], None]) -> ChildProcess:
        def show(line: str) -> None:
            sys.stdout.write(f"{wanted.worker} | {line}\n")
            on_line(line)

        worker = WorkerSettings(
            name=wanted.worker,
            host=settings.host,
            token=settings.token,
            model_hash=settings.model_hash,
            parent=node,
            worker=wanted.worker,
            device=wanted.device,
            num_threads=wanted.num_threads,
            store=settings.store,
            landing=settings.landing,
            emulated_speed=settings.emulated_speed,
            faults=None if settings.faults is None else await present_faults(system),
        )
        return await ChildProcess.start(
            "runtime.process",
            "worker",
            to_plain(worker),
            on_line=show,
            environment=_thread_environment(wanted.num_threads),
        )

    return start_worker


async def present_faults(system: ActorSystem) -> tuple[DisturbLinks, ...]:
    """What disturbs a node's links disturbs those of whatever begins on it meanwhile."""
    try:
        present = await system.ask(
            system.local_ref(fault_actor.NAME), GetDisturbances(), timeout_s=FAULTS_TIMEOUT_S
        )
    except (ActorError, TransportError) as error:
        _log.warning("present faults are not known error=%s", error)
        return ()
    return present.links if isinstance(present, Disturbances) else ()


def _thread_environment(num_threads: int) -> dict[str, str]:
    """Read by the tensor libraries when they load: threads that wait must not spin."""
    return {"OMP_NUM_THREADS": str(num_threads), "OMP_WAIT_POLICY": "PASSIVE"}


def _notice(text: str) -> Callable[[], Awaitable[float]] | None:
    if not text:
        return None
    source = parse_source(text)
    return lambda: wait_notice(source)


async def leave(settings: NodeSettings, system: ActorSystem) -> bool:
    """Have others take over what runs here; whether they did."""
    order = DrainNode(node=settings.node, deadline_s=settings.drain_s)
    coordinator = settings.coordinator.whichever()
    try:
        answer = await system.ask(coordinator, order, timeout_s=settings.drain_s + GRACE_S)
    except (ActorError, TransportError) as error:
        _log.warning("nobody takes over node=%s reason=%s", settings.node, error)
        return False
    if isinstance(answer, PlanReport) and not answer.is_done:
        _log.warning("not taken over node=%s reason=%s", settings.node, answer.reason)
    return isinstance(answer, PlanReport) and answer.is_done


def main() -> None:
    """Live as a node's process; one that is not wanted says so by its exit status as well."""
    try:
        run_child(NodeSettings, start, leave)
    except ActorError as error:
        if not isinstance(error.__cause__, NodeRefused):
            raise
        sys.stderr.write(f"error: {error.__cause__}\n")
        sys.exit(REFUSED)
