"""Actors in processes of their own: they answer, and their death is noticed."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from actors.kernel.ref import Ref
from actors.kernel.supervision import DownReason
from actors.kernel.system import ActorSystem
from tests.actors.kernel.cast import Count, Note, Player, Wait
from tests.actors.kernel.worlds import ZmqWorld
from transport.errors import Unreachable

ROOT = Path(__file__).parents[3]
MODULE = "tests.actors.kernel.lone_player"


@asynccontextmanager
async def lone_player() -> AsyncIterator[tuple[Process, Ref]]:
    """A child process and the ref of the player in it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", MODULE, cwd=ROOT, stdin=PIPE, stdout=PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            line = await process.stdout.readline()
        yield process, msgspec.json.decode(line, type=Ref)
    finally:
        process.stdin.close()
        async with asyncio.timeout(30):
            await process.wait()


@asynccontextmanager
async def watched_player() -> AsyncIterator[tuple[ActorSystem, Player, Process, Ref]]:
    """The same, watched by a player of this process."""
    async with lone_player() as (process, ref), ZmqWorld().open("near") as near:
        watching = Player()
        near.watch(near.spawn(watching, name="watcher"), ref)
        assert await near.ask(ref, Note(1), timeout_s=10) == Count(1)
        yield near, watching, process, ref


async def test_killed_process_is_noticed_by_watchers_and_askers() -> None:
    async with watched_player() as (near, watching, process, ref):
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(_reason_of_failure(near, ref))
            await asyncio.sleep(0)
            process.kill()
        assert "may have run" in waiting.result()
        (down,) = await watching.wait_downs()
        assert (down.ref, down.reason) == (ref, DownReason.NO_CONNECTION)


async def _reason_of_failure(near: ActorSystem, ref: Ref) -> str:
    with pytest.raises(Unreachable) as caught:
        await near.ask(ref, Wait(), timeout_s=20)
    return str(caught.value)


async def test_process_that_ends_in_order_says_that_its_actors_were_stopped() -> None:
    async with watched_player() as (_, watching, process, ref):
        assert process.stdin is not None
        process.stdin.close()
        (down,) = await watching.wait_downs()
        assert (down.ref, down.reason) == (ref, DownReason.SHUTDOWN)
        assert await process.wait() == 0
