"""Whole chaos runs against a gateway on loopback, whose streams do after a strike what we say."""

import signal
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from runtime.chaos import schedule
from runtime.chaos.client import Patience
from runtime.chaos.report import FAULTS, Report
from runtime.chaos.run import ChaosRun
from runtime.chaos.strikes import Disturb, Kill, Pause, Strike
from runtime.control.service import CommandFailed
from runtime.gateway.backend import GenerationError, TokenBatch
from runtime.gateway.operator import Unavailable
from tests.runtime.chaos.struck import (
    NUM_STREAMS,
    NUM_TOKENS,
    SETTINGS,
    DisturbedLinks,
    Rest,
    StruckService,
    chaos,
)
from tests.runtime.gateway.scripted import REPORT, ScriptedOperator, Step

KILL = Kill("stage:1")


async def reports(run: ChaosRun, *strikes: Strike) -> list[Report]:
    return [report async for report in run.strikes(strikes)]


async def struck(after: Rest, settings: Any = SETTINGS) -> Report:
    async with chaos(StruckService(after=after), settings=settings) as run:
        (report,) = await reports(run, KILL)
    return report


def loses(rest: list[TokenBatch]) -> Iterable[Step]:
    return rest[1:]


def repeats(rest: list[TokenBatch]) -> Iterable[Step]:
    return [rest[0], rest[0], *rest[1:]]


def errs(rest: list[TokenBatch]) -> Iterable[Step]:
    return [TokenBatch((ord("X"),), None), *rest[1:]]


def fails(rest: list[TokenBatch]) -> Iterable[Step]:
    return [GenerationError("stage 1 was lost", kind="stage_lost")]


async def test_streams_that_go_on_as_if_nothing_had_been_are_clean() -> None:
    service = StruckService()
    async with chaos(service) as run:
        (report,) = await reports(run, KILL)
    assert report.is_clean
    assert report.what == "kill stage:1 at token 5"
    assert (report.streams, report.recoveries) == (NUM_STREAMS, NUM_STREAMS)
    assert service.signals == [(11, signal.SIGKILL)]


async def test_every_run_sends_the_same_requests_half_of_them_greedy() -> None:
    service = StruckService()
    async with chaos(service) as run:
        await reports(run, KILL, KILL)
    turns = [service.requests[at : at + NUM_STREAMS] for at in range(0, 3 * NUM_STREAMS, 4)]
    sent = [sorted((r.token_ids, r.seed, r.temperature) for r in turn) for turn in turns]
    assert sent[0] == sent[1] == sent[2]
    assert [temperature for _, _, temperature in sent[0]].count(0.0) == NUM_STREAMS // 2


@pytest.mark.parametrize(
    ("after", "fault"), [(loses, "lost"), (repeats, "repeated"), (errs, "wrong"), (fails, "errors")]
)
async def test_streams_that_suffer_are_counted_as_what_they_suffered(
    after: Rest, fault: str
) -> None:
    report = await struck(after)
    counts = {name: getattr(report, name) for name in FAULTS}
    assert counts == dict.fromkeys(FAULTS, 0) | {fault: NUM_STREAMS}


async def test_a_pause_is_ended_whatever_becomes_of_the_process() -> None:
    service = StruckService()
    async with chaos(service) as run:
        (report,) = await reports(run, Pause("stage:0", 0.01))
    assert report.is_clean
    assert service.signals == [(10, signal.SIGSTOP), (10, signal.SIGCONT)]


async def test_a_paused_process_that_the_service_ended_needs_no_waking() -> None:
    class Ended(StruckService):
        def send_signal(self, pid: int, number: signal.Signals) -> None:
            super().send_signal(pid, number)
            if number is signal.SIGCONT:
                raise CommandFailed("no such process")

    async with chaos(Ended()) as run:
        (report,) = await reports(run, Pause("stage:0", 0.01))
    assert report.is_clean


async def test_links_are_disturbed_by_the_service_itself() -> None:
    service = StruckService()
    operator = DisturbedLinks(service=service)
    async with chaos(service, operator) as run:
        (report,) = await reports(run, Disturb("slow-link", "a", "b", 2.0))
    assert report.is_clean
    assert service.signals == []
    assert [(fault.kind, fault.a, fault.b, fault.for_s) for fault in operator.taken] == [
        ("slow-link", "a", "b", 2.0)
    ]


async def test_a_service_that_cannot_disturb_its_links_says_so_and_the_run_ends() -> None:
    async with chaos(StruckService(), ScriptedOperator(can_disturb=False)) as run:
        with pytest.raises(CommandFailed, match="links cannot be disturbed here"):
            await reports(run, Disturb("partition", "a", "b", 2.0))


async def test_a_target_that_is_not_there_is_refused_before_any_load() -> None:
    service = StruckService()
    async with chaos(service) as run:
        with pytest.raises(CommandFailed, match="no process stage:7"):
            await reports(run, KILL, Kill("stage:7"))
    assert service.requests == []


async def test_a_strike_that_never_came_is_no_success() -> None:
    settings = replace(SETTINGS, at_token=NUM_TOKENS + 1)
    service = StruckService()
    service.struck.set()
    service.script = lambda request: [TokenBatch((97,), "length")]
    async with chaos(service, settings=settings) as run:
        with pytest.raises(CommandFailed, match="the first stream ended before its token 13"):
            await reports(run, KILL)
    assert service.signals == []


