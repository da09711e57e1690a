"""The tables themselves are walked, so that a new row is tested at once."""

import itertools
import json
import math
from typing import Any

import pytest

from runtime.gateway import parameters
from runtime.gateway.errors import ApiError
from runtime.gateway.parameters import HARMLESS, Endpoint
from tests.runtime.gateway.scripted import CHAT, COMPLETIONS, Client, chat, completion

ENDPOINTS = {"completions": parameters.COMPLETIONS, "chat": parameters.CHAT}
BY_THEMSELVES = {"prompt", "messages"}  # read in prompts.py, and tested over HTTP
SAMPLES: dict[str, Any] = {
    "model": "horse",
    "max_tokens": 5,
    "max_completion_tokens": 5,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "min_p": 0.5,
    "seed": 5,
    "stop": ["a"],
    "min_tokens": 5,
    "ignore_eos": True,
    "stream": True,
    "stream_options": {"include_usage": True},
}
OF_EVERY_TYPE: list[Any] = [
    *(True, False, 0, 1, -1, 0.5, 10**400, -(10**400), math.nan, math.inf, -math.inf),
    *("", "a", [], ["a"], [[]], {}, {"a": 1}),
]


def rows(column: str) -> list[Any]:
    return [
        pytest.param(endpoint, name, id=f"{where}-{name}")
        for where, endpoint in ENDPOINTS.items()
        for name in sorted(getattr(endpoint, column))
        if name not in BY_THEMSELVES
    ]


def refusal(endpoint: Endpoint, name: str, value: Any) -> ApiError | None:
    try:
        endpoint.read({name: value})
    except ApiError as error:
        return error
    return None


@pytest.mark.parametrize(("endpoint", "name"), rows("honoured"))
def test_an_honoured_parameter_is_taken_and_other_types_are_refused_by_its_name(
    endpoint: Endpoint, name: str
) -> None:
    sample = SAMPLES[name]
    assert endpoint.read({name: sample}).keys() == {name}
    for value in OF_EVERY_TYPE:
        numbers = {type(sample), type(value)} == {int, float}
        if type(value) is not type(sample) and not numbers and (name, value) != ("stop", "a"):
            error = refusal(endpoint, name, value)
            assert error is not None, value
            assert (error.status, error.param) == (400, name)
            assert str(error).startswith(f"{name}: expected ")


@pytest.mark.parametrize(("endpoint", "name"), rows("honoured"))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, -(10**400)])
def test_no_parameter_takes_a_number_that_is_none_or_has_no_bound(
    endpoint: Endpoint, name: str, value: Any
) -> None:
    assert refusal(endpoint, name, value) is not None


@pytest.mark.parametrize(("endpoint", "name"), rows("off"))
def test_what_is_not_supported_is_taken_only_where_it_asks_for_nothing(
    endpoint: Endpoint, name: str
) -> None:
    allowed = endpoint.off[name]
    assert allowed
    for value in allowed:
        assert endpoint.read({name: value}) == {}
    for value in [*OF_EVERY_TYPE, 7, "made up"]:
        if not any(value == off and type(value) is type(off) for off in allowed):
            error = refusal(endpoint, name, value)
            assert error is not None, value
            assert (error.status, error.param) == (400, name)
            assert json.dumps(allowed[0]) in str(error)


@pytest.mark.parametrize(("endpoint", "name"), rows("known"))
def test_what_is_known_and_never_supported_is_refused_by_name(
    endpoint: Endpoint, name: str
) -> None:
    error = refusal(endpoint, name, 1)
    assert error is not None
    assert (error.param, str(error)) == (name, f"{name}: this parameter is not supported")


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=ENDPOINTS)
def test_the_columns_of_a_table_do_not_overlap(endpoint: Endpoint) -> None:
    columns = (set(endpoint.honoured), set(endpoint.off), set(endpoint.known), set(HARMLESS))
    for one, other in itertools.combinations(columns, 2):
        assert not one & other


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=ENDPOINTS)
def test_labels_and_nulls_are_taken_and_change_nothing(endpoint: Endpoint) -> None:
    names = [*endpoint.honoured, *endpoint.off, *endpoint.known]
    assert endpoint.read(dict.fromkeys(names)) == {}
    assert endpoint.read({name: {"any": ["thing"]} for name in HARMLESS}) == {}


@pytest.mark.parametrize(
    ("name", "taken", "out_of_bounds"),
    [
        ("temperature", [0, -0.0, 1e-300, 2], [-1e-9, 2.001, 1e308]),
        ("top_p", [5e-324, 1], [0, -0.0, 1.001]),
        ("min_p", [0, 1], [-0.001, 1.001]),
        ("top_k", [-1, 0, 1 << 30], [-2, (1 << 30) + 1, 1 << 63, 1.0]),
        ("seed", [-(1 << 63), (1 << 63) - 1], [-(1 << 63) - 1, 1 << 63, 0.0]),
        ("max_tokens", [1, 1 << 24], [0, -1, (1 << 24) + 1, 1.0]),
        ("min_tokens", [0, 1 << 24], [-1, (1 << 24) + 1, 1.0]),
        ("stop", ["x" * 512, ["a"] * 4], ["", "x" * 513, ["a"] * 5, [], ["a", ""], [1]]),
        ("stream_options", [{}, {"include_usage": False}], [{"include_usage": 1}, {"other": True}]),
    ],
)
def test_bounds_are_inclusive_and_hold(
    name: str, taken: list[Any], out_of_bounds: list[Any]
) -> None:
    for value in taken:
        assert refusal(parameters.CHAT, name, value) is None, value
    for value in out_of_bounds:
        assert refusal(parameters.CHAT, name, value) is not None, value


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (COMPLETIONS, completion(temperature=True), "temperature"),
        (COMPLETIONS, completion(max_tokens=0), "max_tokens"),
        (COMPLETIONS, completion(logprobs=5), "logprobs"),
        (COMPLETIONS, completion(n=2), "n"),
        (COMPLETIONS, completion(made_up=1), "made_up"),
        (COMPLETIONS, completion(messages=[]), "messages"),
        (COMPLETIONS, completion(stream_options={"include_usage": True}), "stream_options"),
        (CHAT, chat(logit_bias={"5": 100}), "logit_bias"),
        (CHAT, chat(tools=[{"type": "function"}]), "tools"),
        (CHAT, chat(response_format={"type": "json_object"}), "response_format"),
        (CHAT, chat(reasoning_effort="high"), "reasoning_effort"),
        (CHAT, chat(prompt="x"), "prompt"),
        (CHAT, {"messages": [{"role": "user", "content": "x"}]}, "model"),
        (CHAT, {"model": "horse"}, "messages"),
        (COMPLETIONS, {"model": "horse"}, "prompt"),
    ],
)
async def test_a_refusal_over_http_names_its_parameter(
    client: Client, path: str, body: dict[str, Any], param: str
) -> None:
    reply = await client.send("POST", path, json=body)
    assert reply.status == 400
    assert reply.error["param"] == param
    assert reply.error["type"] == "invalid_request_error"
    assert param in reply.error["message"]
