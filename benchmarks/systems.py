"""The systems under measurement, behind one small face: run a burst, give tokens per second."""

import asyncio
import json
import queue
import subprocess
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

from benchmarks.checkpoint import VOCAB_SIZE
from benchmarks.load import Target, send_burst
from benchmarks.prompts import make_prompts
from benchmarks.service import get_json, running_service

PEERS = Path(__file__).with_name("peers.py")
LOAD_TIMEOUT_S = 600.0
RUN_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 30.0


class Unavailable(Exception):
    """A peer system does not run here; the text holds the end of what it said."""


@dataclass(frozen=True, slots=True)
class Burst:
    """`count` prompts of `length` tokens, each to be continued by `new`."""

    count: int
    length: int
    new: int
    seed: int


class System(Protocol):
    """A loaded system."""

    def run(self, burst: Burst) -> float:
        """Run a burst; output tokens per second."""
        ...


class Remuda:
    """Our own service, in processes of its own, asked over HTTP."""

    def __init__(self, model: str, arguments: list[str]) -> None:
        self._arguments = ["--model", model, *arguments]
        self._running = ExitStack()
        self.url = ""

    def __enter__(self) -> Self:
        self.url = self._running.enter_context(running_service(*self._arguments))
        self._model = get_json(f"{self.url}/v1/models")["data"][0]["id"]
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def run(self, burst: Burst) -> float:
        """One burst over HTTP."""
        target = Target(url=self.url, model=self._model, new=burst.new)
        prompts = make_prompts(burst.count, burst.length, VOCAB_SIZE, burst.seed)
        return asyncio.run(send_burst(target, prompts)).rate


class Peer:
    """Another system, in an interpreter that has it, asked a line at a time."""

    def __init__(self, name: str, python: str, model: str, arguments: Sequence[str] = ()) -> None:
        self._name = name
        self._command = [python, str(PEERS), name, model, "--vocab", str(VOCAB_SIZE), *arguments]
        self._answers: queue.Queue[str] = queue.Queue(maxsize=64)
        self._complaints = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._streams = (self._process.stdout, self._process.stderr)
        self._readers = [
            threading.Thread(target=read, args=(stream,), daemon=True)
            for read, stream in zip(
                (self._read_answers, self._read_complaints), self._streams, strict=True
            )
        ]
        for reader in self._readers:
            reader.start()
        try:
            self._answer(LOAD_TIMEOUT_S)
        except Unavailable:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def run(self, burst: Burst) -> float:
        """One burst, called directly in its process."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(burst)) + "\n")
        self._process.stdin.flush()
        found = self._answer(RUN_TIMEOUT_S)
        return float(found["tokens"]) / float(found["seconds"])

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            raise Unavailable(f"{self._name} took longer than {timeout_s:.0f} s") from None
        if not line:
            self._readers[1].join(STOP_TIMEOUT_S)
            raise Unavailable(f"{self._name} does not run here: {self._complaints[-300:].strip()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _read_answers(self, stream: IO[str]) -> None:
        for line in stream:
            self._answers.put(line)
        self._answers.put("")

    def _read_complaints(self, stream: IO[str]) -> None:
        for line in stream:
            self._complaints = (self._complaints + line)[-4000:]

    def _stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT_S)
        for reader, stream in zip(self._readers, self._streams, strict=True):
            reader.join(STOP_TIMEOUT_S)
            stream.close()
