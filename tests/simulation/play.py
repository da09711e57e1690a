"""Plays a schedule on a service, on virtual time, and says what came of it."""

import asyncio
import logging
import random
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import TypeVar

from actors.kernel.errors import ActorError
from actors.kernel.virtual_time import Deadlock, run
from actors.messages import ChangePlan, DrainNode, FlipPhases, MoveRequest
from scheduling.placement import PHASES, Phase
from tests.simulation.clients import RIGHT, End, ask_for
from tests.simulation.invariants import problems_at_rest, problems_now, problems_of_ends
from tests.simulation.schedules import MIN_IN_FLIGHT, Ask, Fault, Schedule
from tests.simulation.world import World
from transport.codec import Message
from transport.errors import TransportError

_T = TypeVar("_T")

READY_TIMEOUT_S = 300.0
REST_S = 400.0
"""Longer than every lease, so that whatever is still held then is held for ever."""
DRAIN_DEADLINE_S = 5.0
NUM_AFTER = 4


@dataclass(slots=True)
class Outcome:
    """What came of a schedule.

    Attributes:
        problems: what must not be, in words; empty if all is well.
        trace: what happened when; the same for every run of the seed.
        ends: how many requests ended how.
        in_flight: requests under way when each fault struck.
        num_done: changes that were wished for, and made.
        num_handed_off: hand-offs of the pipelines that were there at the end.
        num_shared: tokens whose entries these found, instead of computing them.
        num_present: blocks that were not handed off as they were there already.
    """

    schedule: Schedule
    problems: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    in_flight: list[int] = field(default_factory=list)
    num_done: int = 0
    num_handed_off: int = 0
    num_shared: int = 0
    num_present: int = 0

    @property
    def counts(self) -> bool:
        """Whether enough was under way at every fault for it to show anything."""
        return bool(self.in_flight) and min(self.in_flight) >= MIN_IN_FLIGHT

    @property
    def replay(self) -> str:
        """The command that runs it again."""
        phased = " --phased" if self.schedule.shape.phases else ""
        return f"python -m tests.simulation.run{phased} --seed {self.schedule.seed} --verbose"


def play(schedule: Schedule) -> Outcome:
    """Run a schedule to its end; the same schedule always gives the same outcome."""
    outcome = Outcome(schedule)

    async def main(rng: random.Random) -> None:
        async with asyncio.TaskGroup() as tasks:
            world = World(rng, tasks, schedule.shape)
            await _Player(schedule, world, outcome).play()
        outcome.trace.append(f"chance {rng.random()}")

    with _crashes_noted(outcome.problems):
        try:
            run(main, seed=schedule.seed)
        except (Exception, Deadlock) as error:  # noqa: BLE001  whatever it is, it is a finding
            outcome.problems.append("".join(traceback.format_exception(error)))
    return outcome


