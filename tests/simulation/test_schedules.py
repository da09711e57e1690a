"""Whatever happens to a service, no token is wrong and nothing is left over."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.play import play
from tests.simulation.run import failure, summary
from tests.simulation.schedules import schedule_of

NUM_SEEDS = 64
CHUNK = 8
ONCE_FAILED = (256, 808)
"""A request moved to where its router was out of reach; a pipeline was looked for without end."""


@pytest.mark.parametrize("first", [*range(0, NUM_SEEDS, CHUNK), *ONCE_FAILED])
def test_no_schedule_makes_a_token_wrong_or_leaves_anything_behind(first: int) -> None:
    outcomes = [play(schedule_of(seed)) for seed in range(first, first + CHUNK)]
    failed = [failure(outcome) for outcome in outcomes if outcome.problems]
    assert not failed, "\n\n".join([*failed, summary(outcomes)])
    assert sum(outcome.counts for outcome in outcomes) >= CHUNK // 2, summary(outcomes)


NUM_PHASED_SEEDS = 16


@pytest.mark.parametrize("first", range(0, NUM_PHASED_SEEDS, CHUNK))
def test_no_schedule_with_phases_apart_makes_a_token_wrong_or_leaves_anything_behind(
    first: int,
) -> None:
    seeds = range(first, first + CHUNK)
    outcomes = [play(schedule_of(seed, phased=True)) for seed in seeds]
    failed = [failure(outcome) for outcome in outcomes if outcome.problems]
    assert not failed, "\n\n".join([*failed, summary(outcomes)])
    assert sum(outcome.counts for outcome in outcomes) >= CHUNK // 2, summary(outcomes)
    assert sum(outcome.num_handed_off for outcome in outcomes) >= 4 * CHUNK, summary(outcomes)


SEEDS_TWICE = range(NUM_SEEDS, NUM_SEEDS + 6)


@pytest.mark.parametrize("seed", SEEDS_TWICE)
def test_one_seed_gives_one_trace(seed: int) -> None:
    assert play(schedule_of(seed)).trace == play(schedule_of(seed)).trace


def test_another_seed_gives_another_schedule_and_another_trace() -> None:
    assert len({str(schedule_of(seed).events) for seed in range(100)}) == 100
    assert len({str(play(schedule_of(seed)).trace) for seed in range(3)}) == 3


def replayed(seed: int, hash_seed: str) -> str:
    """What a process of its own prints of a seed, with an order of sets of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation.run", "--seed", str(seed)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    ).stdout


@pytest.mark.parametrize("seed", [2, 3])
def test_a_replay_in_another_process_is_the_same(seed: int) -> None:
    first = replayed(seed, "1")
    assert f"seed {seed}: " in first
    assert first == replayed(seed, "2") == replayed(seed, "3")
