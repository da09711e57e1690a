"""An operating-system process of ours: how it starts, what it says, how it ends.

A child is `python -m MODULE ROLE`, a name from a fixed registry and never pickled code. Its
settings, secrets among them, come as one line of JSON on its standard input, which then stays
open: a child whose parent is gone reads the end of it and stops. On Linux the kernel kills it as
well.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

MAX_LINE_BYTES = 1 << 16
"""A longer line of output is shown in pieces."""
LOOK_S = 1.0
"""How often a child that writes nothing is looked at: its own children may hold its output open."""


class ChildProcess:
    """One running child; made by `start`, over when `wait` returns."""

    def __init__(self, process: asyncio.subprocess.Process, on_line: Callable[[str], None]) -> None:
        self._process = process
        self._on_line = on_line
        self.last_line = ""

    @classmethod
    async def start(
        cls,
        module: str,
        role: str,
        settings: Mapping[str, Any],
        *,
        on_line: Callable[[str], None],
        environment: Mapping[str, str] | None = None,
    ) -> "ChildProcess":
        """Start a child and hand it its settings."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            role,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            start_new_session=True,
            limit=MAX_LINE_BYTES,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(dict(settings)).encode() + b"\n")
        return cls(process, on_line)

    @property
    def pid(self) -> int:
        """The operating system's id of the process."""
        return self._process.pid

    async def wait(self) -> str:
        """Pass on every line the child writes until it has ended; say how it ended.

        It waits as long as the child lives: `stop` is what bounds that.
        """
        output = self._process.stdout
        assert output is not None
        while line := await self._next_line(output):
            self.last_line = line.decode(errors="replace").rstrip()
            self._on_line(self.last_line)
        code = await self._process.wait()
        # Its pipes too, which whoever it left behind may hold open; there is no public way.
        self._process._transport.close()  # type: ignore[attr-defined]
        return _describe(code, self.last_line)

    async def _next_line(self, output: asyncio.StreamReader) -> bytes:
        """The next line; none if the child has ended, whoever else may still write there."""
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    return await _read_line(output)
            except TimeoutError:
                if self._process.returncode is not None:
                    self._end_what_it_left()
                    return b""

    def _end_what_it_left(self) -> None:
        """Kill the child's own children, which would keep its output and its device's memory."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def stop(self, grace_s: float, number: int = signal.SIGTERM) -> None:
        """Ask the child to end by a signal, and kill it if it has not after `grace_s`."""
        self.signal_stop(number)
        try:
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            self.kill()

    def signal_stop(self, number: int = signal.SIGTERM) -> None:
        """Ask the child to end."""
        if self._process.returncode is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End the child at once."""
        if self._process.returncode is None:
            self._process.kill()


async def _read_line(output: asyncio.StreamReader) -> bytes:
    try:
        return await output.readuntil(b"\n")
    except asyncio.IncompleteReadError as end:
        return end.partial
    except asyncio.LimitOverrunError as long:
        return await output.readexactly(long.consumed or MAX_LINE_BYTES)


def _describe(code: int, last_line: str) -> str:
    how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
    return f"{how}; its last line: {last_line}" if last_line else how
