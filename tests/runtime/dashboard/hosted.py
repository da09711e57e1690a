"""A scripted gateway in a thread of its own, that a browser in this one can look at."""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from runtime.gateway.access import Access
from runtime.gateway.app import create_apps
from runtime.gateway.keys import KeyRing
from runtime.gateway.safeguards import Safeguards
from runtime.gateway.server import serving
from runtime.network import free_port
from runtime.telemetry.telemetry import Telemetry
from tests.runtime.gateway.guarded import api_key
from tests.runtime.gateway.scripted import (
    MODEL,
    AnyGrammar,
    ByteTokenizer,
    ScriptedBackend,
    ScriptedOperator,
)

PATIENCE_S = 20.0


def stage(
    number: int, start: int, end: int, node: str = "a", state: str = "ready"
) -> dict[str, Any]:
    return {
        "stage": number,
        "node": node,
        "device": "cpu",
        "layers": [start, end],
        "pid": 100 + number,
        "kv_blocks": 64,
        "weight_bytes": 1_000_000,
        "resident_bytes": 2_000_000,
        "state": state,
    }


def served(*stages: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """A plan of one pipeline, as the page is told of it."""
    pipeline = {
        "id": "0",
        "epoch": 1,
        "state": "ready",
        "stages": list(stages) or [stage(0, 0, 6), stage(1, 6, 12, "b")],
        "last_change": None,
    }
    return {
        "model": MODEL.name,
        "epoch": 1,
        "ready": True,
        "missing": [],
        "nodes": ["a", "b"],
        "pipelines": [pipeline],
        "recoveries": 0,
        "swap": None,
        "processes": [],
        **changed,
    }


@dataclass
class Hosted:
    """What a gateway in a thread says and was told; `tell` runs something in its loop."""

    port: int
    backend: ScriptedBackend = field(default_factory=lambda: ScriptedBackend(served=served()))
    operator: ScriptedOperator = field(default_factory=ScriptedOperator)
    needs_key: bool = False
    telemetry: Telemetry | None = None
    loop: asyncio.AbstractEventLoop | None = None
    ending: asyncio.Event | None = None
    up: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def happened(self, kind: str, **facts: object) -> None:
        """Write down an event."""
        telemetry = self.telemetry
        assert telemetry is not None
        self.tell(lambda: telemetry.happened(kind, **facts))

    def tell(self, what: Callable[[], None]) -> None:
        assert self.loop is not None
        self.loop.call_soon_threadsafe(what)

    async def live(self) -> None:
        """One life of the gateway, until it is ended."""
        self.loop, self.ending = asyncio.get_running_loop(), asyncio.Event()
        self.telemetry = Telemetry(MODEL.name, clock=self.loop.time, wall_clock=time.time)
        ring = KeyRing((api_key("operator", "admin"),))
        access = Access(lambda: ring, self.loop.time, needs_key=self.needs_key, is_local=True)
        app = create_apps(
            self.backend,
            ByteTokenizer(),
            MODEL,
            grammars=AnyGrammar(),
            rng=random.Random(7),
            operator=self.operator,
            safeguards=Safeguards(access=access, telemetry=self.telemetry),
        ).together()
        async with serving(app, "127.0.0.1", self.port):
            self.up.set()
            await self.ending.wait()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve in a thread until the block ends."""
        self.up.clear()
        thread = threading.Thread(target=asyncio.run, args=(self.live(),))
        thread.start()
        try:
            assert self.up.wait(PATIENCE_S)
            yield
        finally:
            assert self.ending is not None
            self.tell(self.ending.set)
            thread.join(PATIENCE_S)


def hosted(**options: Any) -> Hosted:
    return Hosted(port=free_port("127.0.0.1"), **options)
