"""A simulated stage worker: what a node holds instead of a child process."""

import asyncio
import random
from dataclasses import dataclass

from actors.kernel.ref import Ref
from actors.messages import StartWorker
from runtime.simulation.device import DeviceFacts, EmulatedDevice
from runtime.simulation.processes import KILLED, Process, start_stage, worker_up
from transport.memory_endpoint import MemoryNetwork


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlace:
    """Where a worker lives: its node, the wire, and what its device can do."""

    node: Ref
    network: MemoryNetwork
    rng: random.Random
    start_s: float
    facts: DeviceFacts


class SimulatedWorker:
    """A worker process from its start to its end; every life listens at an address of its own."""

    def __init__(self, wanted: StartWorker, pid: int, place: WorkerPlace) -> None:
        self.name, self.pid = wanted.worker, pid
        self.device = EmulatedDevice(place.facts)
        self.process = Process(f"{wanted.worker}.{pid}", place.network, place.rng)
        self._wanted, self._place = wanted, place
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def live(self) -> None:
        """Start, measure the device, serve until it is stopped or dies."""
        place, wanted = self._place, self._wanted
        await asyncio.sleep(place.start_s)
        if not self.is_alive:
            return
        found = place.facts.group.measured(place.facts.rates, place.facts.shape)
        ended = await self.process.live(
            lambda: start_stage(
                self.process.system,
                place.node,
                lambda ref: worker_up(ref, self.name, self.pid, wanted.device, found),
                self.device,
            )
        )
        self._end(ended)

    @property
    def is_alive(self) -> bool:
        """Whether it has neither ended nor been killed."""
        return not self._ended.done()

    async def wait(self) -> str:
        """Wait for its end and say how it ended."""
        return await self._ended

    async def stop(self, grace_s: float) -> None:
        """Ask it to end, and end it by force after `grace_s`."""
        self.process.stop()
        try:
            async with asyncio.timeout(grace_s):
                await asyncio.shield(self._ended)
        except TimeoutError:
            self.die()

    def die(self, reason: str = KILLED) -> None:
        """End it without a word to anybody."""
        self._end(reason)
        self.process.kill()

    def _end(self, reason: str) -> None:
        self.device.turn_off()
        if not self._ended.done():
            self._ended.set_result(reason)
