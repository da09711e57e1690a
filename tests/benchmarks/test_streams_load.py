"""The load of many streams: what is counted, and which figures are not as they should be."""

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.clients import Tally, hold, offer, open_session, stream_once
from benchmarks.fairness import growth, jain, spread
from benchmarks.load import Target
from benchmarks.residents import Residents
from benchmarks.streams_load import (
    Offered,
    draw,
    faults_of_hold,
    faults_of_overload,
    report_of_hold,
)
from runtime.gateway.backend import GenerationError, Overloaded
from tests.runtime.gateway.scripted import MODEL, PATIENCE_S, ScriptedBackend, batch, gateway, says


def test_the_index_of_jain_is_one_where_all_have_the_same_and_less_otherwise() -> None:
    assert jain([5, 5, 5, 5]) == 1
    assert jain([8, 0, 0, 0]) == 0.25
    assert 0.25 < jain([5, 5, 5, 1]) < 1
    assert jain([0, 0]) == 1


def test_memory_grows_where_its_last_quarter_is_above_the_one_before() -> None:
    assert growth([50, 80, 100, 100, 100, 100, 100, 100]) == 0
    assert growth([100] * 12 + [110] * 4) == pytest.approx(0.1)
    assert growth([100] * 11 + [900] + [100] * 4) == 0  # one peak
    assert growth([1, 2, 3]) == 0


async def outcome_of(backend: ScriptedBackend) -> Tally:
    tally = Tally()
    async with gateway(backend) as client, open_session() as session:
        target = Target(url=client.url, model=MODEL.name, new=8)
        await stream_once(session, target, "Once", tally, time.perf_counter() + PATIENCE_S)
    return tally


async def test_a_whole_stream_is_counted_with_its_tokens() -> None:
    tally = await outcome_of(ScriptedBackend(says("grass", "!")))
    assert tally.outcomes == Counter(whole=1)
    assert (tally.num_tokens, tally.whole_tokens, len(tally.first_s)) == (6, 6, 1)
    assert tally.num_errors == 0


async def test_a_stream_that_breaks_is_an_error_and_its_tokens_are_no_goodput() -> None:
    lost = GenerationError("stage 1 was lost", kind="stage_lost")
    tally = await outcome_of(ScriptedBackend(lambda _: [batch("half"), lost]))
    assert (tally.outcomes["broken"], tally.num_errors) == (1, 1)
    assert (tally.num_tokens, tally.whole_tokens) == (4, 0)


@pytest.mark.parametrize(
    ("refusal", "name", "num_errors"),
    [
        (Overloaded("full", retry_after_s=1), "refused", 0),
        (GenerationError("a bug", kind="internal_error"), "status 500", 1),
    ],
)
async def test_a_refusal_is_honest_and_another_status_an_error(
    refusal: Exception, name: str, num_errors: int
) -> None:
    tally = await outcome_of(ScriptedBackend(refusal=refusal))
    assert tally.outcomes == Counter({name: 1})
    assert tally.num_errors == num_errors


async def test_streams_that_are_held_begin_anew_until_the_time_is_over() -> None:
    backend = ScriptedBackend(says("grass"))
    async with gateway(backend) as client:
        target = Target(url=client.url, model=MODEL.name, new=8)
        tallies = await hold(target, 3, 0.3)
    assert len(tallies) == 3
    assert all(tally.outcomes["whole"] > 1 for tally in tallies)
    assert all(tally.num_errors == 0 for tally in tallies)


async def test_requests_that_are_offered_come_whatever_became_of_those_before() -> None:
    backend = ScriptedBackend(refusal=Overloaded("full", retry_after_s=1), max_requests=2)
    async with gateway(backend) as client:
        target = Target(url=client.url, model=MODEL.name, new=8)
        tally = await offer(target, 50, 0.4, random.Random(1))
    assert tally.outcomes["whole"] == 2
    assert tally.outcomes["refused"] > 2
    assert tally.num_offered >= sum(tally.outcomes.values())


def report(tokens: list[int], samples: list[int], **outcomes: int) -> list[str]:
    tallies = [Tally(outcomes=Counter(whole=1), num_tokens=n) for n in tokens]
    tallies[0].outcomes.update(outcomes)
    residents = Residents({}, {"gateway": samples})
    return faults_of_hold(report_of_hold(tallies, residents, 10))


def test_what_is_not_as_it_should_be_is_named() -> None:
    steady = [100] * 16
    assert report([50, 50, 49], steady) == []
    assert "grew by 20.0%" in report([50, 50], [100] * 12 + [120] * 4)[0]
    assert "1 streams failed" in report([50, 50], steady, broken=1)[0]
    assert "1 were refused" in report([50, 50], steady, refused=1)[0]
    assert "Jain's index" in report([100, 1], steady)[0]


def point(factor: float, goodput: float, num_errors: int = 0) -> Offered:
    return Offered(
        factor=factor,
        offered_per_s=factor,
        whole_per_s=goodput,
        goodput_tokens_per_s=goodput,
        refused_per_s=0,
        num_errors=num_errors,
        first_median_s=0,
    )


def test_goodput_may_not_fall_where_more_is_offered_than_can_be_done() -> None:
    assert faults_of_overload([point(0.5, 50), point(1, 100), point(2, 95), point(4, 96)]) == []
    [fault] = faults_of_overload([point(0.5, 100), point(1, 100), point(2, 60)])
    assert "fell from 100 tokens/s at 1x to 60 at 2x" in fault
    assert faults_of_overload([point(1, 9, num_errors=3)]) == ["3 errors at 1x"]


def test_the_curve_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is of the extra `plot`")
    draw([point(1, 2), point(2, 2)], tmp_path / "curve.svg")
    assert "<svg" in (tmp_path / "curve.svg").read_text(encoding="utf-8")


def test_the_spread_of_values_is_their_least_middle_and_most() -> None:
    assert str(spread([3, 1, 2])) == "1 / 2 / 3"
