"""Clients that are not part of the development tools: each is a program of its own.

They pin versions that the others cannot have; so each lives in an environment of its own, which
REMUDA_CLIENTS_PYTHON and REMUDA_NODE_MODULES may name, and a test whose client is nowhere is left
out with a sentence. `make clients` makes all of them.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.services import CHECKOUT

PROGRAMS = Path(__file__).parent / "programs"
PYTHON_ENV, NODE_ENV = "REMUDA_CLIENTS_PYTHON", "REMUDA_NODE_MODULES"
MADE = CHECKOUT / ".venv-clients"
MADE_MODULES = MADE / "node_modules"
TIMEOUT_S = 100.0


def run_python(package: str, program: str, url: str) -> dict[str, Any]:
    """What a program of Python prints, in an environment that has its package."""
    made = MADE / package / "bin" / "python"
    python = os.environ.get(PYTHON_ENV, str(made) if made.exists() else sys.executable)
    probe = f"import importlib.util, sys; sys.exit(not importlib.util.find_spec({package!r}))"
    if subprocess.run([python, "-c", probe], check=False, timeout=TIMEOUT_S).returncode:
        pytest.skip(
            f"{package} is not installed; `make clients` does, or name a Python that has "
            f"it in {PYTHON_ENV}"
        )
    return _run([python, str(PROGRAMS / program), url], {})


def run_node(program: str, url: str) -> dict[str, Any]:
    """What a program of Node prints, with the npm package `openai`."""
    node = shutil.which("node")
    modules = Path(os.environ.get(NODE_ENV, MADE_MODULES))
    if node is None or not (modules / "openai").is_dir():
        pytest.skip(
            f"Node or its package openai is not there; `make clients` installs it, or name "
            f"a node_modules that has it in {NODE_ENV}"
        )
    return _run([node, str(PROGRAMS / program), url, str(modules)], {})


def _run(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
