"""One seed gives one trace, and whatever happens, nothing is left unpaid."""

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.kernel.virtual_time import run
from tests.actors.kernel.chaos import Chaos, play_on
from tests.actors.kernel.worlds import InstantWorld

MAX_DELAY_S = 0.2

seeds = st.integers(0, 2**32)


class SlowWorld(InstantWorld):
    """A wire whose frames are under way for random times."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.network.delay = lambda: rng.random() * MAX_DELAY_S

    def lose(self, name: str) -> None:
        self.network.lose(name)

    def meddle(self) -> None:
        """An instant wire does nothing by itself."""


async def chaos(rng: random.Random) -> Chaos:
    return await play_on(SlowWorld(rng))


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_every_ask_ends_once_and_every_watch_leads_to_one_down(seed: int) -> None:
    played = run(chaos, seed=seed)
    assert played.num_outcomes == played.num_asks
    assert Counter(down.ref for down in played.watcher.downs) == played.watched


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_one_seed_gives_one_trace(seed: int) -> None:
    assert run(chaos, seed=seed).trace == run(chaos, seed=seed).trace


def test_different_seeds_give_different_traces() -> None:
    traces = [str(run(chaos, seed=seed).trace) for seed in range(5)]
    assert len(set(traces)) == 5
