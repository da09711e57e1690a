"""Actors fail, start again, take others along, and stop in order."""

import asyncio
from collections.abc import Callable

import pytest

from actors.kernel.actor import Actor
from actors.kernel.cell import State
from actors.kernel.errors import (
    ActorFailed,
    ActorStopped,
    NameTaken,
    RemoteFault,
    RestartLimitReached,
)
from actors.kernel.supervision import (
    TEMPORARY,
    Down,
    DownReason,
    Restart,
    Strategy,
    Supervision,
)
from actors.kernel.system import ActorSystem
from tests.actors.kernel.cast import Count, Fail, Note, Player, Stop, Wait
from tests.actors.kernel.worlds import InstantWorld, simulated
from transport.codec import Message
from transport.endpoint import Lane

REST = Supervision(strategy=Strategy.REST_FOR_ONE)
SOON = 1.0
"""Longer than the first backoff."""


class Cast:
    """Makes players that write into one log, and remembers the newest of each name."""

    def __init__(self, system: ActorSystem) -> None:
        self.log: list[str] = []
        self.newest: dict[str, Player] = {}
        self._system = system

    def maker(self, name: str) -> Callable[[], Player]:
        def make() -> Player:
            self.newest[name] = Player(self.log)
            return self.newest[name]

        return make

    def spawn(self, name: str, supervision: Supervision | None = None) -> None:
        self._system.spawn(self.maker(name), name=name, supervision=supervision)

    def tell(self, name: str, message: Message) -> None:
        self._system.tell(self._system.local_ref(name), message)

    def num_restarts(self) -> dict[str, int]:
        return {actor.name: actor.num_restarts for actor in self._system.statistics().actors}


# --- one for one


@simulated
async def test_actor_that_fails_starts_again_fresh(world: InstantWorld) -> None:
    async with world.open("here") as here:
        cast = Cast(here)
        cast.spawn("player", Supervision())
        name = here.local_ref("player")
        assert await here.ask(name, Note(1), timeout_s=5) == Count(1)
        cast.tell("player", Fail("oh"))
        await asyncio.sleep(SOON)
        assert await here.ask(name, Note(1), timeout_s=5) == Count(1)
        assert cast.log == ["start player", "failure player: oh", "stop player", "start player"]
        assert cast.num_restarts() == {"player": 1}


@simulated
async def test_actor_is_not_there_while_it_waits_to_start_again(world: InstantWorld) -> None:
    async with world.open("here") as here:
        cast = Cast(here)
        cast.spawn("player", Supervision(backoff_s=10, max_backoff_s=10))
        cast.tell("player", Fail("oh"))
        await asyncio.sleep(SOON)
        with pytest.raises(ActorStopped):
            await here.ask(here.local_ref("player"), Note(1), timeout_s=5)
        with pytest.raises(NameTaken):
            cast.spawn("player")
        (statistics,) = here.statistics().actors
        assert (statistics.name, statistics.state) == ("player", State.STOPPED)


@simulated
async def test_actor_that_waits_to_start_again_stops_at_once(world: InstantWorld) -> None:
    async with world.open("here") as here:
        cast = Cast(here)
        cast.spawn("player", Supervision(backoff_s=1000, max_backoff_s=1000))
        cast.tell("player", Fail("oh"))
        await asyncio.sleep(SOON)
        await here.stop_actor("player")
        assert here.statistics().actors == ()
        assert asyncio.get_running_loop().time() == SOON


@simulated
async def test_permanent_actor_starts_again_even_when_its_work_is_done(
    world: InstantWorld,
) -> None:
    async with world.open("here") as here:
        cast = Cast(here)
        cast.spawn("permanent", Supervision(restart=Restart.PERMANENT))
        cast.spawn("transient", Supervision(restart=Restart.TRANSIENT))
        cast.tell("permanent", Stop())
        cast.tell("transient", Stop())
        await asyncio.sleep(SOON)
        assert cast.num_restarts() == {"permanent": 1}


@simulated
async def test_temporary_actor_fails_alone_and_for_good(world: InstantWorld) -> None:
    async with world.open("here") as here:
        cast = Cast(here)
        cast.spawn("temporary", TEMPORARY)
        cast.tell("temporary", Fail("oh"))
        await asyncio.sleep(SOON)
        assert here.statistics().actors == ()