class _Player:
    """One run of one schedule."""

    def __init__(self, schedule: Schedule, world: World, outcome: Outcome) -> None:
        self._schedule, self._world, self._outcome = schedule, world, outcome

    async def play(self) -> None:
        world, problems = self._world, self._outcome.problems
        await world.open()
        try:
            await world.until(lambda _: world.is_ready, READY_TIMEOUT_S)
            ends = await self._all_events()
            problems += problems_of_ends(ends, self._schedule)
            await self._come_to_rest()
            problems += problems_at_rest(world)
            for actor in world.pipeline_actors():
                counts = actor._hand_offs.counts
                self._outcome.num_handed_off += counts.num_done
                self._outcome.num_present += counts.num_present_blocks
                self._outcome.num_shared += actor._ring.batcher.statistics().num_prefix_hits
        finally:
            problems += world.epochs.problems + world.crashes
            world.close()

    async def _all_events(self) -> list[End]:
        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            asking = []
            for event in self._schedule.events:
                await asyncio.sleep(began + event.at_s - asyncio.get_running_loop().time())
                if isinstance(event, Ask):
                    asking.append(group.create_task(self._ask(event)))
                else:
                    self._strike(event, group)
        return [task.result() for task in asking]

    async def _ask(self, ask: Ask) -> End:
        end = await ask_for(self._world, ask)
        self._note(f"{end.request} {end.how} {end.reason}")
        self._outcome.ends[end.how] += 1
        return end

    async def _come_to_rest(self) -> None:
        """All serve again, new requests too, and then nothing is asked for a long time."""
        world = self._world
        try:
            await world.until(lambda _: _is_whole(world), READY_TIMEOUT_S)
        except TimeoutError:
            reason = world.router.not_ready_reason()
            self._outcome.problems.append(
                f"after all faults were undone it did not come back: {reason}; {world.failure}"
            )
            return
        for number in range(NUM_AFTER):
            ask = Ask(
                at_s=0,
                name=f"after{number}",
                num_prompt=9,
                num_output=9,
                temperature=0.5,
                seed=number,
            )
            end = await self._ask(ask)
            if end.how != RIGHT:
                self._outcome.problems.append(f"when all was well again: {end}")
        await asyncio.sleep(REST_S)

    # --- faults

    def _strike(self, fault: Fault, group: asyncio.TaskGroup) -> None:
        world = self._world
        work = self._work_of(fault)
        if work is None:
            self._note(f"{fault}: nothing to do it to")
            return
        num_in_flight = len(world.router.streams) if hasattr(world, "router") else 0
        self._outcome.in_flight.append(num_in_flight)
        what, doing = work
        self._note(f"{fault.what} {what} in_flight={num_in_flight}")
        self._outcome.problems += problems_now(world)
        group.create_task(_do(doing))

    def _work_of(self, fault: Fault) -> tuple[str, Awaitable[object]] | None:
        """What is done to what, if there is something to do it to."""
        world = self._world
        match fault.what:
            case "kill worker" if workers := world.living_workers:
                worker = _picked(workers, fault)
                return worker.address, _now(worker.die)
            case "kill stage" if workers := world.workers_in_use():
                worker = _picked(workers, fault)
                return worker.address, _now(worker.die)
            case "kill node" if world.nodes:
                return self._lose_node(_picked(sorted(world.nodes), fault), fault)
            case "kill home" if homes := world.home_nodes():
                return self._lose_node(_picked(homes, fault), fault)
            case "kill coordinator" if "coordinator" not in world.down:
                return "", world.lose_coordinator(fault.for_s)
            case "kill gateway" if "gateway" not in world.down:
                return "", world.lose_gateway(fault.for_s)
            case "pause":
                name = _picked(world.process_names(), fault)
                return name, world.pause(name, fault.for_s)
            case "hold" if pairs := world.neighbours():
                one, other = _picked(pairs, fault)
                return f"{one} from {other}", world.part(one, other, fault.for_s)
            case "late" if homes := world.home_nodes():
                name = f"node-{_picked(homes, fault)}"
                return f"{name} to gateway", world.part(name, "gateway", fault.for_s)
            case "part":
                names = world.process_names()
                one = names.pop(fault.pick % len(names))
                other = names[fault.pick // 251 % len(names)]
                return f"{one} from {other}", world.part(one, other, fault.for_s)
        return self._wish_of(fault) if hasattr(world, "router") else None

    def _lose_node(self, name: str, fault: Fault) -> tuple[str, Awaitable[object]]:
        return name, self._world.lose_node(name, fault.for_s)

    def _wish_of(self, fault: Fault) -> tuple[str, Awaitable[object]] | None:
        """What an operator would ask for."""
        world = self._world
        plan = world.router.plan
        if plan is None or not plan.pipelines:
            return None
        match fault.what:
            case "swap":
                pipeline = _picked(plan.pipelines, fault).pipeline
                return pipeline, self._wish(_change(fault, pipeline))
            case "drain" if world.nodes:
                name = _picked(sorted(world.nodes), fault)
                world.let_return(name, fault.for_s)
                return name, self._wish(DrainNode(node=name, deadline_s=DRAIN_DEADLINE_S))
            case "flip":
                names = [status.pipeline for status in plan.pipelines]
                found = [p for p in product(PHASES, repeat=len(names)) if _is_served(p)]
                wanted = tuple(zip(names, _picked(found, fault), strict=True))
                return str(wanted), self._wish(FlipPhases(phases=wanted))
            case "move":
                streams = [stream for stream in world.router.streams if stream.pipeline]
                if streams:
                    stream = _picked(streams, fault)
                    to = "1" if stream.pipeline == "0" else "0"
                    move = MoveRequest(
                        request=stream.wire_name, from_pipeline=stream.pipeline, to_pipeline=to
                    )
                    return f"{stream.wire_name} to {to}", self._wish(move)
        return None

    async def _wish(self, wish: Message) -> None:
        try:
            report = await self._world.ask(wish, timeout_s=700)
        except (ActorError, TransportError) as error:
            self._note(f"{type(wish).__name__} not answered: {error}")
            return
        self._outcome.num_done += report.is_done
        self._note(f"{type(wish).__name__} done={report.is_done} {report.reason}")

    def _note(self, what: str) -> None:
        self._outcome.trace.append(f"{asyncio.get_running_loop().time():.9f} {what}")


def _is_whole(world: World) -> bool:
    """Whether all that should be there is, and serves."""
    if not world.is_ready or world.down or len(world.nodes) < len(world.shape.nodes):
        return False
    plan = world.router.plan
    assert plan is not None
    all_joined = len(plan.nodes) == len(world.shape.nodes)
    return all_joined and all(status.state == "ready" for status in plan.pipelines)


def _is_served(phases: tuple[Phase, ...]) -> bool:
    """Whether every request can begin, and go on."""
    return any(p != "decode" for p in phases) and any(p != "prefill" for p in phases)


def _change(fault: Fault, pipeline: str) -> ChangePlan:
    return ChangePlan(
        pipeline=pipeline,
        layers=fault.layers,
        num_stages=fault.num_stages,
        plan=b"",
        is_dry_run=False,
    )


def _picked(things: Sequence[_T], fault: Fault) -> _T:
    return things[fault.pick % len(things)]


async def _now(do: Callable[[], None]) -> None:
    do()


async def _do(work: Awaitable[object]) -> None:
    await work


class _Crashes(logging.Handler):
    """Actors that fail are bugs, but for nodes that nobody takes: a line of the kernel's log."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._problems = problems

    def emit(self, record: logging.LogRecord) -> None:
        """Note a failure."""
        text = record.getMessage()
        if text.startswith("actor failed") and "actor=node#" not in text:
            self._problems.append(text)


@contextmanager
def _crashes_noted(problems: list[str]) -> Iterator[None]:
    kernel, handler = logging.getLogger("actors.kernel.cell"), _Crashes(problems)
    kernel.addHandler(handler)
    try:
        yield
    finally:
        kernel.removeHandler(handler)
