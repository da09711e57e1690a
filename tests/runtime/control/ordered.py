"""`ctl` as a shell runs it, against a gateway that a test has set up."""

import asyncio
from dataclasses import dataclass

import pytest

from runtime import ctl


@dataclass(frozen=True)
class Ran:
    """What a command gave: its exit code, what it wrote, and the last line of all."""

    code: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        return (self.out + self.err).splitlines()[-1]


async def run(capsys: pytest.CaptureFixture[str], url: str, *words: str) -> Ran:
    """Run a command in a thread, as it waits by blocking; the address stands last."""
    code = await asyncio.to_thread(ctl.main, [*words, "--url", url])
    captured = capsys.readouterr()
    return Ran(code, captured.out, captured.err)
