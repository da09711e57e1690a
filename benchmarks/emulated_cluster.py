"""A service of several nodes on this machine, each at a part of the machine's speed."""

import contextlib
import json
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.service import get_json, running_service
from runtime.network import free_port

TOKEN = "a-token-for-this-benchmark"
STOP_TIMEOUT_S = 20.0
ORDER_TIMEOUT_S = 300.0
HOST = "127.0.0.1"


@contextlib.contextmanager
def emulated_cluster(
    model: str, speeds: Sequence[float], layers: Sequence[int], max_running: int
) -> Iterator[str]:
    """The URL of a service with a stage on each node, at these speeds and with so many layers.

    Raises:
        SystemExit: it did not start; says what it printed.
    """
    port = free_port(HOST)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ending:
        file = Path(folder) / "cluster.toml"
        file.write_text(_config(layers), encoding="utf-8")
        for number, speed in enumerate(speeds[1:], start=1):
            ending.enter_context(_joined(port, _name(number), speed))
        sets = (f"cluster.port={port}", "cluster.spares=0", f"serving.max_running={max_running}")
        arguments = ["--node-id", _name(0), "--emulated-speed", str(speeds[0]), "--model", model]
        arguments += [part for setting in sets for part in ("--set", setting)]
        yield ending.enter_context(running_service(str(file), "--token", TOKEN, *arguments))


def _name(number: int) -> str:
    return f"node-{number}"


def _config(layers: Sequence[int]) -> str:
    nodes = "".join(f'[[nodes]]\nid = "{_name(number)}"\n' for number in range(len(layers)))
    stages = ", ".join(
        f'{{ layers = "{start}:{end}", node = "{_name(number)}", num_threads = 1 }}'
        for number, (start, end) in enumerate(ranges(layers))
    )
    return f"{nodes}[[pipelines]]\nstages = [{stages}]\n"


def ranges(layers: Sequence[int]) -> list[tuple[int, int]]:
    """Half-open ranges of so many layers, one after another."""
    ends = [sum(layers[: number + 1]) for number in range(len(layers))]
    return list(zip([0, *ends[:-1]], ends, strict=True))


@contextlib.contextmanager
def _joined(port: int, node: str, speed: float) -> Iterator[None]:
    command = [sys.executable, "-m", "runtime.launch", "--join", f"{HOST}:{port}"]
    command += ["--token", TOKEN, "--node-id", node, "--emulated-speed", str(speed)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)


def give_layers(url: str, layers: Sequence[int]) -> None:
    """Have every stage stay on its node and take so many layers.

    Raises:
        RuntimeError: it was refused; says why.
    """
    plan = get_json(f"{url}/admin/plan")
    plan.pop("planner", None)
    [pipeline] = plan["pipelines"]
    for stage, (start, end) in zip(pipeline["stages"], ranges(layers), strict=True):
        stage["start"], stage["end"] = start, end
    told = _post(f"{url}/admin/plan", {"plan": plan})
    if not told.get("done"):
        raise RuntimeError(f"layers {layers} were refused: {told}")


def _post(url: str, fields: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        url, json.dumps(fields).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=ORDER_TIMEOUT_S) as answer:
            found: dict[str, Any] = json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            raise RuntimeError(f"{url}: {error.read()!r}") from None
    return found
