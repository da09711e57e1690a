"""Requests made from a service's own document, and what its answers are held to."""

import os
from collections.abc import Callable, Iterator
from typing import Any, cast

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, CheckFunction, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation

EXAMPLES_ENV = "REMUDA_SCHEMA_EXAMPLES"
"""How many requests of each kind; a longer run sets it."""
TIMEOUT_S = 20.0
CHECKED = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
)

Alter = Callable[[Any], Any]
Operation = APIOperation[Any, Any, Any, Any]


def operations(document: dict[str, Any]) -> Iterator[Operation]:
    """Every operation of a document."""
    for result in schemathesis.openapi.from_dict(document).get_all_operations():
        assert isinstance(result, Ok)
        yield result.ok()


def try_operation(
    operation: Operation, url: str, *, num_examples: int, alter: Alter = lambda body: body
) -> dict[int, int]:
    """Send requests that the document allows, and such as it does not; how often each status came.

    `alter` bounds what a body asks for, where that would take too long.
    """
    load_all_checks()
    known = [check for check in CHECKS.get_all() if check.__name__ in CHECKED]
    checks = cast("list[CheckFunction]", known)
    assert len(checks) == len(CHECKED)
    found: dict[int, int] = {}

    def send(case: "Case[Any]") -> None:
        case.body = alter(case.body)
        answer = case.call(base_url=url, session=session, timeout=TIMEOUT_S)
        found[answer.status_code] = found.get(answer.status_code, 0) + 1
        case.validate_response(answer, checks=checks)

    with requests.Session() as session:
        for mode in _modes(operation):
            strategy = operation.as_strategy(generation_mode=mode)
            bounded = settings(
                max_examples=int(os.environ.get(EXAMPLES_ENV, num_examples)),
                derandomize=True,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            bounded(given(case=strategy)(send))()
    return found


def _modes(operation: Operation) -> list[GenerationMode]:
    """A request that has nothing to get wrong, but a path of its own, cannot be wrong."""
    if operation.body or operation.query:
        return [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
    return [GenerationMode.POSITIVE]
