"""Orders from the command line to the operator behind a gateway, and back as lines."""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from runtime.control import change
from runtime.control.options import route
from runtime.gateway.operator import FlipWish, PlanWish, Unavailable
from tests.runtime.control.ordered import run
from tests.runtime.gateway.scripted import (
    REPORT,
    Client,
    ScriptedBackend,
    ScriptedOperator,
    gateway,
)

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def operator() -> ScriptedOperator:
    return ScriptedOperator()


@pytest.fixture
async def client(operator: ScriptedOperator) -> AsyncIterator[Client]:
    async with gateway(ScriptedBackend(), operator=operator) as client:
        yield client


@contextmanager
def foreign(body: bytes) -> Iterator[str]:
    """Somebody else's server, which takes any order."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        (["swap", "--layers", "0:5,5:12"], PlanWish(layers="0:5,5:12")),
        (["swap", "--stages", "3", "--pipeline", "1"], PlanWish(stages=3, pipeline="1")),
        (["swap", "--stages", "3", "--dry-run"], PlanWish(stages=3, dry_run=True)),
        (["drain", "a"], ("a", 30.0)),
        (["drain", "a", "--deadline", "5"], ("a", 5.0)),
        (["move", "r", "1"], ("r", "1")),
        (["flip", "0", "prefill"], FlipWish(phases={"0": "prefill"})),
        (
            ["flip", "0", "prefill", "1", "decode", "--route", "0:1=2", "--dry-run"],
            FlipWish(
                phases={"0": "prefill", "1": "decode"}, routes={("0", "1"): 2.0}, dry_run=True
            ),
        ),
    ],
)
async def test_a_command_becomes_an_order(
    client: Client, operator: ScriptedOperator, capsys: Capture, words: list[str], taken: Any
) -> None:
    assert (await run(capsys, client.url, *words)).code == 0
    assert operator.taken == [taken]


async def test_what_moved_is_shown_phase_by_phase_with_bytes_and_time(
    client: Client, capsys: Capture
) -> None:
    ran = await run(capsys, client.url, "swap", "--stages", "3")
    assert [line.split() for line in ran.out.splitlines()] == [
        ["moved", *REPORT.moves[0].split()],
        ["phase", "ms", "MB"],
        ["prepare", "500.0", "0.00"],
        ["copy", "250.0", "1.50"],
        ["epoch", "8"],
    ]


async def test_a_dry_run_says_what_would_move(
    client: Client, operator: ScriptedOperator, capsys: Capture
) -> None:
    operator.report = replace(REPORT, phases=())
    ran = await run(capsys, client.url, "swap", "--stages", "3", "--dry-run")
    assert ran.out.splitlines() == [f"would move {REPORT.moves[0]}", "epoch 8"]


async def test_a_change_that_moves_nothing_says_so(
    client: Client, operator: ScriptedOperator, capsys: Capture
) -> None:
    operator.report = replace(REPORT, phases=(), moves=())
    ran = await run(capsys, client.url, "swap", "--stages", "3")
    assert ran.out.splitlines() == ["nothing moves", "epoch 8"]


@pytest.mark.parametrize("words", [["swap", "--stages", "3"], ["drain", "a"], ["move", "r", "1"]])
async def test_what_was_not_done_ends_with_one_and_the_reason_on_the_last_line(
    client: Client, operator: ScriptedOperator, capsys: Capture, words: list[str]
) -> None:
    operator.report = replace(REPORT, done=False, reason="the target\ndied")
    ran = await run(capsys, client.url, *words)
    assert (ran.code, ran.last_line) == (1, "error: the target died")
    assert "copy" in ran.out


async def test_a_refusal_without_a_reason_is_still_a_sentence(
    client: Client, operator: ScriptedOperator, capsys: Capture
) -> None:
    operator.report = replace(REPORT, done=False)
    ran = await run(capsys, client.url, "drain", "a")
    assert (ran.code, ran.last_line) == (1, "error: it was not done, and no reason was given")


async def test_a_bad_order_and_an_absent_coordinator_are_one_line_each(
    client: Client, operator: ScriptedOperator, capsys: Capture
) -> None:
    ran = await run(capsys, client.url, "swap", "--layers", "")
    assert ran.last_line.startswith("error: layers: expected a string of 1 to 8192 characters")
    operator.refusal = Unavailable("the coordinator does not answer")
    ran = await run(capsys, client.url, "drain", "a")
    assert (ran.code, ran.last_line) == (1, "error: the coordinator does not answer")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["0"], "expected pairs of a pipeline and a phase, got 0"),
        (["0", "both", "1"], "expected pairs of a pipeline and a phase"),
        (["0", "both", "0", "decode"], "expected each pipeline once"),
        (["0", "all"], "phases: expected an object of 1 to 1024 pipelines"),
    ],
)
async def test_phases_that_are_none_reach_no_operator(
    client: Client, operator: ScriptedOperator, capsys: Capture, words: list[str], told: str
) -> None:
    ran = await run(capsys, client.url, "flip", *words)
    assert ran.code == 1
    assert told in ran.last_line
    assert operator.taken == []


@pytest.mark.parametrize("text", ["0:1", "0=1", ":1=2", "0:1=0", "0:1=x", "0:1=inf"])
def test_a_route_without_both_ends_and_a_weight_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"as in 0:1=0\.5"):
        route(text)


async def test_a_plan_is_kept_in_a_file_and_given_back(
    client: Client, operator: ScriptedOperator, capsys: Capture, tmp_path: Path
) -> None:
    ran = await run(capsys, client.url, "plan", "--json")
    path = tmp_path / "plan.json"
    path.write_text(ran.out)
    assert (await run(capsys, client.url, "swap", "--plan", str(path))).code == 0
    assert operator.taken == ["plan", PlanWish(plan={"pipelines": []})]


async def test_a_plan_that_cannot_be_read_is_not_sent(
    client: Client, operator: ScriptedOperator, capsys: Capture, tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    ran = await run(capsys, client.url, "swap", "--plan", str(path))
    assert ran.last_line == f"error: cannot read {path}: No such file or directory"
    for content in (b"{", b"\xff"):
        path.write_bytes(content)
        ran = await run(capsys, client.url, "swap", "--plan", str(path))
        assert ran.last_line.startswith(f"error: {path} is not JSON: ")
    assert operator.taken == []


@pytest.mark.parametrize("body", [{}, [1], {"done": True}, {"requests": [{"id": 1}]}])
@pytest.mark.parametrize("words", [["drain", "a"], ["requests"]])
async def test_an_answer_that_is_no_report_is_one_line(
    capsys: Capture, body: Any, words: list[str]
) -> None:
    with foreign(json.dumps(body).encode()) as url:
        ran = await run(capsys, url, *words)
    assert ran.code == 1
    assert ran.last_line.startswith(f"error: no Remuda service answers at {url} (it did not")


async def test_an_order_that_is_not_answered_in_time_may_still_be_carried_out(
    operator: ScriptedOperator, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(ScriptedOperator):
        async def move(self, request: str, pipeline: str) -> Any:
            async with asyncio.timeout(20.0):
                await asyncio.Event().wait()

    monkeypatch.setattr(change, "CHANGE_TIMEOUT_S", 0.1)
    async with gateway(ScriptedBackend(), operator=Slow()) as client:
        ran = await run(capsys, client.url, "move", "r", "1")
    expected = "error: /admin/move was not answered within 0.1 s; `status` shows what became of it"
    assert (ran.code, ran.last_line) == (1, expected)


async def test_requests_are_a_row_each_and_those_nobody_has_are_held(
    client: Client, operator: ScriptedOperator, capsys: Capture
) -> None:
    numbers = {"prompt_tokens": 3, "delivered_tokens": 40, "recoveries": 1}
    operator.running = [
        {"id": "cmpl-1-0[x]", "pipeline": "0", **numbers},
        {"id": "cmpl-2-0", "pipeline": None, **numbers},
    ]
    ran = await run(capsys, client.url, "requests")
    _, *rows = ran.out.splitlines()
    assert [row.split() for row in rows] == [
        ["cmpl-1-0[x]", "0", "3", "40", "1"],
        ["cmpl-2-0", "held", "3", "40", "1"],
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["swap"],
        ["swap", "--layers", "0:5", "--stages", "2"],
        ["swap", "--stages", "0"],
        ["swap", "--stages", "two"],
        ["drain"],
        ["drain", "a", "--deadline", "nan"],
        ["drain", "a", "--deadline", "-1"],
        ["drain", "a", "--deadline", "inf"],
        ["move", "r"],
    ],
)
async def test_a_command_that_is_mistyped_asks_nobody(
    client: Client, operator: ScriptedOperator, capsys: Capture, words: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        await run(capsys, client.url, *words)
    assert ended.value.code == 2
    assert operator.taken == []
