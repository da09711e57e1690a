"""Simulations side by side: processes that take runs as lines of JSON and answer with their times.

    python -m examples.papers.thunderserve_workers < runs

The one idea: a run is a value and so is what comes of it, so that any process may do it, once.
"""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec

from examples.papers.thunderserve_runs import Run, Served, served

Serve = Callable[[Run], Coroutine[Any, Any, Served]]

ALL_TIMEOUT_S = 4 * 3600.0
"""For a run, its wait for a worker included."""
END_TIMEOUT_S = 10.0
MAX_LINE_BYTES = 1 << 26


class Workers:
    """Some processes and what came of all runs so far."""

    def __init__(self, processes: list[asyncio.subprocess.Process], on_run: Callable[[], object]):
        """Of processes that have begun; `on_run` is called when a run has ended."""
        self._idle: asyncio.Queue[asyncio.subprocess.Process] = asyncio.Queue(len(processes))
        for process in processes:
            self._idle.put_nowait(process)
        self._on_run = on_run
        self._turns: dict[Run, asyncio.Lock] = {}
        self._found: dict[Run, Served] = {}

    async def serve(self, run: Run) -> Served:
        """What comes of a run, now or as it came before.

        Raises:
            RuntimeError: its process ended; that one said why on stderr.
            TimeoutError: it took too long.
        """
        async with asyncio.timeout(ALL_TIMEOUT_S), self._turns.setdefault(run, asyncio.Lock()):
            if run not in self._found:
                self._found[run] = await self._at_a_worker(run)
                self._on_run()
            return self._found[run]

    async def _at_a_worker(self, run: Run) -> Served:
        process = await self._idle.get()
        try:
            return await _asked(process, run)
        finally:
            self._idle.put_nowait(process)


async def _asked(process: asyncio.subprocess.Process, run: Run) -> Served:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(msgspec.json.encode(run) + b"\n")
    await process.stdin.drain()
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError(f"workers: process {process.pid} ended at {run}; see its error above")
    return msgspec.json.decode(line, type=Served)


@asynccontextmanager
async def working(number: int, on_run: Callable[[], object]) -> AsyncIterator[Workers]:
    """So many processes, until the block ends."""
    async with AsyncExitStack() as stack:
        yield Workers([await stack.enter_async_context(_worker()) for _ in range(number)], on_run)


@asynccontextmanager
async def _worker() -> AsyncIterator[asyncio.subprocess.Process]:
    """One process; its input ends with the block, and so does it. A busy one is not waited for."""
    words = [sys.executable, "-m", "examples.papers.thunderserve_workers"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *words, stdin=pipe, stdout=pipe, limit=MAX_LINE_BYTES
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def main() -> None:
    """Serve runs until the input ends."""
    logging.disable(logging.WARNING)  # what a service logs while it comes up is no news here
    for line in sys.stdin.buffer:
        found = served(msgspec.json.decode(line, type=Run))
        sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
