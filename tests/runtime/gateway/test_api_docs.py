"""docs/api.md says what the code does: its tables are compared, its examples are run."""

import asyncio
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from runtime.gateway import orders, prompts, tokenizing, values
from runtime.gateway.app import Limits
from tests.runtime.gateway.scripted import MODEL, PATIENCE_S, Client, ScriptedBackend, says

DOCS = (Path(__file__).parents[3] / "docs" / "api.md").read_text(encoding="utf-8")
CURLS = re.findall(r"curl .*?127\.0\.0\.1:8000(\S+) .*?-d '(.*?)'", DOCS, re.DOTALL)
PYTHONS = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)


def section(name: str) -> list[str]:
    found = re.search(rf"<!-- {name}: .*?-->\n(.*?)\n?<!-- end -->", DOCS, re.DOTALL)
    assert found is not None
    return found[1].split("\n")


def order_rows() -> Iterable[str]:
    yield "| order | field | |"
    yield "|---|---|---|"
    for path, fields in orders.ORDERS.items():
        for name, reader in fields.items():
            yield f"| `POST {path}` | `{name}` | {reader.expected} |"


def limit_rows() -> Iterable[str]:
    limits = Limits()
    yield "| limit | |"
    yield "|---|---|"
    yield f"| a body | {limits.max_body_bytes >> 20} MiB, within {limits.body_timeout_s:g} s |"
    yield f"| prompts of a request | {prompts.MAX_PROMPTS} |"
    yield f"| messages of a chat | {prompts.MAX_MESSAGES} |"
    yield f"| stop strings | {values.MAX_STOPS}, of {values.MAX_STOP_CHARACTERS} characters |"
    yield (
        f"| prompts over {tokenizing.SHORT_CHARACTERS} characters | {tokenizing.MAX_WAITING} at "
        f"work or waiting, each for at most {limits.tokenizing_timeout_s:g} s |"
    )
    yield f"| a client that takes nothing | {limits.times.write_timeout_s:g} s |"


def test_the_orders_are_those_of_the_code() -> None:
    assert section("orders") == list(order_rows())


def test_the_limits_are_those_of_the_code() -> None:
    assert section("limits") == list(limit_rows())


def test_there_are_examples() -> None:
    assert {path for path, _ in CURLS} == {"/v1/completions", "/v1/chat/completions"}
    assert PYTHONS


@pytest.mark.parametrize(("path", "body"), CURLS, ids=[path for path, _ in CURLS])
async def test_what_the_examples_of_curl_send_is_answered(
    client: Client, path: str, body: str
) -> None:
    sent = json.loads(body) | {"model": MODEL.name}
    if sent.get("stream"):
        assert (await client.events(path, sent))[-1] == "[DONE]"
    else:
        assert (await client.send("POST", path, json=sent)).status == 200


@pytest.mark.parametrize("program", PYTHONS)
async def test_the_examples_in_python_run(
    client: Client, backend: ScriptedBackend, program: str
) -> None:
    backend.script = says("grass")
    program = program.replace("http://127.0.0.1:8000", client.url).replace('"demo"', '"horse"')
    async with asyncio.timeout(PATIENCE_S):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
        )
        written, _ = await process.communicate()
    assert process.returncode == 0
    assert written.decode() == "grass\ngrass"


async def test_the_error_shown_is_the_error_given(client: Client) -> None:
    shown = re.search(r"```json\n(.*?)\n```", DOCS)
    assert shown is not None
    assert (await client.chat(temperature=3)).body == json.loads(shown[1])