class BadStarter(Player):
    """Fails to start until it is lucky."""

    def __init__(self, log: list[str], luck: list[bool]) -> None:
        super().__init__(log)
        self.luck = luck

    async def on_start(self) -> None:
        await super().on_start()
        if not self.luck.pop():
            raise OSError("bad luck")


@simulated
async def test_actor_that_fails_to_start_fails_but_has_nothing_to_stop(
    world: InstantWorld,
) -> None:
    async with world.open("here") as here:
        log, luck = list[str](), [True, False, False]
        here.spawn(lambda: BadStarter(log, luck), name="starter", supervision=Supervision())
        await asyncio.sleep(SOON)
        tried = ["start starter", "failure starter: bad luck"]
        assert log == [*tried, *tried, "start starter"]


@simulated
async def test_actor_that_handles_nothing_fails_with_its_first_message(
    world: InstantWorld,
) -> None:
    async with world.open("here") as here:
        actor = here.spawn(Actor(), name="actor", supervision=TEMPORARY)
        with pytest.raises(RemoteFault, match="NotImplementedError"):
            await here.ask(actor, Note(1), timeout_s=5)


@simulated
async def test_actor_that_cannot_be_made_again_fails_like_any_other(world: InstantWorld) -> None:
    makers = [Player, Player]

    def make() -> Player:
        return makers.pop()()

    async def live() -> None:
        async with world.open("here") as here:
            here.spawn(make, name="player", supervision=Supervision())
            here.tell(here.local_ref("player"), Fail("once"))
            await asyncio.sleep(SOON)
            here.tell(here.local_ref("player"), Fail("twice"))
            await asyncio.sleep(1000)

    with pytest.raises(RestartLimitReached, match="pop from empty list"):
        await live()


