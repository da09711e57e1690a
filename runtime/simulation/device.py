"""An emulated device: does what a stage asks of it, and takes the time a real one would.

The one idea: work is done when its turn comes and is finished after the time that it charges. What
leaves the device for a link is charged as the bytes that a real model's would be, one transfer
after another, beside the next step's work. Emulated entries are eight bytes, so that the wire
itself adds its latency and little else.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec

from actors.holding import LoadedShard, log_for
from actors.messages import AssignStage
from models.errors import ModelError
from models.forward_batch import ForwardBatch
from runtime.simulation.groups import ALONE, Group
from runtime.simulation.line import Line
from runtime.simulation.quick_shard import ROW_BYTES, QuickShard
from runtime.simulation.step_facts import StepReader
from runtime.simulation.timed_shard import TimedShard
from scheduling.roofline import LinkRate, ModelShape
from scheduling.split import ModelCost, StageDevice

_T = TypeVar("_T")


class Watcher(Protocol):
    """Whoever wants to know what a device does."""

    def on_step(self, worker: str, start_s: float, end_s: float, num_tokens: int) -> None:
        """A step began and will end."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What a worker's device is and is used for.

    Attributes:
        worker: the worker's name.
        rates: what the device can do.
        shape: the model's numbers.
        cost: what its parts weigh.
        load_bytes_per_s: how fast weights come.
        link_to: the link to a process, by its address.
        reader: reads the batches of all devices.
        watcher: hears of every step.
        group: how many devices it stands for.
        line_to: the line that the link to a process shares with others, if it does.
    """

    worker: str
    rates: StageDevice
    shape: ModelShape
    cost: ModelCost
    load_bytes_per_s: float
    link_to: Callable[[str], LinkRate]
    reader: StepReader
    watcher: Watcher
    group: Group = ALONE
    line_to: Callable[[str], Line | None] = lambda address: None


class EmulatedDevice:
    """One worker's device: what is asked of it runs in turn, or beside."""

    def __init__(self, facts: DeviceFacts) -> None:
        self._facts = facts
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._free_at = self._link_free_at = self._copier_free_at = 0.0
        self._charged_s = self._sending_s = 0.0
        self._line: Line | None = None
        self._is_off = False

    def turn_off(self) -> None:
        """Never do anything again: its process is dead."""
        self._is_off = True
        self._waiting.clear()

    def freeze(self, until_s: float) -> None:
        """Begin nothing until then."""
        self._free_at = max(self._free_at, until_s)
        self._copier_free_at = max(self._copier_free_at, until_s)

    def charge(self, seconds: float, sending_s: float = 0.0, line: Line | None = None) -> None:
        """Have what runs now take so long, and its result so much longer to leave on a link.

        Where that link is a line that others share, it leaves when its turn comes.
        """
        self._charged_s += seconds
        self._sending_s += sending_s
        self._line = line

    def charge_step(
        self, seconds: float, sending_s: float, num_tokens: int, line: Line | None = None
    ) -> None:
        """`charge`, of a step."""
        now = self._loop.time()
        self._facts.watcher.on_step(self._facts.worker, now, now + seconds, num_tokens)
        self.charge(seconds, sending_s, line)

    def run(self, function: Callable[[], _T]) -> "asyncio.Future[_T]":
        """Do something after all that was asked before."""
        done: asyncio.Future[_T] = self._loop.create_future()
        if self._waiting or self._free_at > self._loop.time():
            self._waiting.append((function, done))
            if len(self._waiting) == 1:
                self._loop.call_at(self._free_at, self._start_next)
        else:
            self._free_at = self._perform(function, done)
        return done

    def run_beside(self, function: Callable[[], _T]) -> "asyncio.Future[_T]":
        """Do something now, beside what else runs."""
        done: asyncio.Future[_T] = self._loop.create_future()
        self._perform(function, done)
        return done

    def copy(self, function: Callable[[], _T]) -> "asyncio.Future[_T]":
        """Copy blocks after all earlier copies, beside what else runs."""
        done: asyncio.Future[_T] = self._loop.create_future()
        self._copier_free_at = self._perform(function, done, self._copier_free_at)
        return done

    def unpack(self, data: bytes) -> ForwardBatch:
        """A step's batch, which the other devices read as well."""
        return self._facts.reader.unpack(data)

    def link_to(self, address: str) -> LinkRate:
        """The link to a process."""
        return self._facts.link_to(address)

    def line_to(self, address: str) -> Line | None:
        """The line that this link shares with others, if it does."""
        return self._facts.line_to(address)

    def load(
        self,
        assignment: AssignStage,
        held: LoadedShard | None,
        on_progress: Callable[[int, int], None],
    ) -> LoadedShard:
        """Make the shard that an assignment asks for; layers that `held` has need not be loaded."""
        facts = self._facts
        layers = (assignment.start, assignment.end)
        old = held.shard if held is not None else None
        assert old is None or isinstance(old, TimedShard)
        num_bytes = _weight_bytes(facts.cost, layers)
        self.charge(_new_bytes(facts.cost, layers, old) / facts.load_bytes_per_s)
        on_progress(num_bytes, num_bytes)
        shard = QuickShard(
            *layers,
            facts.shape.num_layers,
            num_blocks=assignment.num_blocks,
            block_tokens=assignment.block_tokens,
            vocab_size=facts.shape.vocab,
            reader=facts.reader,
            held=None if old is None else old.emulated,
        )
        to = assignment.successor.address
        timed = TimedShard(
            shard,
            facts.rates,
            facts.shape,
            facts.link_to(to),
            self,
            line=facts.line_to(to),
            group=facts.group,
        )
        log_bytes = assignment.log_bytes * ROW_BYTES // facts.shape.token_bytes
        logged = msgspec.structs.replace(assignment, log_bytes=log_bytes)
        log = log_for(logged, facts.shape.num_layers, ROW_BYTES, held)
        return LoadedShard(timed, log, num_bytes, shard.kv_bytes, num_bytes)

    def _perform(
        self, function: Callable[[], _T], done: "asyncio.Future[_T]", not_before: float = 0.0
    ) -> float:
        """Do it, have its result come when it would; returns when another may begin."""
        self._charged_s, self._sending_s, self._line = 0.0, 0.0, None
        if self._is_off:
            return self._loop.time()
        try:
            result = function()
        except (ModelError, OSError, MemoryError) as error:
            done.set_exception(error)
            return self._loop.time()
        ready_at = free_at = max(self._loop.time(), not_before) + self._charged_s
        if self._sending_s and self._line is not None:
            self._loop.call_at(free_at, self._carry, self._line, self._sending_s, done, result)
            return free_at
        if self._sending_s:
            ready_at = self._link_free_at = max(free_at, self._link_free_at) + self._sending_s
        self._loop.call_at(ready_at, _finish, done, result)
        return free_at

    def _carry(self, line: Line, seconds: float, done: "asyncio.Future[_T]", result: _T) -> None:
        """Ready to go over a shared line: whoever is ready first goes first."""
        self._loop.call_at(line.carry(self._loop.time(), seconds), _finish, done, result)

    def _start_next(self) -> None:
        if self._is_off:
            return
        if self._free_at > self._loop.time():  # it was frozen meanwhile
            self._loop.call_at(self._free_at, self._start_next)
            return
        self._free_at = self._perform(*self._waiting.popleft())
        if self._waiting:
            self._loop.call_at(self._free_at, self._start_next)


def _finish(done: "asyncio.Future[_T]", result: _T) -> None:
    if not done.done():  # whoever waited may be gone
        done.set_result(result)


def _weight_bytes(cost: ModelCost, layers: tuple[int, int]) -> int:
    start, end = layers
    ends = cost.embedding_bytes * (start == 0) + cost.head_bytes * (end == len(cost.layer_bytes))
    return sum(cost.layer_bytes[start:end]) + ends


def _new_bytes(cost: ModelCost, layers: tuple[int, int], old: TimedShard | None) -> int:
    """Weights of the layers that are not held already."""
    has = range(*old.layers) if old is not None else range(0)
    total = _weight_bytes(cost, layers)
    return total - sum(cost.layer_bytes[layer] for layer in range(*layers) if layer in has)
