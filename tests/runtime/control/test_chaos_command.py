"""`ctl chaos`: what it prints, and when it fails."""

import json
from collections.abc import Iterable
from typing import Any

import pytest

from runtime.chaos import processes
from runtime.chaos.report import FAULTS
from runtime.gateway.backend import TokenBatch
from runtime.gateway.operator import LinkFault, Unsupported
from tests.runtime.chaos.struck import (
    AT_TOKEN,
    NUM_STREAMS,
    NUM_TOKENS,
    DisturbedLinks,
    StruckService,
    struck_service,
)
from tests.runtime.control.ordered import Ran, run
from tests.runtime.gateway.scripted import Step

LOAD = ["--streams", str(NUM_STREAMS), "--max-tokens", str(NUM_TOKENS), "--at-token", str(AT_TOKEN)]
Capture = pytest.CaptureFixture[str]


async def struck(service: StruckService, capsys: Capture, *words: str, operator: Any = None) -> Ran:
    async with struck_service(service, operator) as url:
        return await run(capsys, url, "chaos", *words, *LOAD)


def loses(rest: list[TokenBatch]) -> Iterable[Step]:
    return rest[1:]


async def test_a_clean_run_is_a_line_for_each_strike_and_a_table(capsys: Capture) -> None:
    service = StruckService()
    operator = DisturbedLinks(service=service)
    words = ["--slow-link", "a|b", "--partition", "b|c", "--for", "2"]
    ran = await struck(service, capsys, *words, operator=operator)
    assert (ran.code, ran.err) == (0, "")
    first, second, head, *rows = ran.out.splitlines()
    assert first == "partition b|c for 2 s at token 5: clean"
    assert second == "slow-link a|b for 2 s at token 5: clean"
    assert head.split()[:7] == ["strike", "streams", *FAULTS]
    assert [row.split()[-11:-2] for row in rows] == [
        ["5", "4", "0", "0", "0", "0", "0", "0", "4"],
        ["5", "4", "0", "0", "0", "0", "0", "0", "4"],
        ["2", "8", "0", "0", "0", "0", "0", "0", "8"],
    ]


async def test_reports_as_json_are_all_that_is_written(capsys: Capture) -> None:
    service = StruckService(after=loses)
    operator = DisturbedLinks(service=service)
    ran = await struck(service, capsys, "--slow-link", "a|b", "--json", operator=operator)
    assert ran.code == 1
    told = json.loads(ran.out)
    (strike,) = told["strikes"]
    assert strike["what"] == "slow-link a|b for 5 s at token 5"
    assert (strike["streams"], strike["lost"], strike["errors"]) == (4, 4, 0)
    assert told["in_all"]["lost"] == 4
    assert ran.last_line == "error: streams suffered: lost 4"


async def test_a_run_that_breaks_off_still_tells_what_it_saw(capsys: Capture) -> None:
    class Once(DisturbedLinks):
        async def fault(self, fault: LinkFault) -> None:
            if self.taken:
                raise Unsupported("not twice")
            await super().fault(fault)

    service = StruckService()
    words = ["--slow-link", "a|b", "--slow-link", "b|c"]
    ran = await struck(service, capsys, *words, operator=Once(service=service))
    assert (ran.code, ran.last_line) == (1, "error: not twice")
    assert ran.out.splitlines()[-1].startswith("in all 1")


async def test_a_run_in_which_streams_suffer_fails_and_says_how_on_the_last_line(
    capsys: Capture,
) -> None:
    service = StruckService(after=loses)
    operator = DisturbedLinks(service=service)
    ran = await struck(service, capsys, "--slow-link", "a|b", operator=operator)
    assert ran.code == 1
    assert ran.last_line == "error: streams suffered: lost 4"
    assert ran.out.splitlines()[-1].split()[:5] == ["in", "all", "1", "4", "4"]


async def test_processes_are_struck_by_what_the_status_lists_and_nobody_elses(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "command_line", lambda pid: "somebody else")
    ran = await struck(StruckService(), capsys, "--kill", "stage:1")
    expected = "error: process 11 is no process of a service on this machine"
    assert (ran.code, ran.last_line) == (1, expected)


async def test_a_service_on_another_machine_is_refused(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = await run(capsys, "http://192.0.2.1:1", "chaos", "--kill", "stage:1")
    assert ran.code == 1
    assert ran.last_line.startswith("error: the service at '192.0.2.1' is not on this machine")


@pytest.mark.parametrize("words", [[], ["--kill", "stage:1", "--minutes", "1"]])
async def test_strikes_are_either_named_or_random(capsys: Capture, words: list[str]) -> None:
    service = StruckService()
    ran = await struck(service, capsys, *words)
    assert (ran.code, service.requests) == (1, [])
    assert "say what to strike" in ran.last_line


async def test_a_strike_behind_the_end_of_the_streams_is_refused(capsys: Capture) -> None:
    async with struck_service(StruckService()) as url:
        words = ["--kill", "stage:1", "--max-tokens", "40", "--at-token", "40"]
        ran = await run(capsys, url, "chaos", *words)
    assert ran.last_line == "error: --at-token 40 is not within 40 tokens"


@pytest.mark.parametrize(
    "words",
    [
        ["--partition", "a"],
        ["--partition", "a|"],
        ["--partition", "a|b|c"],
        ["--slow-link", "a|a"],
        ["--kill", "stage:1", "--for", "0"],
        ["--kill", "stage:1", "--streams", "0"],
        ["--kill", "stage:1", "--streams", "²"],
    ],
)
async def test_a_strike_that_is_mistyped_ends_with_two(capsys: Capture, words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        await run(capsys, "http://127.0.0.1:1", "chaos", *words)
    assert ended.value.code == 2


async def test_how_slow_a_link_is_goes_along_with_the_order(capsys: Capture) -> None:
    service = StruckService()
    operator = DisturbedLinks(service=service)
    words = ["--slow-link", "a|b", "--latency", "0.5", "--rate", "2"]
    assert (await struck(service, capsys, *words, operator=operator)).code == 0
    (order,) = operator.taken
    assert order == LinkFault(
        kind="slow-link", a="a", b="b", for_s=5.0, latency_s=0.5, bytes_per_s=2e6
    )


@pytest.mark.parametrize("words", [("--latency", "1"), ("--rate", "1")])
async def test_how_slow_no_link_is_is_refused(capsys: Capture, words: tuple[str, str]) -> None:
    ran = await struck(StruckService(), capsys, "--partition", "a|b", *words)
    assert (ran.code, ran.last_line.count("there is none")) == (1, 1)


async def test_a_link_to_nobody_is_refused_before_any_request_is_sent(capsys: Capture) -> None:
    service = StruckService()
    operator = DisturbedLinks(service=service)
    ran = await struck(service, capsys, "--partition", "a|ghost", operator=operator)
    assert ran.code == 1
    assert ran.last_line == ("error: the service has no ghost; there are node:a, node:b, node:c")
    assert service.requests == []


async def test_links_that_must_stay_whole_are_refused_before_any_request_is_sent(
    capsys: Capture,
) -> None:
    service = StruckService()
    operator = DisturbedLinks(service=service, can_disturb=False)
    ran = await struck(service, capsys, "--partition", "a|b", operator=operator)
    assert (ran.code, ran.last_line) == (1, "error: links cannot be disturbed here")
    assert service.requests == []
