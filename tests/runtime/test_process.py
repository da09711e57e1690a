"""A child that cannot do its work says why on its last line, without a traceback."""

import asyncio
import io
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from rich.console import Console

from actors.child_process import ChildProcess
from actors.kernel.system import ActorSystem
from runtime import process
from runtime.announcer import Announcer
from runtime.config import Config, HttpSettings, ModelSettings
from runtime.launcher_actor import LauncherActor
from runtime.opening import open_system
from runtime.settings import (
    ChildSettings,
    CoordinatorSettings,
    GatewaySettings,
    NodeSettings,
    to_plain,
)
from tests.support.services import CHECKOUT

TOKEN = "t"


@asynccontextmanager
async def parent() -> AsyncIterator[ActorSystem]:
    async with open_system("launcher", "127.0.0.1", 0, TOKEN) as system:
        actor = LauncherActor(
            Announcer(Console(file=io.StringIO())), lambda _: None, shows_other_nodes=True
        )
        system.spawn(actor, name="launcher")
        yield system


async def run_until_it_ends(role: str, settings: ChildSettings) -> tuple[str, list[str]]:
    """How a child ended, and all that it wrote."""
    lines: list[str] = []
    child = await ChildProcess.start(
        "runtime.process", role, to_plain(settings), on_line=lines.append
    )
    try:
        async with asyncio.timeout(60):
            return await child.wait(), lines
    finally:
        child.kill()


async def test_a_gateway_whose_port_was_taken_meanwhile_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with parent() as system:
            launcher = system.local_ref("launcher")
            ended, lines = await run_until_it_ends(
                "gateway",
                GatewaySettings(
                    name="gateway",
                    host="127.0.0.1",
                    token=TOKEN,
                    parent=launcher,
                    config=Config(http=HttpSettings(port=port)),
                    coordinator=launcher,
                ),
            )
    assert ended.startswith("exit status 1; its last line: error: ")
    assert "in use" in lines[-1]
    assert not any("Traceback" in line for line in lines)


async def test_a_coordinator_whose_model_is_gone_says_so() -> None:
    async with parent() as system:
        ended, lines = await run_until_it_ends(
            "coordinator",
            CoordinatorSettings(
                name="coordinator",
                host="127.0.0.1",
                token=TOKEN,
                parent=system.local_ref("launcher"),
                config=Config(model=ModelSettings(path="/no/such/model")),
            ),
        )
    assert ended.startswith("exit status 1; its last line: error: model: ")
    assert "/no/such/model" in lines[-1]
    assert not any("Traceback" in line for line in lines)


async def test_a_child_with_another_token_than_its_parents_says_so() -> None:
    async with parent() as system:
        launcher = system.local_ref("launcher")
        ended, lines = await run_until_it_ends(
            "node",
            NodeSettings(
                name="node",
                host="127.0.0.1",
                token="another",
                parent=launcher,
                node="n",
                coordinator=launcher,
            ),
        )
    assert ended.startswith("exit status 1; its last line: error: ")
    assert "token" in lines[-1]
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize("given", ["", "\n", "{}\n", '{"name": 1}\n'])
def test_a_child_without_a_parents_settings_says_what_it_expected(given: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "runtime.process", "node"],
        input=given,
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: settings: expected one line from a parent process")


@pytest.mark.parametrize("arguments", [[], ["cook"], ["node", "node"]])
def test_a_role_that_is_not_in_the_registry_is_refused_with_those_that_are(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert process.main(arguments) == 2
    assert "{coordinator,gateway,node,worker}" in capsys.readouterr().err
