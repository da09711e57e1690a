"""A gateway whose streams wait to be struck, and then go on as a test wants them to."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from runtime.chaos.client import Patience
from runtime.chaos.run import ChaosRun, Settings
from runtime.chaos.site import Site
from runtime.chaos.striking import Striker
from runtime.gateway.backend import GenerationRequest, TokenBatch
from runtime.gateway.generation import ModelFacts
from tests.runtime.gateway.scripted import ScriptedBackend, ScriptedOperator, Step, gateway

NUM_STREAMS, NUM_TOKENS, AT_TOKEN = 4, 12, 5
SETTINGS = Settings(
    num_streams=NUM_STREAMS,
    num_tokens=NUM_TOKENS,
    at_token=AT_TOKEN,
    patience=Patience(silence_s=10.0, stream_s=15.0, settle_s=5.0),
)
NOTE = TokenBatch((), None, "recovered stage=1 gap_ms=3")
MODEL = ModelFacts(name="horse", max_len=4096, eos_token_ids=(256,))
Rest = Callable[[list[TokenBatch]], Iterable[Step]]


def goes_on(rest: list[TokenBatch]) -> Iterable[Step]:
    """What a stream gives after a strike, if nothing suffers."""
    return [NOTE, *rest]


def answer(request: GenerationRequest) -> list[TokenBatch]:
    """A letter a token, the same for the same request."""
    letters = random.Random(request.seed).choices(b"abcdefgh", k=request.max_tokens)
    return [*(TokenBatch((letter,), None) for letter in letters), TokenBatch((), "length")]


@dataclass
class StruckService(ScriptedBackend):
    """Answers undisturbed once; from then on the first stream of each run waits for a strike.

    Attributes:
        after: what a stream gives after the strike, instead of what is left of it.
        dead: processes that do not live.
        signals: what was sent to whom.
    """

    after: Rest = goes_on
    dead: set[int] = field(default_factory=set)
    signals: list[tuple[int, signal.Signals]] = field(default_factory=list)
    struck: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.script = self.play

    def play(self, request: GenerationRequest) -> Iterable[Step]:
        steps = answer(request)
        turn, index = divmod(len(self.requests) - 1, NUM_STREAMS)
        if turn == 0:
            return steps
        first, rest = steps[:AT_TOKEN], steps[AT_TOKEN:]
        if index == 0:
            self.struck.clear()
        return [*first, self.struck, *self.after(rest)]

    def send_signal(self, pid: int, number: signal.Signals) -> None:
        self.signals.append((pid, number))
        self.struck.set()

    def command_line(self, pid: int) -> str:
        return "" if pid in self.dead else "runtime.process"

    async def status(self) -> dict[str, Any]:
        stages = [{"stage": 0, "pid": 10}, {"stage": 1, "pid": 11}]
        coordinator = {"role": "coordinator", "name": "coordinator", "pid": 1}
        return {
            "model": "horse",
            "epoch": 7,
            "missing": [],
            "requests": {"running": 0, "waiting": 0},
            "pipelines": [{"id": "0", "stages": stages}],
            "processes": [coordinator],
        }


@dataclass
class DisturbedLinks(ScriptedOperator):
    """An operator whose links can be disturbed; that is the strike."""

    service: StruckService = field(default_factory=StruckService)

    def _take(self, order: Any) -> Any:
        self.service.struck.set()
        return super()._take(order)


@asynccontextmanager
async def struck_service(
    service: StruckService, operator: ScriptedOperator | None = None
) -> AsyncIterator[str]:
    """The address of a gateway in front of it."""
    async with gateway(service, operator=operator, model=MODEL) as client:
        yield client.url


@asynccontextmanager
async def chaos(
    service: StruckService,
    operator: ScriptedOperator | None = None,
    settings: Settings = SETTINGS,
) -> AsyncIterator[ChaosRun]:
    """A chaos run against it, whose signals it gets itself."""
    async with struck_service(service, operator) as url, aiohttp.ClientSession() as session:
        site = Site(session, url)
        striker = Striker(site, send_signal=service.send_signal, command_line=service.command_line)
        yield ChaosRun(site, striker, settings, seed=7)
