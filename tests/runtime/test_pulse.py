"""Children that hang are ended once, and those that answer never, on virtual time."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest

from actors.kernel.envelope import Ack
from actors.kernel.errors import ActorStopped, AskTimeout
from actors.kernel.ref import ANY, Ref
from actors.kernel.virtual_time import run
from actors.membership import ABSENCE_S
from runtime.pulse import ASK_EVERY_S, Life, PulseActor, PulseWatch
from transport.codec import Message
from transport.errors import Unreachable

if TYPE_CHECKING:
    from actors.kernel.system import ActorSystem

TIMEOUT_S = 10.0
NODE = Life(7, "tcp://node")
GATEWAY = Life(8, "tcp://gateway")


@dataclass
class Machine:
    """Children that answer, hang or are out of reach, as a test wants it."""

    silent: dict[str, Exception] = field(default_factory=dict)
    living: dict[str, Life] = field(default_factory=lambda: {"node": NODE, "gateway": GATEWAY})
    ended: list[tuple[str, int]] = field(default_factory=list)

    def ref(self, address: str, name: str) -> Ref:
        return Ref(address, ANY, name)

    async def ask(self, ref: Ref, message: Message, *, timeout_s: float) -> Message:
        if (error := self.silent.get(ref.address)) is None:
            return Ack()
        if isinstance(error, AskTimeout):
            await asyncio.sleep(timeout_s)
        raise error

    def on_hang(self, role: str, pid: int) -> None:
        self.ended.append((role, pid))

    def watch(self) -> PulseWatch:
        system = cast("ActorSystem", self)
        return PulseWatch(system, lambda: self.living, self.on_hang, TIMEOUT_S)


Scenario = Callable[[Machine], Coroutine[Any, Any, None]]


def watched(scenario: Scenario) -> None:
    async def main(rng: random.Random) -> None:
        machine = Machine()
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(machine.watch().run())
            await scenario(machine)
            watching.cancel()

    run(main, seed=0)


@pytest.mark.parametrize("error", [AskTimeout("hangs"), Unreachable("silent")])
def test_a_child_that_answers_nobody_is_ended_once_and_the_others_live_on(
    error: Exception,
) -> None:
    async def scenario(machine: Machine) -> None:
        await asyncio.sleep(60.0)
        machine.silent[NODE.address] = error
        await asyncio.sleep(TIMEOUT_S - 2 * ASK_EVERY_S - 1.0)
        assert machine.ended == []
        await asyncio.sleep(5.0)
        assert machine.ended == [("node", NODE.pid)]
        await asyncio.sleep(60.0)
        assert machine.ended == [("node", NODE.pid)]

    watched(scenario)


def test_a_child_that_answers_in_between_is_never_ended() -> None:
    async def scenario(machine: Machine) -> None:
        for _ in range(5):
            machine.silent[NODE.address] = AskTimeout("hangs")
            await asyncio.sleep(TIMEOUT_S - 3.0)
            machine.silent.clear()
            await asyncio.sleep(2.0)
        assert machine.ended == []

    watched(scenario)


def test_a_process_without_a_pulse_that_says_so_is_alive() -> None:
    async def scenario(machine: Machine) -> None:
        machine.silent[NODE.address] = ActorStopped("no such actor")
        await asyncio.sleep(60.0)
        assert machine.ended == []

    watched(scenario)


def test_the_next_life_of_a_child_has_all_its_time() -> None:
    async def scenario(machine: Machine) -> None:
        machine.silent[NODE.address] = AskTimeout("hangs")
        await asyncio.sleep(TIMEOUT_S + 3.0)
        machine.living["node"] = Life(9, NODE.address)
        await asyncio.sleep(TIMEOUT_S - 3.0)
        assert machine.ended == [("node", 7)]
        await asyncio.sleep(6.0)
        assert machine.ended == [("node", 7), ("node", 9)]

    watched(scenario)


def test_a_child_that_is_not_up_yet_is_not_asked() -> None:
    async def scenario(machine: Machine) -> None:
        del machine.living["node"]
        machine.silent[NODE.address] = AskTimeout("starting")
        await asyncio.sleep(60.0)
        assert machine.ended == []

    watched(scenario)


def test_whoever_was_away_itself_counts_silence_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(machine: Machine) -> None:
        loop = asyncio.get_running_loop()
        machine.silent[NODE.address] = AskTimeout("hangs")
        await asyncio.sleep(TIMEOUT_S - 3.0)
        real, away_s = loop.time, 100 * ABSENCE_S
        monkeypatch.setattr(loop, "time", lambda: real() + away_s)  # the clock went on without us
        await asyncio.sleep(3.0)
        assert machine.ended == []
        await asyncio.sleep(TIMEOUT_S + 3.0)
        assert machine.ended == [("node", 7)]
        monkeypatch.undo()

    watched(scenario)


async def test_the_pulse_of_a_process_says_nothing_but_that_it_beats() -> None:
    assert await PulseActor().receive(Ack(), None, ()) is None
