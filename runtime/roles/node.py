"""A node's process: its actor, and the stage workers that die with it."""

import os
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack

from actors.child_process import ChildProcess
from actors.kernel.ref import Ref
from actors.kernel.system import ActorSystem
from actors.messages import JoinNode, ProcessUp, StartWorker
from actors.node import NodeActor, StartsWorker
from runtime.child import CONNECT_TIMEOUT_S, run_child
from runtime.devices import list_devices, num_cores
from runtime.settings import NodeSettings, WorkerSettings, to_plain
from runtime.version import package_version
from transport.endpoint import Lane

NAME = "node"


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
    )
    actor = NodeActor(
        join,
        settings.coordinator,
        _worker_starter(settings, self_ref),
        forwards_logs=settings.forward_logs,
    )
    ref = system.spawn(actor, name=NAME)
    up = ProcessUp(role=settings.name, ref=ref, pid=os.getpid())
    system.tell(settings.parent, up, lane=Lane.CONTROL)


def _worker_starter(settings: NodeSettings, node: Ref) -> StartsWorker:
    async def start_worker(wanted: StartWorker, on_line: Callable[[str], None]) -> ChildProcess:
        def show(line: str) -> None:
            sys.stdout.write(f"{wanted.worker} | {line}\n")
            on_line(line)

        worker = WorkerSettings(
            name=wanted.worker,
            host=settings.host,
            token=settings.token,
            parent=node,
            worker=wanted.worker,
            device=wanted.device,
            num_threads=wanted.num_threads,
        )
        return await ChildProcess.start(
            "runtime.process",
            "worker",
            to_plain(worker),
            on_line=show,
            environment=_thread_environment(wanted.num_threads),
        )

    return start_worker


def _thread_environment(num_threads: int) -> dict[str, str]:
    """Read by the tensor libraries when they load: threads that wait must not spin."""
    return {"OMP_NUM_THREADS": str(num_threads), "OMP_WAIT_POLICY": "PASSIVE"}


def main() -> None:
    """Live as a node's process."""
    run_child(NodeSettings, start)
