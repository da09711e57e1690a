"""A stage worker's process: one device, one stage actor, one thread for the tensors."""

import os
import sys
from contextlib import AsyncExitStack

from actors.kernel.system import ActorSystem
from actors.messages import WorkerUp
from actors.stage import StageActor
from runtime.child import kept_attention, run_child
from runtime.settings import WorkerSettings
from runtime.torch_device import TorchDevice
from transport.endpoint import Lane

SWITCH_INTERVAL_S = 0.0005
"""The event loop must get the interpreter soon after the tensor thread lets go of it."""


async def start(settings: WorkerSettings, system: ActorSystem, ending: AsyncExitStack) -> None:
    """Measure the device, then offer it to the node as a stage."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    device = TorchDevice(settings.device, settings.num_threads)
    facts = await device.run(device.measure)
    ref = system.spawn(StageActor(device, kept_attention(ending)), name="stage")
    up = WorkerUp(
        worker=settings.worker,
        ref=ref,
        pid=os.getpid(),
        device=settings.device,
        device_name=facts.name,
        memory_bytes=facts.memory_free_bytes,
        flops_per_s=facts.flops_per_s,
        bytes_per_s=facts.bytes_per_s,
        layer_overhead_s=facts.layer_overhead_s,
    )
    system.tell(settings.parent, up, lane=Lane.CONTROL)


def main() -> None:
    """Live as a stage worker's process."""
    run_child(WorkerSettings, start)
