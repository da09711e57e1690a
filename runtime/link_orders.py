"""Has the processes of a service disturb the links between them, or none of them.

The coordinator tells where everybody listens; the orders go to each process itself, and when all
have taken theirs, all are told to begin, a moment later: a cut must not cut off its own order.
Where one process refuses, or is not reached, the others are told to leave it.
"""

import asyncio
import random
from collections.abc import Iterable

from actors.kernel.errors import ActorError, ActorStopped
from actors.kernel.ref import Ref
from actors.kernel.system import ActorSystem
from actors.messages import (
    BeginDisturbance,
    DisturbLinks,
    DisturbRefused,
    GetProcesses,
    MendLinks,
    ProcessAddress,
    Processes,
)
from runtime.coordinator_answers import ask_coordinator
from runtime.fault_actor import NAME
from runtime.gateway.errors import ApiError
from runtime.gateway.operator import LinkFault, Unavailable, Unsupported
from transport.codec import Message
from transport.endpoint import Lane
from transport.errors import TransportError

ASK_TIMEOUT_S = 5.0
BEGIN_AFTER_S = 0.2
"""From the word that all are ready to the disturbance: time enough for the word to get there."""
LATENCY_S = 0.1
BYTES_PER_S = 10e6
"""What a slow link is where nobody says how slow: ten megabytes a second, a tenth second away."""
HOW_TO_ALLOW = "launch it with --chaos (cluster.chaos = true), on every machine of the cluster"


class LinkOrders:
    """Orders disturbances, each of which has a name of its own."""

    def __init__(self, system: ActorSystem, coordinator: Ref, rng: random.Random) -> None:
        self._system = system
        self._coordinator = coordinator
        self._rng = rng

    async def targets(self) -> list[str]:
        """The names of everything whose links can be disturbed.

        Raises:
            Unavailable: the coordinator does not answer.
        """
        known = await self._processes()
        return sorted({name for process in known for name in process.names})

    async def disturb(self, fault: LinkFault) -> None:
        """Disturb the links between two sets of processes; returns when they are whole again.

        Raises:
            ApiError: a name stands for no process, or both stand for the same one.
            Unsupported: a process was not started with leave to do that.
            Unavailable: the coordinator or a process does not answer.
        """
        orders = self._orders(fault, await self._processes())
        async with asyncio.TaskGroup() as asking:
            asked = [
                asking.create_task(self._order(address, order)) for address, order in orders.items()
            ]
        failures = [failure for task in asked if (failure := task.result()) is not None]
        if failures:
            self._tell_all(orders, MendLinks)
            raise failures[0]
        self._tell_all(orders, BeginDisturbance)
        # All got the word within as much again, or it did not get there.
        await asyncio.sleep(2 * BEGIN_AFTER_S + fault.for_s)

    def _orders(
        self, fault: LinkFault, processes: tuple[ProcessAddress, ...]
    ) -> dict[str, DisturbLinks]:
        one, other = find(fault.a, "a", processes), find(fault.b, "b", processes)
        if one & other:
            raise ApiError(400, f"{fault.a} and {fault.b} share a process: no link is between them")
        name = f"{fault.kind}-{self._rng.getrandbits(64):016x}"
        return {
            address: _order(name, fault, peers)
            for addresses, peers in ((one, other), (other, one))
            for address in sorted(addresses)
        }

    async def _processes(self) -> tuple[ProcessAddress, ...]:
        answer = await ask_coordinator(
            self._system, self._coordinator, GetProcesses(), Processes, timeout_s=ASK_TIMEOUT_S
        )
        return answer.processes

    async def _order(self, address: str, order: Message) -> Exception | None:
        """Have one process take an order; why it did not."""
        ears = self._system.ref(address, NAME)
        try:
            answer = await self._system.ask(ears, order, timeout_s=ASK_TIMEOUT_S)
        except ActorStopped:
            return Unsupported(f"links of the process at {address} stay whole: {HOW_TO_ALLOW}")
        except (ActorError, TransportError) as error:
            return Unavailable(f"the process at {address} does not answer: {error}")
        if isinstance(answer, DisturbRefused):
            return Unavailable(f"the process at {address} refused: {answer.reason}")
        return None

    def _tell_all(
        self,
        orders: dict[str, DisturbLinks],
        kind: type[MendLinks] | type[BeginDisturbance],
    ) -> None:
        for address, order in orders.items():
            ears = self._system.ref(address, NAME)
            self._system.tell(ears, kind(name=order.name), lane=Lane.CONTROL)


def find(target: str, param: str, processes: Iterable[ProcessAddress]) -> frozenset[str]:
    """The addresses of the processes that a name stands for; a bare name is a node's.

    Raises:
        ApiError: it stands for none; the text tells the names that there are.
    """
    processes = tuple(processes)
    for name in (target, f"node:{target}"):
        if found := frozenset(process.address for process in processes if name in process.names):
            return found
    known = ", ".join(sorted({name for process in processes for name in process.names}))
    raise ApiError(400, f"{param}: there is no {target!r}; there are {known}", param=param)


def _order(name: str, fault: LinkFault, peers: frozenset[str]) -> DisturbLinks:
    is_cut = fault.kind == "partition"
    latency_s = LATENCY_S if fault.latency_s is None else fault.latency_s
    rate = BYTES_PER_S if fault.bytes_per_s is None else fault.bytes_per_s
    return DisturbLinks(
        name=name,
        peers=tuple(sorted(peers)),
        after_s=BEGIN_AFTER_S,
        for_s=fault.for_s,
        is_cut=is_cut,
        latency_s=0.0 if is_cut else latency_s,
        bytes_per_s=0.0 if is_cut else rate,
    )