async def test_a_signal_that_cannot_be_sent_ends_the_run_and_its_streams() -> None:
    class Untouchable(StruckService):
        def send_signal(self, pid: int, number: signal.Signals) -> None:
            raise CommandFailed(f"cannot signal process {pid}")

    service = Untouchable()
    async with chaos(service) as run:
        with pytest.raises(CommandFailed, match="cannot signal process 11"):
            await reports(run, KILL)
        for stream in service.streams:
            await stream.closed.wait()


async def test_requests_that_fail_undisturbed_are_not_blamed_on_a_strike() -> None:
    service = StruckService()
    service.script = lambda request: [GenerationError("no room", kind="rejected")]
    async with chaos(service) as run:
        with pytest.raises(CommandFailed, match="before anything was struck: 400: no room"):
            await reports(run, KILL)
    assert service.signals == []


async def test_a_service_that_is_slow_undisturbed_is_not_struck() -> None:
    async with chaos(StruckService(), settings=replace(SETTINGS, max_gap_s=0.0)) as run:
        with pytest.raises(CommandFailed, match="late before anything was struck"):
            await reports(run, KILL)


async def test_a_service_that_is_not_whole_again_is_a_failure_that_names_who_is_gone() -> None:
    settings = replace(SETTINGS, patience=Patience(stream_s=15.0, settle_s=0.3))
    async with chaos(StruckService(dead={11, 1}), settings=settings) as run:
        with pytest.raises(CommandFailed, match=r"not whole again .*: stage:1 is gone"):
            await reports(run, KILL)


@pytest.fixture
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "MIN_PAUSE_S", 0.0)
    monkeypatch.setattr(schedule, "MAX_PAUSE_S", 0.01)


@pytest.mark.usefixtures("_short_pauses")
async def test_random_strikes_go_on_until_the_time_is_over_and_come_at_least_once() -> None:
    settings = replace(SETTINGS, num_tokens=2)
    async with chaos(StruckService(), settings=settings) as run:
        assert len([report async for report in run.randomly(minutes=1e-9)]) == 1
    service = StruckService()
    async with chaos(service, settings=settings) as run, aclosing(run.randomly(60.0)) as coming:
        several = [await anext(coming) for _ in range(5)]
    assert all(report.is_clean for report in several)
    assert {pid for pid, _ in service.signals} <= {1, 10, 11}
    assert len(service.signals) >= 5


@pytest.mark.usefixtures("_short_pauses")
async def test_random_strikes_leave_processes_of_other_machines_alone() -> None:
    service = StruckService(dead={1, 10})
    settings = replace(SETTINGS, num_tokens=2)
    async with chaos(service, settings=settings) as run, aclosing(run.randomly(60.0)) as coming:
        for _ in range(4):
            await anext(coming)
    assert {pid for pid, _ in service.signals} == {11}


async def test_where_no_process_is_here_nothing_is_struck_at_random() -> None:
    service = StruckService(dead={1, 10, 11})
    async with chaos(service) as run:
        with pytest.raises(CommandFailed, match="no process of the service is on this machine"):
            await anext(run.randomly(60.0))
    assert service.signals == []


class Layered(StruckService):
    """Its stages tell their layers, so that they can be swapped."""

    async def status(self) -> dict[str, Any]:
        status = await super().status()
        for stage, layers in zip(status["pipelines"][0]["stages"], [[0, 5], [5, 12]], strict=True):
            stage["layers"] = layers
        return status


@pytest.mark.usefixtures("_only_swaps")
async def test_swaps_are_among_the_random_strikes_and_are_orders_to_the_service() -> None:
    service = Layered()
    operator = DisturbedLinks(service=service)
    settings = replace(SETTINGS, num_tokens=2)
    async with chaos(service, operator, settings) as run, aclosing(run.randomly(60.0)) as coming:
        report = await anext(coming)
    (wish,) = operator.taken
    assert report.is_clean
    assert report.what == f"swap 0 to {wish.layers} at token 1"
    assert wish.pipeline == "0"
    assert service.signals == []


@pytest.mark.usefixtures("_only_swaps")
async def test_a_swap_that_is_refused_is_told_and_no_fault() -> None:
    service = Layered()
    refusal = replace(REPORT, done=False, reason="it is being mended")
    operator = DisturbedLinks(service=service, report=refusal)
    settings = replace(SETTINGS, num_tokens=2)
    async with chaos(service, operator, settings) as run, aclosing(run.randomly(60.0)) as coming:
        report = await anext(coming)
    assert report.is_clean
    assert report.what.endswith(" at token 1 (refused: it is being mended)")


@pytest.mark.usefixtures("_only_swaps")
async def test_a_service_that_nobody_decides_for_ends_a_run_that_swaps() -> None:
    service = Layered()
    operator = DisturbedLinks(service=service, refusal=Unavailable("the coordinator is gone"))
    settings = replace(SETTINGS, num_tokens=2)
    async with chaos(service, operator, settings) as run:
        with pytest.raises(CommandFailed, match="the coordinator is gone"):
            await anext(run.randomly(60.0))


@pytest.fixture
def _only_swaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "SWAPS_SHARE", 1.0)
