"""A stage worker's process: one device, one stage actor, one thread for the tensors."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar

from actors.kernel.ref import Ref
from actors.kernel.system import ActorSystem
from actors.messages import WorkerUp
from actors.stage import StageActor
from actors.weights import NAME, WeightsActor
from models.tensor_store import stored_bytes
from models.weight_places import WeightPlaces
from runtime.child import kept_attention, run_child
from runtime.loading_room import HOST
from runtime.profile import digest_cache, model_path
from runtime.scratch import free_space
from runtime.settings import WorkerSettings
from runtime.torch_device import TorchDevice
from transport.endpoint import Lane

_T = TypeVar("_T")
SWITCH_INTERVAL_S = 0.0005
"""The event loop must get the interpreter soon after the tensor thread lets go of it."""


async def start(settings: WorkerSettings, system: ActorSystem, ending: AsyncExitStack) -> None:
    """Measure the device, then offer it to the node as a stage."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    store = Path(settings.store) if settings.store else None
    device = TorchDevice(
        settings.device, settings.num_threads, store, speed=settings.emulated_speed
    )
    facts = await device.run(device.measure)
    weights = _weights(settings, system) if settings.landing else None
    ref = system.spawn(StageActor(device, weights, kept_attention(ending)), name="stage")
    kept_bytes = stored_bytes(store) if store is not None else 0
    up = WorkerUp(
        worker=settings.worker,
        ref=ref,
        pid=os.getpid(),
        device=settings.device,
        device_name=facts.name,
        memory_bytes=facts.memory_free_bytes + (kept_bytes if settings.device == HOST else 0),
        flops_per_s=facts.flops_per_s,
        bytes_per_s=facts.bytes_per_s,
        layer_overhead_s=facts.layer_overhead_s,
        shared_bytes=0 if store is None else free_space(store) + kept_bytes,
    )
    system.tell(settings.parent, up, lane=Lane.CONTROL)


def _weights(settings: WorkerSettings, system: ActorSystem) -> Ref:
    """Who reads and writes files for other nodes, in a thread of its own."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="weights")

    def run(function: Callable[[], _T]) -> Awaitable[_T]:
        return asyncio.get_running_loop().run_in_executor(thread, function)

    places = WeightPlaces(locate=model_path, landing=Path(settings.landing), cache=digest_cache())
    return system.spawn(WeightsActor(run, places), name=NAME)


def main() -> None:
    """Live as a stage worker's process."""
    run_child(WorkerSettings, start)
