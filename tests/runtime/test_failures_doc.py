"""The table of `docs/failures.md` is complete, and every test that is named there exists."""

import ast
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "failures.md").read_text(encoding="utf-8")
ROLES = ("stage", "pipeline actor", "node", "router", "gateway", "coordinator")
FAULTS = ("crash", "hang", "partition", "slow")
PHASES = ("prepare", "copy", "pause", "delta", "commit", "release")
MOMENTS = ("idle", "prefill", "decode", *PHASES)
FOLDERS = {
    "test_contract.py": "tests/actors/test_contract.py",
    "test_contract_processes.py": "tests/cluster/test_contract_processes.py",
    "test_chaos.py": "tests/cluster/test_chaos.py",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `tests` are as they are written there."""

    role: str
    fault: str
    moments: tuple[str, ...]
    sees: str
    within: str
    tests: tuple[str, ...]


def moments_of(cell: str) -> tuple[str, ...]:
    named = {"every moment": MOMENTS, "every phase": PHASES}
    return named.get(cell) or tuple(cell.split(", "))


def row_of(line: str) -> Row:
    role, fault, when, sees, within, tests = (cell.strip() for cell in line.strip("|").split("|"))
    return Row(role, fault, moments_of(when), sees, within, tuple(re.findall(r"`(.+?)`", tests)))


def rows() -> list[Row]:
    table = TEXT.partition("<!-- contract")[2].partition("<!-- end -->")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [row_of(line) for line in lines[2:]]


@cache
def parsed(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def values_of(node: ast.expr, module: ast.Module) -> list[str]:
    """The parameters that an expression lists: itself, or what a name of the module stands for."""
    match node:
        case ast.Name(id=name):
            assigned = [
                statement.value
                for statement in module.body
                if isinstance(statement, ast.Assign | ast.AnnAssign)
                and statement.value is not None
                and _target(statement) == name
            ]
            return values_of(assigned[0], module)
        case ast.Dict(keys=keys):
            return [str(ast.literal_eval(key)) for key in keys if key is not None]
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [str(ast.literal_eval(element)) for element in elements]
        case ast.Subscript(value=whole, slice=ast.Slice(lower=ast.Constant(value=int(start)))):
            return values_of(whole, module)[start:]
    raise AssertionError(f"cannot tell the parameters of {ast.unparse(node)}")


def _target(statement: ast.Assign | ast.AnnAssign) -> str:
    target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
    return target.id if isinstance(target, ast.Name) else ""


def imported_from(name: str, module: ast.Module) -> str | None:
    """The file of ours that a module takes a name from."""
    for statement in module.body:
        if isinstance(statement, ast.ImportFrom) and statement.module is not None:
            path = statement.module.replace(".", "/") + ".py"
            if name in {alias.name for alias in statement.names} and (ROOT / path).exists():
                return path
    return None


def parameters_of(decorator: ast.expr, module: ast.Module) -> list[str] | None:
    """The ids that one decorator gives a test; None if it is no `parametrize`."""
    if not isinstance(decorator, ast.Call) or not ast.unparse(decorator.func).endswith(
        "mark.parametrize"
    ):
        return None
    values = next((k.value for k in decorator.keywords if k.arg == "ids"), decorator.args[1])
    source = imported_from(values.id, module) if isinstance(values, ast.Name) else None
    return values_of(values, module if source is None else parsed(source))


def ids_of(path: str, name: str) -> list[str]:
    """Every `name[parameters]` of a test; empty if there is no such test."""
    module = parsed(path)
    for function in module.body:
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and function.name == name:
            lists = [parameters_of(d, module) for d in reversed(function.decorator_list)]
            found = [parameters for parameters in lists if parameters is not None]
            return ["-".join(ids) for ids in product(*found)]
    return []


def exists(test: str) -> bool:
    """Whether a test that is named in full is there, with those parameters if it names any."""
    path, _, name = test.partition("::")
    path, (name, _, parameters) = FOLDERS.get(path, path), name.partition("[")
    if not (ROOT / path).is_file():
        return False
    if parameters:
        return parameters.removesuffix("]") in ids_of(path, name)
    module = parsed(path)
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return any(isinstance(f, functions) and f.name == name for f in module.body)


ROWS = rows()


def test_every_role_fault_and_moment_has_a_row_and_no_row_speaks_of_another() -> None:
    covered = {(row.role, row.fault, moment) for row in ROWS for moment in row.moments}
    assert covered == set(product(ROLES, FAULTS, MOMENTS))


def test_every_row_says_what_the_client_sees_within_how_long_and_which_test_shows_it() -> None:
    assert [row for row in ROWS if not (row.sees and row.within and row.tests)] == []


def test_every_combination_is_shown_by_tests_that_exist() -> None:
    named = {
        test.replace("*", moment) for row in ROWS for moment in row.moments for test in row.tests
    }
    assert [test for test in sorted(named) if not exists(test)] == []


def test_every_test_that_the_text_names_exists() -> None:
    prose = TEXT.partition("<!-- contract")[0] + TEXT.partition("<!-- end -->")[2]
    named = re.findall(r"`(tests/[^`]+::[^`]+)`", prose)
    assert len(named) >= 3
    assert [test for test in named if not exists(test)] == []


def test_every_case_of_the_contract_on_virtual_time_has_a_row() -> None:
    name = "test_no_fault_at_any_moment_costs_a_token"
    written = {test.partition("[")[2] for row in ROWS for test in row.tests if f"::{name}[" in test}
    cases = ids_of(FOLDERS["test_contract.py"], name)
    assert len(cases) >= len(FAULTS) * len(MOMENTS)
    patterns = {parameters.removesuffix("]") for parameters in written}
    assert [case for case in cases if not any(fnmatchcase(case, p) for p in patterns)] == []


def test_every_role_and_fault_is_shown_with_real_processes_or_the_text_says_why_not() -> None:
    """A row may leave that to another of its role and fault; slowness is shown of stages alone."""
    folders = ("test_contract_processes.py", "test_chaos.py")
    shown = {(r.role, r.fault) for r in ROWS for test in r.tests if test.startswith(folders)}
    virtual = {("pipeline actor", "crash"), ("pipeline actor", "hang")}
    virtual |= {("router", fault) for fault in FAULTS}
    virtual |= {(role, "slow") for role in ROLES if role != "stage"}
    assert shown == set(product(ROLES, FAULTS)) - virtual


@pytest.mark.parametrize(
    "test",
    [
        "test_contract.py::test_no_fault_at_any_moment_costs_a_token[stage-crash-lunch]",
        "test_contract.py::test_no_fault_at_any_moment_costs_a_token[gremlin-crash-idle]",
        "test_contract.py::test_that_is_not_there[stage-crash-idle]",
        "test_contract.py::test_that_is_not_there",
        "tests/actors/test_that_is_not_there.py::test_it",
    ],
)
def test_a_test_that_is_not_there_is_noticed(test: str) -> None:
    assert not exists(test)
