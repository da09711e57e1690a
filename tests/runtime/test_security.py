"""What must never be in a program that reads other people's bytes."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("transport", "actors", "models", "scheduling", "runtime")
FORBIDDEN_MODULES = frozenset({"pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve"})
FORBIDDEN_CALLS = frozenset(
    {"eval", "exec", "compile", "__import__", "torch.load", "np.load", "numpy.load"}
)
FORBIDDEN_METHODS = frozenset({"recv_pyobj", "send_pyobj"})
DYNAMIC_IMPORT = frozenset({"importlib.import_module", "import_module"})
IMPORTS_BY_NAME = frozenset({"runtime/cli.py", "runtime/process.py", "scheduling/plan_plot.py"})
"""The names are their own: words of a table, chosen by the command line, or parts of a library."""


SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def findings(code: str) -> list[str]:
    """The forbidden imports and calls of some source code."""
    found: list[str] = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
        elif isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in FORBIDDEN_CALLS:
            found.append(f"{name}()")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in DYNAMIC_IMPORT:
            found += [] if isinstance(node.args[0], ast.Constant) else ["import_module()"]
        elif isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_METHODS:
            found.append(f"{node.attr}()")
        if isinstance(node, ast.keyword) and node.arg in {"trust_remote_code", "shell"}:
            found.append(f"{node.arg}()")
    return [
        name for name in found if name.endswith("()") or name.split(".")[0] in FORBIDDEN_MODULES
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_can_run_what_it_receives(path: Path) -> None:
    found = findings(path.read_text(encoding="utf-8"))
    if path.relative_to(ROOT).as_posix() in IMPORTS_BY_NAME:
        assert found == ["import_module()"]
    else:
        assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "eval(text)",
        "importlib.import_module(name)",
        "socket.recv_pyobj()",
        "import marshal",
        "torch.load(path)",
        "load(path, trust_remote_code=True)",
        "run(line, shell=True)",
    ],
)
def test_what_is_forbidden_is_found(code: str) -> None:
    assert findings(code)
