"""Does to a simulated cluster what a file of faults says, each at its time.

What cannot be done, as to kill a stage that is dead already, is marked and passed over.
"""

import asyncio
from collections.abc import Sequence
from itertools import product

from runtime.simulation.faults import (
    Drain,
    Fault,
    Flip,
    Kill,
    Partition,
    Pause,
    Slow,
    Swap,
    Target,
    What,
)
from runtime.simulation.processes import COORDINATOR, ask_drain, ask_flip, ask_swap
from runtime.simulation.worker import SimulatedWorker
from runtime.simulation.world import World


async def befall(world: World, faults: Sequence[Fault], start_s: float) -> None:
    """Have every fault happen at its time after `start_s`, and be undone after its while."""
    async with asyncio.TaskGroup() as tasks:
        for fault in faults:
            await _sleep_until(start_s + fault.at_s)
            world.mark("fault", fault.text)
            tasks.create_task(_do(world, fault.what))


async def _do(world: World, what: What) -> None:
    match what:
        case Kill(target):
            _kill(world, target)
        case Partition(one, other, for_s):
            await _partition(world, world.names_at(one), world.names_at(other), for_s)
        case Slow(one, other, factor, for_s):
            world.topology.slow_down(one, other, factor)
            await asyncio.sleep(for_s)
            world.topology.slow_down(one, other, 1.0)
        case Pause(target, for_s):
            await _pause(world, target, for_s)
        case Swap(pipeline, layers):
            world.mark("change", await ask_swap(world.gateway, pipeline, layers))
        case Drain(node, within_s):
            world.mark("change", await ask_drain(world.gateway, node, within_s))
        case Flip(phases):
            world.mark("change", await ask_flip(world.gateway, phases))


def _kill(world: World, target: Target) -> None:
    if target.kind == "stage":
        if (worker := _worker(world, target)) is not None:
            worker.die()
    elif (process := _process(world, target)) is not None:
        world.kill(process)


async def _pause(world: World, target: Target, for_s: float) -> None:
    """Cut whatever stands still from all others; what a device does meanwhile, it does later."""
    if target.kind == "stage":
        worker = _worker(world, target)
        workers = [] if worker is None else [worker]
        names = [worker.process.name for worker in workers]
    else:
        names = [] if _process(world, target) is None else world.names_at(target.name)
        workers = [worker for worker in world.living() if worker.process.name in names]
    until_s = asyncio.get_running_loop().time() + for_s
    for worker in workers:
        worker.device.freeze(until_s)
    await _partition(world, names, world.names(), for_s)


async def _partition(
    world: World, ones: Sequence[str], others: Sequence[str], for_s: float
) -> None:
    pairs = sorted({(min(pair), max(pair)) for pair in product(ones, others)})
    pairs = [(one, other) for one, other in pairs if one != other]
    for one, other in pairs:
        world.network.partition(one, other)
    await asyncio.sleep(for_s)
    for one, other in pairs:
        world.network.heal(one, other)


def _worker(world: World, target: Target) -> SimulatedWorker | None:
    pipeline, _, stage = target.name.partition(".")
    worker = world.worker_of(pipeline, int(stage))
    if worker is None:
        world.mark("missed", f"stage {target.name} is not there")
    return worker


def _process(world: World, target: Target) -> str | None:
    """The process of a node, of the node where a pipeline's actor is, or of the coordinator."""
    node = target.name
    if target.kind == "pipeline":
        head = world.worker_of(target.name, 0)
        node = "" if head is None else world.topology.place(head.name)
    process = COORDINATOR if target.kind == "coordinator" else f"node-{node}"
    if process in world.processes:
        return process
    world.mark("missed", f"{target.kind} {target.name} is not there")
    return None


async def _sleep_until(at_s: float) -> None:
    await asyncio.sleep(max(0.0, at_s - asyncio.get_running_loop().time()))
