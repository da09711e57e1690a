"""The tables themselves are walked, so that a new row is tested at once."""

import json
import math
from typing import Any

import pytest

from runtime.gateway import endpoints
from runtime.gateway.endpoints import ENDPOINTS
from runtime.gateway.errors import ApiError
from runtime.gateway.parameters import Endpoint, Fate
from tests.runtime.gateway.scripted import CHAT, COMPLETIONS, Client, chat, completion

# Read where they are understood, and tested over HTTP.
BY_THEMSELVES = {"prompt", "messages", "tools", "tool_choice", "tokens", "guided_json"}
BY_THEMSELVES |= {"guided_choice"}
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
    "n": 5,
    "timeout": 5,
    "priority": 5,
    "slo": {"ttft": 0.5},
    "best_of": 5,
    "echo": True,
    "stop_token_ids": [5],
    "allowed_token_ids": [5],
    "include_stop_str_in_output": True,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "repetition_penalty": 0.5,
    "logit_bias": {"5": 5},
    "logprobs": 5,
    "top_logprobs": 5,
    "prompt_logprobs": 5,
    "response_format": {"type": "text"},
    "structured_outputs": {"regex": "a"},
    "guided_regex": "a",
    "guided_grammar": "a",
    "skip_special_tokens": True,
    "add_special_tokens": True,
    "add_generation_prompt": True,
    "continue_final_message": True,
    "return_token_strs": True,
    "parallel_tool_calls": True,
    "chat_template_kwargs": {"a": 1},
}
OF_CHAT = {"logprobs": True}
OF_EVERY_TYPE: list[Any] = [
    *(True, False, 0, 1, -1, 0.5, 10**400, -(10**400), math.nan, math.inf, -math.inf),
    *("", "a", [], ["a"], [[]], {}, {"a": 1}),
]


def rows(fate: Fate) -> list[Any]:
    return [
        pytest.param(endpoint, name, id=f"{endpoint.path}-{name}")
        for endpoint in ENDPOINTS
        for name in sorted(endpoint.of_fate(fate))
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
    sample = (OF_CHAT if endpoint is endpoints.CHAT else {}).get(name, SAMPLES.get(name))
    assert endpoint.read({name: sample}).keys() == {name}
    for value in OF_EVERY_TYPE:
        numbers = {type(sample), type(value)} == {int, float}
        has_this_form = name in ("prompt", "stop") and value == "a"
        if type(value) is not type(sample) and not numbers and not has_this_form:
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
    allowed = endpoint.parameters[name].off
    assert allowed
    for value in allowed:
        assert endpoint.read({name: value}) == {}
    for value in [*OF_EVERY_TYPE, 7, "made up"]:
        if not any(value == off and type(value) is type(off) for off in allowed):
            error = refusal(endpoint, name, value)
            assert error is not None, value
            assert (error.status, error.param) == (400, name)
            assert json.dumps(allowed[0]) in str(error)


@pytest.mark.parametrize(("endpoint", "name"), rows("refused"))
def test_what_is_known_and_never_supported_is_refused_by_name(
    endpoint: Endpoint, name: str
) -> None:
    error = refusal(endpoint, name, 1)
    assert error is not None
    assert error.param == name
    assert str(error).startswith(f"{name}: this parameter is not supported; ")


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_labels_and_nulls_are_taken_and_change_nothing(endpoint: Endpoint) -> None:
    assert endpoint.read(dict.fromkeys(endpoint.parameters)) == {}
    assert endpoint.read({name: {"any": ["thing"]} for name in endpoint.of_fate("label")}) == {}


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
        (
            "stream_options",
            [{}, {"include_usage": False}, {"include_obfuscation": False}],
            [{"include_usage": 1}, {"other": True}, {"include_obfuscation": True}],
        ),
        ("n", [1, 128], [0, -1, 129, 10**9]),
        ("presence_penalty", [-2, 2], [-2.01, 2.01]),
        ("frequency_penalty", [-2, 2], [-2.01, 2.01]),
        ("repetition_penalty", [0.01, 10], [0, -1, 10.1]),
        ("top_logprobs", [0, 20], [-1, 21, 10**6]),
        (
            "logit_bias",
            [{}, {"5": -100, "0": 100.0}],
            [{"5": 101}, {"a": 1}, {"-1": 1}, {"²": 1}, {"5": True}, {"9" * 10: 1}],
        ),
        ("stop_token_ids", [[0], list(range(1024))], [[], [-1], [1 << 31], list(range(1025))]),
    ],
)
def test_bounds_are_inclusive_and_hold(
    name: str, taken: list[Any], out_of_bounds: list[Any]
) -> None:
    for value in taken:
        assert refusal(endpoints.CHAT, name, value) is None, value
    for value in out_of_bounds:
        assert refusal(endpoints.CHAT, name, value) is not None, value


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (COMPLETIONS, completion(temperature=True), "temperature"),
        (COMPLETIONS, completion(max_tokens=-1), "max_tokens"),
        (COMPLETIONS, completion(logprobs=21), "logprobs"),
        (COMPLETIONS, completion(n=0), "n"),
        (COMPLETIONS, completion(suffix="x"), "suffix"),
        (COMPLETIONS, completion(prompt=["x"] * 65, n=2), "n"),
        (COMPLETIONS, completion(prompt=["x"] * 65, best_of=2), "best_of"),
        (COMPLETIONS, completion(best_of=2, n=3), "best_of"),
        (COMPLETIONS, completion(best_of=2, stream=True), "best_of"),
        (COMPLETIONS, completion(prompt_logprobs=1, stream=True), "prompt_logprobs"),
        (COMPLETIONS, completion(stop_token_ids=[257]), "stop_token_ids"),
        (COMPLETIONS, completion(allowed_token_ids=[999]), "allowed_token_ids"),
        (COMPLETIONS, completion(made_up=1), "made_up"),
        (COMPLETIONS, completion(messages=[]), "messages"),
        (COMPLETIONS, completion(stream_options={"include_usage": True}), "stream_options"),
        (CHAT, chat(logit_bias={"99999999": 100}), "logit_bias"),
        (CHAT, chat(top_logprobs=2), "top_logprobs"),
        (CHAT, chat(top_logprobs=2, logprobs=False), "top_logprobs"),
        (CHAT, chat(continue_final_message=True), "continue_final_message"),
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
