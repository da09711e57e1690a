"""A service of real processes against the document it serves: made-up requests, and no trace left.

Orders are left out, but for those that change nothing: the service is shared.
"""

from typing import Any

import pytest

from tests.support.schema_cases import operations, try_operation
from tests.support.services import Client

NUM_EXAMPLES = 5
LEFT_OUT = tuple(f"POST /admin/{order}" for order in ("drain", "move", "fault", "flip", "kill"))
LEFT_OUT += ("GET /admin/fault",)
BOUNDS = {"max_tokens": 4, "max_completion_tokens": 4, "n": 2, "best_of": 2, "min_tokens": 4}


def bounded(body: Any) -> Any:
    """The same wish for a few tokens: what is no number is left to be refused."""
    if not isinstance(body, dict):
        return body
    found = {name: _bounded(value, BOUNDS.get(name)) for name, value in body.items()}
    if "stages" in found or "layers" in found or "plan" in found:
        found["dry_run"] = True
    is_chat = "messages" in found and "max_completion_tokens" not in found
    return found | ({"max_tokens": 4} if is_chat and found.get("max_tokens") is None else {})


def _bounded(value: Any, bound: int | None) -> Any:
    return min(value, bound) if bound is not None and type(value) is int else value


def stands_idle(client: Client) -> bool:
    _, status = client.get("/admin/status")
    kv, requests = status["kv"], status["requests"]
    is_idle: bool = requests == {"running": 0, "waiting": 0}
    return is_idle and bool(kv["free_blocks"] == kv["blocks"])


@pytest.mark.long
def test_a_service_answers_as_its_document_says_and_keeps_nothing_of_it(demo: Client) -> None:
    demo.wait_until(lambda: stands_idle(demo))
    status, document = demo.get("/openapi.json")
    assert status == 200
    before = demo.complete("The list", max_tokens=8)["choices"]
    answered = 0
    for operation in operations(document):
        if operation.label not in LEFT_OUT:
            num_examples = 1 if operation.label.startswith("GET") else NUM_EXAMPLES
            found = try_operation(operation, demo.url, num_examples=num_examples, alter=bounded)
            answered += found.get(200, 0)
    assert answered > 12
    demo.wait_until(lambda: stands_idle(demo))
    assert demo.complete("The list", max_tokens=8)["choices"] == before
    assert demo.get("/admin/requests") == (200, {"requests": []})
