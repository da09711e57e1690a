"""Killing over HTTP: what the launcher started and the plan names, and nothing else."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from runtime.chaos.processes import MARK
from runtime.config import AdminSettings, Config, HttpSettings
from runtime.dashboard.kills import ProcessKills
from runtime.errors import ConfigError
from runtime.gateway.errors import ApiError
from runtime.gateway.listening import check_exposure
from tests.runtime.gateway.scripted import Client, ScriptedBackend, ScriptedOperator, gateway

PATIENCE_S = 20.0


@contextlib.contextmanager
def sleeping(mark: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A child that waits, with a word in its command line, as a stage's process has one."""
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", mark]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        try:
            yield child
        finally:
            child.kill()


def plan_of(pid: int, gateway_pid: int = 0) -> dict[str, Any]:
    stages = [{"stage": 0, "pid": pid}, {"stage": 1, "pid": 1}]
    processes = [{"role": "gateway", "name": "gateway-0", "pid": gateway_pid}]
    return {"pipelines": [{"id": "0", "stages": stages}], "processes": processes}


async def test_a_stage_that_our_launcher_started_is_killed() -> None:
    with sleeping(MARK) as child:
        kills = ProcessKills(lambda: plan_of(child.pid, os.getpid()), os.getpid())
        assert kills.targets() == ["stage:0"]  # neither another's process nor our own
        await kills.kill("stage:0")
        assert child.wait(PATIENCE_S) < 0


async def test_a_process_below_another_launcher_has_no_name_here() -> None:
    with sleeping(MARK) as child:
        kills = ProcessKills(lambda: plan_of(child.pid), launcher=child.pid)
        assert kills.targets() == []
        with pytest.raises(ApiError, match="expected one of none; got 'stage:0'") as caught:
            await kills.kill("stage:0")
        assert caught.value.status == 404
        assert child.poll() is None


async def test_a_process_that_is_no_part_of_a_service_is_left_alone() -> None:
    with sleeping("something else") as child:
        kills = ProcessKills(lambda: plan_of(child.pid), os.getpid())
        with pytest.raises(ApiError, match="no process of a service") as caught:
            await kills.kill("stage:0")
        assert caught.value.status == 409
        assert child.poll() is None


def test_killing_cannot_be_enabled_where_others_could_reach_it() -> None:
    config = Config(
        http=HttpSettings(host="0.0.0.0", insecure=True),
        admin=AdminSettings(kill=True, place="shared"),
    )
    with pytest.raises(ConfigError, match=r"admin\.kill.*0\.0\.0\.0.*leave out admin\.kill"):
        check_exposure(config, {})
    apart = Config(http=HttpSettings(host="0.0.0.0", insecure=True), admin=AdminSettings(kill=True))
    check_exposure(apart, {})


async def test_a_page_of_another_site_cannot_send_an_order() -> None:
    """A form of another site can send text, but no JSON without being asked for leave first."""
    operator = ScriptedOperator(killable=["stage:1"])
    async with gateway(ScriptedBackend(), operator=operator) as client:
        for kind in ("text/plain", "application/x-www-form-urlencoded"):
            headers = {"Content-Type": kind, "Origin": "http://elsewhere.example"}
            reply = await client.send(
                "POST", "/admin/kill", data=b'{"target": "stage:1"}', headers=headers
            )
            assert reply.status == 415
        assert await leave_of(client) is None
    assert operator.taken == []


async def leave_of(client: Client) -> str | None:
    """What a browser is told that asks whether a page of another site may send JSON."""
    asked = {
        "Origin": "http://elsewhere.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    reply = await client.head_of("OPTIONS", "/admin/kill", headers=asked)
    return reply.headers.get("Access-Control-Allow-Origin")