@simulated
async def test_actor_that_cannot_be_made_at_all_fails_its_spawner(world: InstantWorld) -> None:
    async with world.open("here") as here:
        with pytest.raises(ZeroDivisionError):
            here.spawn(lambda: [Player()][1 // 0], name="player", supervision=Supervision())
        here.spawn(Player(), name="player")


@simulated
async def test_actor_itself_cannot_be_spawned_to_be_restarted(world: InstantWorld) -> None:
    async with world.open("here") as here:
        for supervision in (Supervision(), REST, Supervision(restart=Restart.PERMANENT)):
            with pytest.raises(ValueError, match="spawn what makes it"):
                here.spawn(Player(), name="player", supervision=supervision)


@simulated
async def test_name_belongs_to_one_living_actor(world: InstantWorld) -> None:
    async with world.open("here") as here:
        here.spawn(Player(), name="player")
        with pytest.raises(NameTaken, match="'player'"):
            here.spawn(Player(), name="player")


# --- escalation


@simulated
async def test_failure_that_nobody_takes_care_of_ends_the_system(world: InstantWorld) -> None:
    async def live() -> None:
        async with world.open("here") as here:
            Cast(here).spawn("player")
            here.tell(here.local_ref("player"), Fail("oh"))
            await asyncio.Event().wait()

    with pytest.raises(ActorFailed, match="actor 'player' failed: ValueError: oh") as caught:
        await live()
    assert isinstance(caught.value.__cause__, ValueError)


@simulated
async def test_actor_that_fails_too_often_hands_its_failure_up(world: InstantWorld) -> None:
    supervision = Supervision(max_restarts=3, period_s=60)

    async def live() -> None:
        async with world.open("here") as here:
            cast = Cast(here)
            cast.spawn("player", supervision)
            for number in range(5):
                cast.tell("player", Fail(f"oh {number}"))
                await asyncio.sleep(SOON)

    with pytest.raises(RestartLimitReached, match=r"after 3 restarts in 60 s .*oh 3"):
        await live()


class Parent(Player):
    """Spawns a child named by each `Fail` it is told, which fails when it gets a note."""

    def __init__(self, log: list[str], supervision: Supervision | None = None) -> None:
        super().__init__(log)
        self.supervision = supervision

    async def on_start(self) -> None:
        await super().on_start()
        for name in ("elder", "younger"):
            child = lambda: Player(self.log)  # noqa: E731
            self.context.spawn(child, name=name, supervision=self.supervision)


@simulated
async def test_child_that_fails_takes_its_parent_along_in_order(world: InstantWorld) -> None:
    async with world.open("here") as here:
        log: list[str] = []
        here.spawn(lambda: Parent(log), name="parent", supervision=TEMPORARY)
        await asyncio.sleep(0.1)
        here.tell(here.local_ref("elder"), Fail("oh"))
        await asyncio.sleep(0.1)
        assert here.statistics().actors == ()
        assert log == [
            "start parent",
            "start elder",
            "start younger",
            "failure elder: oh",
            "stop elder",
            "stop younger",
            "failure parent: actor 'elder' failed: ValueError: oh",
            "stop parent",
        ]


@simulated
async def test_parent_that_starts_again_starts_its_children_again(world: InstantWorld) -> None:
    async with world.open("here") as here:
        log: list[str] = []
        here.spawn(lambda: Parent(log), name="parent", supervision=Supervision())
        await asyncio.sleep(0.1)
        here.tell(here.local_ref("younger"), Fail("oh"))
        await asyncio.sleep(SOON)
        names = [actor.name for actor in here.statistics().actors]
        assert sorted(names) == ["elder", "parent", "younger"]
        assert await here.ask(here.local_ref("younger"), Note(1), timeout_s=5) == Count(1)


@simulated
async def test_parent_outlives_a_child_that_it_restarts(world: InstantWorld) -> None:
    async with world.open("here") as here:
        log: list[str] = []
        here.spawn(Parent(log, Supervision()), name="parent")
        await asyncio.sleep(0.1)
        here.tell(here.local_ref("elder"), Fail("oh"))
        await asyncio.sleep(SOON)
        restarts = {actor.name: actor.num_restarts for actor in here.statistics().actors}
        assert restarts == {"parent": 0, "elder": 1, "younger": 0}


# --- rest for one


@simulated
async def test_rest_for_one_restarts_those_spawned_later_and_no_others(
    world: InstantWorld,
) -> None:
    async with world.open("here") as here:
        cast = Cast(here)
        for name in ("first", "second", "third", "fourth"):
            cast.spawn(name, REST)
        await asyncio.sleep(0)
        cast.log.clear()
        cast.tell("second", Fail("oh"))
        await asyncio.sleep(SOON)
        assert cast.log == [
            "failure second: oh",
            "stop second",
            "stop fourth",
            "stop third",
            "start second",
            "start third",
            "start fourth",
        ]
        assert cast.num_restarts() == {"first": 0, "second": 1, "third": 1, "fourth": 1}


@simulated
async def test_rest_for_one_ends_those_that_cannot_be_made_again(world: InstantWorld) -> None:
    async with world.open("here") as here:
        cast = Cast(here)
        cast.spawn("first", REST)
        cast.spawn("temporary", TEMPORARY)
        here.spawn(Player(), name="once")
        cast.spawn("last", REST)
        cast.tell("first", Fail("oh"))
        await asyncio.sleep(SOON)
        assert cast.num_restarts() == {"first": 1, "last": 1}


@simulated
async def test_rest_for_one_that_is_stopped_in_between_ends_them_all(world: InstantWorld) -> None:
    async with world.open("here") as here:
        cast = Cast(here)
        slow = Supervision(strategy=Strategy.REST_FOR_ONE, backoff_s=1000, max_backoff_s=1000)
        for name in ("first", "second", "third"):
            cast.spawn(name, slow)
        cast.tell("first", Fail("oh"))
        await asyncio.sleep(SOON)
        await here.stop_actor("first")
        assert here.statistics().actors == ()
        cast.spawn("second")


@simulated
async def test_rest_for_one_of_two_that_fail_at_once_restarts_each_once(
    world: InstantWorld,
) -> None:
    async with world.open("here") as here:
        cast = Cast(here)
        for name in ("first", "second", "third"):
            cast.spawn(name, REST)
        cast.tell("second", Fail("oh"))
        cast.tell("first", Fail("oh"))
        await asyncio.sleep(SOON)
        third = here.local_ref("third")
        assert await here.ask(third, Note(1), timeout_s=5) == Count(1)
        states = {actor.state for actor in here.statistics().actors}
        assert (len(here.statistics().actors), states) == (3, {State.READY})


# --- stopping


@simulated
async def test_leaving_stops_actors_in_reverse_order(world: InstantWorld) -> None:
    async with world.open("here") as here:
        cast = Cast(here)
        for name in ("first", "second", "third"):
            cast.spawn(name)
    assert cast.log[-3:] == ["stop third", "stop second", "stop first"]


@simulated
async def test_stopping_lets_the_message_being_handled_finish(world: InstantWorld) -> None:
    async with world.open("here") as here:
        actor = Player()
        player = here.spawn(actor, name="player")
        here.tell(player, Wait())
        here.tell(player, Note(1))
        await actor.has_begun_to_wait.wait()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(here.stop())
            await asyncio.sleep(1)
            assert here.statistics().actors[0].num_waiting == 1
            actor.gate.set()
        assert actor.log[-1] == "stop player"
        assert actor.notes == []


@simulated
async def test_actor_that_does_not_stop_in_its_grace_is_killed_with_its_children(
    world: InstantWorld,
) -> None:
    async with world.open("here") as here:
        log: list[str] = []
        hasty = Supervision(restart=Restart.TEMPORARY, stop_grace_s=2)
        parent = Parent(log, Supervision(stop_grace_s=100))
        ref = here.spawn(parent, name="parent", supervision=hasty)
        await asyncio.sleep(0.1)
        here.tell(ref, Wait())
        await parent.has_begun_to_wait.wait()
        before = asyncio.get_running_loop().time()
        await here.stop_actor("parent")
        await asyncio.sleep(0)
        assert asyncio.get_running_loop().time() == pytest.approx(before + 2)
        assert here.statistics().actors == ()
        assert not [entry for entry in log if entry.startswith("stop")]


class Stubborn(Player):
    """Goes on although it is cancelled."""

    async def receive(self, message, sender, buffers):  # type: ignore[no-untyped-def]
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            await asyncio.sleep(500)
        return None


@simulated
async def test_actor_that_ignores_its_killing_does_not_hold_the_stop_up(
    world: InstantWorld,
) -> None:
    async with world.open("here") as here:
        hasty = Supervision(restart=Restart.TEMPORARY, stop_grace_s=2)
        here.tell(here.spawn(Stubborn(), name="stubborn", supervision=hasty), Note(1))
        await asyncio.sleep(1)
        await here.stop_actor("stubborn")
        assert asyncio.get_running_loop().time() < 10


class BadStopper(Player):
    """Fails in its hooks as well."""

    async def on_failure(self, error: Exception) -> None:
        await super().on_failure(error)
        raise RuntimeError("bad at failing")

    async def on_stop(self) -> None:
        await super().on_stop()
        raise RuntimeError("bad at stopping")


@simulated
async def test_failure_in_a_hook_is_a_failure_and_the_first_one_counts(
    world: InstantWorld,
) -> None:
    async with world.open("here") as here:
        watching = Player()
        watcher = here.spawn(watching, name="watcher")
        failing = BadStopper()
        refs = [
            here.spawn(failing, name="failing", supervision=TEMPORARY),
            here.spawn(BadStopper(), name="stopping", supervision=TEMPORARY),
        ]
        for ref in refs:
            here.watch(watcher, ref)
        here.tell(refs[0], Fail("oh"))
        here.tell(refs[1], Stop())
        first, second = await watching.wait_downs(2)
        assert first == Down(refs[0], DownReason.ERROR, "ValueError: oh")
        assert second == Down(refs[1], DownReason.ERROR, "RuntimeError: bad at stopping")
        assert failing.log[-2:] == ["failure failing: oh", "stop failing"]


# --- what an actor does beside its messages


class Busy(Player):
    """Starts a task for each note; a negative number makes it fail."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[str] = []

    async def receive(self, message, sender, buffers):  # type: ignore[no-untyped-def]
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
        await here.stop_actor("busy")
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
        await here.stop_actor("busy")
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
        cast = Cast(here)
        cast.spawn("player", Supervision())
        cast.tell("player", Fail("oh"))
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
        await here.stop_actor("alarmed")
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
