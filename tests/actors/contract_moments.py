"""When the failure contract strikes: told by the coroutine with which the moment begins."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from actors.mender import Mender
from actors.stage import StageActor
from actors.stage_change import _Change
from actors.step_ring import StepRing
from tests.actors.emulated_service import Service

SWAP_PHASES = ("prepare", "copy", "pause", "delta", "commit", "release")
MIN_DECODED = 3
"""So many tokens and a request is past its prompt."""

BEGINNINGS: dict[str, tuple[type, str]] = {
    "prefill": (StageActor, "_start"),
    "prepare": (StageActor, "_assign"),
    "copy": (_Change, "_copy_live"),
    "pause": (StepRing, "drained"),
    "delta": (_Change, "_copy"),
    "commit": (StepRing, "commit"),
    "release": (Mender, "_release"),
}
"""What is called when a moment begins; a delta is a copy in the phase of that name."""


class Moment:
    """One moment in the life of a service, at which `strike` is called once."""

    def __init__(self, name: str, strike: Callable[[], None]) -> None:
        self.name = name
        self.num_strikes = 0
        self._strike = strike
        self._is_armed = False
        self._reached = asyncio.Event()

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Strike at the next beginning after `arm`."""
        if self.name not in BEGINNINGS:
            return
        owner, method = BEGINNINGS[self.name]
        original = getattr(owner, method)

        def begins(actor: Any, *arguments: Any) -> Any:
            if self.name != "delta" or actor.phase == "delta":
                self._begin()
            return original(actor, *arguments)

        monkeypatch.setattr(owner, method, begins)

    def arm(self) -> None:
        """From now on."""
        self._is_armed = True

    def _begin(self) -> None:
        if self._is_armed:
            self._is_armed = False
            asyncio.get_running_loop().call_soon(self._strike_now)

    def _strike_now(self) -> None:
        self._strike()
        self.num_strikes += 1
        self._reached.set()

    async def reached(self, world: Service) -> None:
        """Wait until it was struck."""
        if self.name == "decode":
            await decoding(world)
        if self.name not in BEGINNINGS:
            self._strike_now()
        async with asyncio.timeout(60):
            await self._reached.wait()


async def decoding(world: Service) -> None:
    """Wait until some request is past its prompt and has most of its tokens to come."""
    await world.until(
        lambda world: any(len(s.delivered) >= MIN_DECODED for s in world.router.streams)
    )
