"""Whatever an actor's failure is and says, it ends that actor, is told in words, and is let go."""

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable, Iterator, Sequence

import pytest

from actors.kernel.actor import Actor
from actors.kernel.errors import ActorFailed, RemoteFault
from actors.kernel.ref import Ref
from actors.kernel.supervision import TEMPORARY, DownReason, Supervision
from tests.actors.kernel.cast import Count, Fail, Note, Player
from tests.actors.kernel.troupe import SOON, Troupe
from tests.actors.kernel.worlds import InstantWorld, World, everywhere, simulated
from transport.codec import Message
from transport.frame import Buffer


class Unspeakable(Exception):
    """A failure that fails when it is asked what it says."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Raising(Player):
    """Fails with whatever a `Fail` makes it."""

    def __init__(self, make: Callable[[], Exception]) -> None:
        super().__init__()
        self.make = make

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        if isinstance(message, Fail):
            raise self.make()
        return await super().receive(message, sender, buffers)


@everywhere
async def test_failure_without_words_is_told_by_its_class(world: World) -> None:
    async with world.pair() as (near, far):
        watcher = Player()
        name = near.spawn(watcher, name="watcher")
        raising = far.spawn(Raising(Unspeakable), name="raising", supervision=TEMPORARY)
        near.watch(name, raising)
        with pytest.raises(RemoteFault, match="Unspeakable: ") as fault:
            await near.ask(raising, Fail(""), timeout_s=5)
        assert "in receive" in fault.value.traceback
        (down,) = await watcher.wait_downs()
        assert down.reason is DownReason.ERROR
        assert down.text.startswith("Unspeakable: ")


@simulated
async def test_failure_without_words_is_restarted_like_any_other(world: InstantWorld) -> None:
    async with world.open("here") as here:
        raising = here.spawn(
            lambda: Raising(Unspeakable), name="raising", supervision=Supervision(max_restarts=1)
        )
        here.tell(raising, Fail(""))
        await asyncio.sleep(SOON)
        assert await here.ask(here.local_ref("raising"), Note(1), timeout_s=5) == Count(1)


@simulated
async def test_failure_without_words_comes_out_of_the_root(world: InstantWorld) -> None:
    async def fail() -> None:
        async with world.open("here") as here:
            here.tell(here.spawn(Raising(Unspeakable), name="raising"), Fail(""))
            await asyncio.Event().wait()

    with pytest.raises(ActorFailed, match="Unspeakable") as failed:
        await fail()
    assert isinstance(failed.value.__cause__, Unspeakable)


@pytest.fixture
def unlogged() -> Iterator[None]:
    """A test's report goes to another process, and cannot carry every character either."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("unlogged")
@everywhere
async def test_failure_in_characters_that_cannot_be_sent_is_told_without_them(
    world: World,
) -> None:
    def of_a_file() -> Exception:
        return OSError(b"no file \xff".decode(errors="surrogateescape"))

    async with world.pair() as (near, far):
        raising = far.spawn(Raising(of_a_file), name="raising", supervision=TEMPORARY)
        with pytest.raises(RemoteFault, match="OSError: no file"):
            await near.ask(raising, Fail(""), timeout_s=5)


class Overflowing(Actor):
    """Replies with what no wire carries."""

    async def receive(self, message: Message, sender: object, buffers: object) -> Message | None:
        return Count(1 << 100)


@simulated
async def test_reply_that_cannot_be_packed_fails_the_actor_and_tells_the_asker(
    world: InstantWorld,
) -> None:
    async with world.pair() as (near, far):
        ref = far.spawn(Overflowing(), name="overflowing", supervision=TEMPORARY)
        with pytest.raises(RemoteFault, match="OverflowError"):
            await near.ask(ref, Note(1), timeout_s=5)
        await asyncio.sleep(SOON)
        assert far.statistics().actors == ()


@simulated
async def test_state_of_an_actor_that_failed_is_not_kept(world: InstantWorld) -> None:
    class State:
        pass

    kept: list[weakref.ref[State]] = []

    class Holding(Actor):
        async def receive(self, message: Message, sender: object, buffers: object) -> None:
            state = State()
            kept.append(weakref.ref(state))
            raise ValueError(f"with {type(state).__name__} in its frame")

    async with world.open("here") as here:
        ref = here.spawn(Holding(), name="holding", supervision=TEMPORARY)
        here.tell(ref, Note(1))
        await asyncio.sleep(SOON)
        gc.collect()
        assert [state() for state in kept] == [None]


# --- what the log says


def failures(caplog: pytest.LogCaptureFixture, level: int) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno == level]


async def _fail_and_go_on(world: InstantWorld) -> None:
    async with world.open("here") as here:
        troupe = Troupe(here)
        troupe.spawn("player", TEMPORARY)
        troupe.tell("player", Fail("first line\nsecond line " + "x" * 10_000))
        await asyncio.sleep(SOON)


def test_failure_that_is_taken_care_of_is_one_line_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG, logger="actors.kernel"):
        simulated(_fail_and_go_on)()
    (warning,) = failures(caplog, logging.WARNING)
    text = warning.getMessage()
    assert "actor=player#1@" in text
    assert "error=ValueError: first line second line" in text
    assert "\n" not in text
    assert len(text) < 1000
    assert warning.exc_info is None


def test_traceback_of_a_failure_is_logged_for_who_debugs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="actors.kernel"):
        simulated(_fail_and_go_on)()
    with_traceback = [record for record in caplog.records if record.exc_info]
    assert [record.levelno for record in with_traceback] == [logging.DEBUG]


def test_failure_at_the_end_of_an_actor_is_one_line_as_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Clumsy(Player):
        async def on_stop(self) -> None:
            raise OSError("cannot close")

    @simulated
    async def scenario(world: InstantWorld) -> None:
        async with world.open("here") as here:
            here.spawn(Clumsy(), name="clumsy")
            await asyncio.sleep(SOON)

    scenario()
    (warning,) = failures(caplog, logging.WARNING)
    assert warning.getMessage().endswith("error=OSError: cannot close")
    assert warning.exc_info is None
