"""What shapes an answer, in a service of real processes that is struck in the middle."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from tests.cluster.striking import kill, strike_in_mid_stream
from tests.support.services import Client, service

LIST = {
    "type": "object",
    "properties": {
        "rows": {
            "type": "array",
            "minItems": 12,
            "maxItems": 12,
            "items": {"type": "integer", "minimum": 10, "maximum": 99},
        }
    },
    "required": ["rows"],
    "additionalProperties": False,
}
BODIES: list[dict[str, Any]] = [
    {"guided_json": LIST, "temperature": 1.3, "seed": 5},
    {
        "presence_penalty": 1.0,
        "frequency_penalty": 0.5,
        "repetition_penalty": 1.2,
        "logit_bias": {"300": 2},
        "temperature": 0.9,
        "seed": 8,
        "logprobs": 1,
        "echo": True,
        "ignore_eos": True,
    },
]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with service("--model", "demo", "--stages", "2", "--set", "cluster.spares=1") as (client, _):
        yield client


def assert_is_of_its_form(text: str, wishes: dict[str, Any]) -> None:
    if "guided_json" in wishes:
        jsonschema.validate(json.loads(text), wishes["guided_json"])


def body_of(wishes: dict[str, Any]) -> dict[str, Any]:
    return {"model": "demo", "prompt": "The list", "max_tokens": 120, **wishes}


def undisturbed(client: Client, body: dict[str, Any]) -> dict[str, Any]:
    status, answer = client.post("/v1/completions", body)
    assert status == 200, answer
    choice: dict[str, Any] = answer["choices"][0]
    return choice


def streamed_tokens(lines: list[str]) -> list[str]:
    events = [json.loads(line[6:]) for line in lines if line.startswith('data: {"id"')]
    told = [choice["logprobs"] for event in events for choice in event["choices"]]
    return [token for some in told if some for token in some["tokens"]]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("wishes", BODIES, ids=["grammar", "penalties"])
def test_a_last_stage_that_is_killed_in_mid_answer_changes_no_token(
    client: Client, wishes: dict[str, Any]
) -> None:
    body = body_of(wishes)
    expected = undisturbed(client, body)
    client.wait_until(lambda: client.get("/ready")[0] == 200)
    struck = strike_in_mid_stream(
        client, lambda: kill(client.stages()[-1]["pid"]), silence_s=120, body=body
    )
    assert struck.is_whole
    assert any(line.startswith(": recovered") for line in struck.lines)
    assert struck.text == expected["text"]
    assert_is_of_its_form(struck.text, wishes)
    if "logprobs" in wishes:
        assert streamed_tokens(struck.lines) == expected["logprobs"]["tokens"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("wishes", BODIES, ids=["grammar", "penalties"])
def test_a_swap_to_other_stages_in_mid_answer_changes_no_token(
    client: Client, wishes: dict[str, Any]
) -> None:
    client.wait_until(lambda: client.get("/ready")[0] == 200)
    body = body_of(wishes)
    expected = undisturbed(client, body)
    first, second = (stage["layers"] for stage in client.stages())
    cut = first[1] + (1 if first[1] < second[1] - 1 else -1)
    reports: list[Any] = []

    def swap() -> None:
        reports.append(client.post("/admin/plan", {"layers": f"0:{cut},{cut}:{second[1]}"}))

    struck = strike_in_mid_stream(client, swap, silence_s=120, body=body)
    assert reports[0][0] == 200, reports
    assert struck.is_whole
    assert struck.text == expected["text"]
    assert_is_of_its_form(struck.text, wishes)


def test_an_answer_whose_bounds_leave_no_token_is_an_error_and_its_neighbours_go_on(
    client: Client,
) -> None:
    plain = undisturbed(client, body_of({"temperature": 0}))
    status, answer = client.post(
        "/v1/completions", body_of({"guided_choice": ["hay"], "allowed_token_ids": [5]})
    )
    assert (status, answer["error"]["code"]) == (400, "no_token")
    assert undisturbed(client, body_of({"temperature": 0})) == plain
