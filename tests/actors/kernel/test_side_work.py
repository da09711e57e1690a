"""What an actor does beside its messages, and how it drains."""

import asyncio
from collections.abc import Sequence

import pytest

from actors.kernel.asks import DEADLINE
from actors.kernel.cell import State
from actors.kernel.errors import (
    ActorStopped,
    RemoteFault,
)
from actors.kernel.ref import Ref
from actors.kernel.supervision import (
    TEMPORARY,
    Supervision,
)
from tests.actors.kernel.cast import Fail, Note, Player, Wait
from tests.actors.kernel.troupe import SOON, Troupe
from tests.actors.kernel.worlds import InstantWorld, simulated
from tests.support.stopping import stop_actor
from transport.codec import Message
from transport.endpoint import Lane
from transport.frame import Buffer


class Busy(Player):
    """Starts a task for each note; a negative number makes it fail."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[str] = []

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        if isinstance(message, Note):
            self.context.start_task(self._work(message.number))
            return None
        return await super().receive(message, sender, buffers)

    async def _work(self, number: int) -> None:
        try:
            await asyncio.sleep(abs(number))
            if number < 0:
                raise OSError(f"task {number}")
            self.ends.append(f"done {number}")
        except asyncio.CancelledError:
            self.ends.append(f"cancelled {number}")
            raise


@simulated
async def test_tasks_end_with_their_actor_in_the_order_of_their_start(
    world: InstantWorld,
) -> None:
    async with world.open("here") as here:
        busy = Busy()
        ref = here.spawn(busy, name="busy")
        for number in (10, 1, 20, 30):
            here.tell(ref, Note(number))
        await asyncio.sleep(5)
        await stop_actor(here, "busy")
        assert busy.ends == ["done 1", "cancelled 10", "cancelled 20", "cancelled 30"]


@simulated
async def test_task_that_fails_fails_its_actor(world: InstantWorld) -> None:
    async with world.open("here") as here:
        busy = Busy()
        ref = here.spawn(busy, name="busy", supervision=TEMPORARY)
        here.tell(ref, Note(-1))
        here.tell(ref, Note(10))
        with pytest.raises(RemoteFault, match="OSError: task -1"):
            await here.ask(ref, Wait(), timeout_s=60, lane=Lane.DATA)
        await asyncio.sleep(0.1)
        assert busy.log[1] == "failure busy: task -1"
        assert busy.ends == ["cancelled 10"]


@simulated
async def test_actor_that_has_ended_starts_no_tasks_and_no_children(world: InstantWorld) -> None:
    async with world.open("here") as here:
        busy = Busy()
        here.spawn(busy, name="busy")
        with pytest.raises(ActorStopped):
            busy.context.start_task(busy._work(1))
        await asyncio.sleep(0)
        await stop_actor(here, "busy")
        with pytest.raises(ActorStopped):
            busy.context.start_task(busy._work(1))
        with pytest.raises(ActorStopped):
            busy.context.spawn(Player(), name="child")


@simulated
async def test_draining_waits_for_tasks(world: InstantWorld) -> None:
    async with world.open("here") as here:
        busy = Busy()
        here.tell(here.spawn(busy, name="busy"), Note(10))
        await asyncio.sleep(1)
        assert await here.drain("busy", 60) is True
        assert busy.ends == ["done 10"]
        assert asyncio.get_running_loop().time() == pytest.approx(10)


class Waiting(Player):
    """Follows a future of its own for each note; a result below zero is more than it can bear."""

    def __init__(self) -> None:
        super().__init__()
        self.futures: dict[int, asyncio.Future[int]] = {}
        self.results: list[int] = []
        self.deadlines: list[float | None] = []

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        if isinstance(message, Note):
            future = self.futures[message.number] = asyncio.get_running_loop().create_future()
            self.context.follow(future, self._take)
        return await super().receive(message, sender, buffers)

    def _take(self, result: int) -> None:
        if result < 0:
            raise OSError(f"result {result}")
        self.results.append(result)
        self.deadlines.append(DEADLINE.get())


@simulated
async def test_what_is_followed_gives_its_result_beside_the_messages(world: InstantWorld) -> None:
    async with world.open("here") as here:
        waiting = Waiting()
        ref = here.spawn(waiting, name="waiting")
        await here.ask(ref, Note(1), timeout_s=9)
        await here.ask(ref, Note(2), timeout_s=9)
        waiting.futures[2].set_result(20)
        waiting.futures[1].set_result(10)
        await asyncio.sleep(SOON)
        assert waiting.results == [20, 10]
        assert waiting.deadlines == [None, None]


@pytest.mark.parametrize("is_callback", [True, False])
def test_failure_of_what_is_followed_and_of_its_callback_is_the_actors(
    *, is_callback: bool
) -> None:
    @simulated
    async def scenario(world: InstantWorld) -> None:
        async with world.open("here") as here:
            waiting = Waiting()
            ref = here.spawn(waiting, name="waiting", supervision=TEMPORARY)
            for number in (1, 2):
                await here.ask(ref, Note(number), timeout_s=9)
            if is_callback:
                waiting.futures[1].set_result(-1)
            else:
                waiting.futures[1].set_exception(OSError("result -1"))
            await asyncio.sleep(SOON)
            assert waiting.log[1] == "failure waiting: result -1"
            assert waiting.futures[2].cancelled()

    scenario()


@simulated
async def test_what_is_followed_is_cancelled_with_its_actor_and_gives_nothing(
    world: InstantWorld,
) -> None:
    async with world.open("here") as here:
        waiting = Waiting()
        ref = here.spawn(waiting, name="waiting")
        for number in (1, 2):
            await here.ask(ref, Note(number), timeout_s=9)
        stopping = stop_actor(here, "waiting")
        waiting.futures[1].cancel()
        await stopping
        assert waiting.futures[2].cancelled()
        await asyncio.sleep(SOON)
        assert waiting.results == []
        late: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        with pytest.raises(ActorStopped):
            waiting.context.follow(late, waiting.results.append)
        assert late.cancelled()


@simulated
async def test_draining_waits_for_what_is_followed(world: InstantWorld) -> None:
    async with world.open("here") as here:
        waiting = Waiting()
        await here.ask(here.spawn(waiting, name="waiting"), Note(1), timeout_s=9)
        asyncio.get_running_loop().call_later(10, waiting.futures[1].set_result, 5)
        assert await here.drain("waiting", 60) is True
        assert waiting.results == [5]
        assert asyncio.get_running_loop().time() == pytest.approx(10)


class Serving(Player):
    """Is idle only when its last note was 0."""

    def is_idle(self) -> bool:
        return self.notes[-1:] == [0]


@simulated
async def test_draining_asks_the_actor_whether_its_work_is_done(world: InstantWorld) -> None:
    async with world.open("here") as here:
        ref = here.spawn(Serving(), name="serving")
        async with asyncio.TaskGroup() as tasks:
            drained = tasks.create_task(here.drain("serving", 60))
            await asyncio.sleep(1)
            assert here.statistics().actors[0].state is State.DRAINING
            here.tell(ref, Note(0))
        assert drained.result() is True
        assert asyncio.get_running_loop().time() == pytest.approx(1)


@simulated
async def test_draining_that_takes_too_long_stops_the_actor(world: InstantWorld) -> None:
    async with world.open("here") as here:
        serving = Serving()
        here.spawn(serving, name="serving")
        assert await here.drain("serving", 5) is False
        assert serving.log == ["start serving", "stop serving"]
        with pytest.raises(ActorStopped):
            await here.drain("serving", 5)


@simulated
async def test_draining_actor_that_fails_does_not_start_again(world: InstantWorld) -> None:
    async with world.open("here") as here:
        troupe = Troupe(here)
        troupe.spawn("player", Supervision())
        troupe.tell("player", Fail("oh"))
        assert await here.drain("player", 5) is True
        await asyncio.sleep(SOON)
        assert here.statistics().actors == ()


class Alarmed(Player):
    """Sets itself three reminders, and takes one of them back."""

    async def on_start(self) -> None:
        await super().on_start()
        self.context.schedule(3.0, Note(3))
        self.context.schedule(1.0, Note(1))
        self.context.schedule(2.0, Note(2)).cancel()


@simulated
async def test_reminders_come_when_they_are_due(world: InstantWorld) -> None:
    async with world.open("here") as here:
        alarmed = Alarmed()
        ref = here.spawn(alarmed, name="alarmed")
        await alarmed.wait_notes(1)
        assert alarmed.context.loop_time() == pytest.approx(1)
        assert await alarmed.wait_notes(2) == [1, 3]
        assert alarmed.senders == [ref, ref]


@simulated
async def test_reminder_of_an_actor_that_has_ended_is_a_dead_letter(world: InstantWorld) -> None:
    async with world.open("here") as here:
        here.spawn(Alarmed(), name="alarmed")
        await asyncio.sleep(0.5)
        await stop_actor(here, "alarmed")
        await asyncio.sleep(5)
        assert here.statistics().dead_letters == {"stopped": 2}


@simulated
async def test_reminder_of_an_actor_that_is_full_is_a_dead_letter(world: InstantWorld) -> None:
    async with world.open("here") as here:
        alarmed = Alarmed()
        ref = here.spawn(alarmed, name="alarmed")
        here.tell(ref, Wait())
        await alarmed.has_begun_to_wait.wait()
        for number in range(8):
            here.tell(ref, Note(number))
        await asyncio.sleep(2)
        assert here.statistics().dead_letters == {"mailbox_full": 1}
        alarmed.gate.set()
