"""A chaos run: the right answers first, then the same requests while something is struck."""

import asyncio
import random
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field

from runtime.chaos.client import OnText, Patience, ask
from runtime.chaos.load import make_asks
from runtime.chaos.outcome import Outcome
from runtime.chaos.report import Report, make_report
from runtime.chaos.schedule import random_moment, random_strike
from runtime.chaos.site import Site
from runtime.chaos.strikes import Strike, is_gateway
from runtime.chaos.striking import Striker
from runtime.control.service import CommandFailed

GRACE_S = 10.0


def _ignore(num_texts: int) -> None:
    """Nobody counts this stream's texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What load is made, when it is struck, and how long a reader should wait for a token."""

    num_streams: int = 16
    num_tokens: int = 200
    at_token: int = 40
    max_gap_s: float = 10.0
    patience: Patience = field(default_factory=Patience)


class ChaosRun:
    """Runs against one service, all with the same requests."""

    def __init__(self, site: Site, striker: Striker, settings: Settings, seed: int) -> None:
        self._site = site
        self._striker = striker
        self._settings = settings
        self._rng = random.Random(seed)
        self._asks = make_asks(settings.num_streams, settings.num_tokens, self._rng)
        self._model = ""
        self._expected: Sequence[Outcome] = ()

    async def strikes(self, strikes: Iterable[Strike]) -> AsyncGenerator[Report, None]:
        """One run for each of some strikes."""
        strikes = list(strikes)
        for strike in strikes:
            await self._striker.check(strike)
        await self._learn()
        for strike in strikes:
            yield await self._run(strike, self._settings.at_token)

    async def randomly(self, minutes: float) -> AsyncGenerator[Report, None]:
        """Random strikes, one run after another, until the time is over; at least one."""
        await self._learn()
        now = asyncio.get_running_loop().time
        end = now() + minutes * 60
        while True:
            targets, splits = await self._striker.targets(), await self._striker.splits()
            ends = await self._striker.link_ends()
            strike = random_strike(targets, self._rng, splits, ends)
            yield await self._run(strike, random_moment(self._settings.num_tokens, self._rng))
            if now() >= end:
                return

    async def _learn(self) -> None:
        """Have every request answered undisturbed."""
        await self._site.wait_ready(self._settings.patience.settle_s)
        self._model = await self._site.model()
        self._expected = await self._ask_all()
        if failed := [outcome.error for outcome in self._expected if outcome.error]:
            raise CommandFailed(f"a request fails before anything was struck: {failed[0]}")
        longest_s = max(outcome.longest_gap_s for outcome in self._expected)
        if longest_s > self._settings.max_gap_s:
            raise CommandFailed(
                f"a token came {longest_s:.1f} s late before anything was struck: ask for fewer "
                f"--streams, or allow a longer --max-gap"
            )

    async def _run(self, strike: Strike, at_token: int) -> Report:
        moment = _Moment(at_token)
        try:
            async with asyncio.TaskGroup() as striking:
                struck = striking.create_task(self._strike(strike, moment))
                got = await self._ask_all(moment.on_text, asks_again=is_gateway(strike))
                moment.pass_by()
        except ExceptionGroup as faults:
            raise faults.exceptions[0] from None
        await self._striker.wait_whole(self._settings.patience.settle_s)
        refused = f" (refused: {struck.result()})" if struck.result() else ""
        what = f"{strike} at token {at_token}{refused}"
        return make_report(what, self._expected, got, self._settings.max_gap_s)

    async def _strike(self, strike: Strike, moment: "_Moment") -> str:
        async with asyncio.timeout(self._settings.patience.stream_s + GRACE_S):
            await moment.wait()
        return await self._striker.carry_out(strike)

    async def _ask_all(self, on_text: OnText = _ignore, asks_again: bool = False) -> list[Outcome]:
        """Send all requests at once; `on_text` hears of the first one."""
        patience = self._settings.patience
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(
                    ask(
                        self._site,
                        self._model,
                        one,
                        patience,
                        on_text=_ignore if index else on_text,
                        asks_again=asks_again,
                    )
                )
                for index, one in enumerate(self._asks)
            ]
        return [task.result() for task in asked]


class _Moment:
    """The time to strike: when the first stream has so many texts."""

    def __init__(self, at_token: int) -> None:
        self._at_token = at_token
        self._has_come = False
        self._is_over = asyncio.Event()

    def on_text(self, num_texts: int) -> None:
        """The first stream has so many by now."""
        if num_texts >= self._at_token:
            self._has_come = True
            self._is_over.set()

    def pass_by(self) -> None:
        """There will be no more texts."""
        self._is_over.set()

    async def wait(self) -> None:
        """Wait for it; raises `CommandFailed` if it never comes."""
        await self._is_over.wait()
        if not self._has_come:
            raise CommandFailed(
                f"nothing was struck: the first stream ended before its token {self._at_token}"
            )
