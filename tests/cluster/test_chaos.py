"""Chaos runs against a service of real processes, whose links may be disturbed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.test_contract_processes import pid_of, wait_whole
from tests.support.services import CHECKOUT, Client, is_alive, service

pytestmark = pytest.mark.timeout(300)
LOAD = ["--streams", "4", "--max-tokens", "200", "--at-token", "10", "--max-gap", "100"]
TIMEOUT_S = 110.0
HANG_TIMEOUT_S = 4


@pytest.fixture(scope="module")
def serving() -> Iterator[Client]:
    """A service that may be disturbed, and that soon ends what hangs."""
    arguments = ["--model", "demo", "--stages", "2", "--chaos"]
    with service(*arguments, "--hang-timeout", str(HANG_TIMEOUT_S)) as (client, _):
        yield client


def chaos(client: Client, *words: str) -> dict[str, Any]:
    """The report of one strike under load, by which no stream may suffer."""
    wait_whole(client)
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "runtime.ctl",
            "--url",
            client.url,
            "chaos",
            *words,
            "--json",
            *LOAD,
        ],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    (strike,) = json.loads(ran.stdout)["strikes"]
    assert strike["streams"] == 4
    report: dict[str, Any] = strike
    return report


def test_streams_outlive_a_stage_that_chaos_kills(serving: Client) -> None:
    victim = serving.stages()[1]["pid"]
    assert chaos(serving, "--kill", "stage:1")["recoveries"] > 0
    assert serving.stages()[1]["pid"] not in (0, victim)


def test_streams_outlive_a_partition_between_two_stages_that_heals_by_itself(
    serving: Client,
) -> None:
    strike = chaos(serving, "--partition", "stage:0|stage:1", "--for", "3")
    assert strike["what"] == "partition stage:0|stage:1 for 3 s at token 10"
    assert strike["recoveries"] > 0, "a partition that nobody notices shows nothing"


def test_streams_outlive_a_gateway_that_does_not_reach_their_pipeline(serving: Client) -> None:
    strike = chaos(serving, "--partition", "pipeline:0|gateway", "--for", "2")
    assert strike["recoveries"] > 0
    assert strike["longest_gap_s"] > 2.0


@pytest.mark.parametrize("other", ["node:local", "gateway"])
def test_streams_run_on_while_the_coordinator_is_out_of_reach(serving: Client, other: str) -> None:
    wait_whole(serving)
    before = [stage["pid"] for stage in serving.stages()]
    assert chaos(serving, "--partition", f"coordinator|{other}", "--for", "2")["recoveries"] == 0
    wait_whole(serving)
    assert [stage["pid"] for stage in serving.stages()] == before


def test_a_slow_link_loses_nothing_and_nobody_is_told_of_it(serving: Client) -> None:
    words = ["--slow-link", "stage:0|stage:1", "--latency", "0.2", "--for", "2"]
    strike = chaos(serving, *words)
    assert strike["recoveries"] == 0
    assert strike["longest_gap_s"] > 0.2


@pytest.mark.parametrize("role", ["coordinator", "node"])
def test_a_process_that_is_away_for_a_while_finds_everything_as_it_was(
    serving: Client, role: str
) -> None:
    wait_whole(serving)
    target = "node:local" if role == "node" else role
    before = [stage["pid"] for stage in serving.stages()]
    process = pid_of(serving, role)
    strike = chaos(serving, "--pause", target, "--for", "2")
    assert (strike["recoveries"] > 0) == (role == "node")
    wait_whole(serving)
    assert [stage["pid"] for stage in serving.stages()] == before
    assert pid_of(serving, role) == process


@pytest.mark.parametrize("role", ["coordinator", "gateway", "node"])
def test_a_process_that_hangs_for_good_is_ended_and_started_again(
    serving: Client, role: str
) -> None:
    wait_whole(serving)
    victim = pid_of(serving, role)
    os.kill(victim, signal.SIGSTOP)
    serving.wait_until(lambda: not is_alive(victim), 100.0)
    wait_whole(serving)
    serving.wait_until(lambda: pid_of(serving, role) not in (0, victim), 100.0)


def test_links_of_a_service_that_was_launched_without_leave_stay_whole(demo: Client) -> None:
    status, body = demo.post(
        "/admin/fault", {"kind": "partition", "a": "stage:0", "b": "stage:1", "for_s": 1}
    )
    assert status == 501
    assert "--chaos" in body["error"]["message"]
