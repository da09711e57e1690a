import asyncio
import os
import signal
from pathlib import Path

import pytest

from actors.child_process import MAX_LINE_BYTES, ChildProcess

CHILD = """
import json, os, signal, sys, time
settings = json.loads(sys.stdin.readline())
print("role", sys.argv[1], "greets", settings["whom"])
what = settings.get("then", "end")
if what == "fail":
    print("no such model")
    sys.exit(3)
if what == "long":
    print("x" * settings["length"])
if what == "wait":
    print(sys.stdin.read() == "" and "parent is gone")
if what == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("deaf")
    time.sleep(60)
"""


class Output:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.arrived = asyncio.Event()

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        self.arrived.set()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "child_under_test.py").write_text(CHILD, encoding="utf-8")
    return {"PYTHONPATH": str(tmp_path)}


async def start(environment: dict[str, str], output: Output, **settings: object) -> ChildProcess:
    return await ChildProcess.start(
        "child_under_test",
        "stage",
        {"whom": "the world", **settings},
        on_line=output,
        environment=environment,
    )


async def test_a_child_reads_its_settings_and_its_lines_come_back(
    environment: dict[str, str],
) -> None:
    output = Output()
    child = await start(environment, output)
    assert await child.wait() == "exit status 0; its last line: role stage greets the world"
    assert output.lines == ["role stage greets the world"]


async def test_a_failing_child_ends_with_its_status_and_last_line(
    environment: dict[str, str],
) -> None:
    child = await start(environment, Output(), then="fail")
    assert await child.wait() == "exit status 3; its last line: no such model"


async def test_a_killed_child_ends_with_its_signal(environment: dict[str, str]) -> None:
    output = Output()
    child = await start(environment, output, then="wait")
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(child.wait())
        await output.arrived.wait()
        os.kill(child.pid, signal.SIGKILL)
    assert waiting.result().startswith("killed by signal 9")


async def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(
    environment: dict[str, str],
) -> None:
    output = Output()
    child = await start(environment, output, then="stubborn")
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(child.wait())
        while "deaf" not in output.lines:
            output.arrived.clear()
            await output.arrived.wait()
        await child.stop(grace_s=0.1)
    assert waiting.result().startswith("killed by signal 9")


async def test_a_line_longer_than_the_bound_comes_in_pieces(environment: dict[str, str]) -> None:
    output = Output()
    length = 3 * MAX_LINE_BYTES
    child = await start(environment, output, then="long", length=length)
    await child.wait()
    assert sum(map(len, output.lines[1:])) == length
    assert max(map(len, output.lines)) <= 2 * MAX_LINE_BYTES
