import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.config_file import load_config
from runtime.errors import ConfigError
from runtime.gateway.body import MAX_DEPTH
from runtime.gateway.bounds import Bounds, depth_of
from runtime.gateway.errors import ApiError
from runtime.gateway.prompts import MAX_MESSAGES, MAX_PROMPTS
from runtime.gateway.safeguards import Safeguards
from runtime.gateway.sampling_table import MAX_CHOICES, MAX_LOGPROBS
from runtime.gateway.values import MAX_STOP_CHARACTERS, MAX_STOPS
from tests.runtime.gateway.scripted import ScriptedBackend, gateway

BOUNDS = Bounds(
    max_prompt_tokens=8,
    max_prompts=2,
    max_messages=2,
    max_n=2,
    max_logprobs=3,
    max_stops=2,
    max_stop_characters=5,
    max_regex_characters=10,
    max_schema_bytes=100,
    max_schema_depth=4,
)


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("name", "within", "beyond"),
    [
        ("n", 2, 3),
        ("best_of", 2, 10**30),
        ("logprobs", 3, 4),
        ("top_logprobs", 3, 4),
        ("prompt", ["a", "b"], ["a", "b", "c"]),
        ("messages", [{}, {}], [{}, {}, {}]),
        ("stop", ["a", "b"], ["a", "b", "c"]),
        ("stop", "abcde", "abcdef"),
        ("stop", ["abcde"], ["a", "abcdef"]),
        ("guided_regex", "a" * 10, "a" * 11),
        ("guided_json", nested(4), nested(5)),
        ("guided_json", "x" * 100, "x" * 101),
        ("guided_json", "é" * 50, "é" * 51),
        ("guided_json", json.dumps(nested(4)), json.dumps(nested(5))),
        ("guided_json", '{"pattern": "aaaa"}', '{"pattern": "aaaaaaaaaaaaaaaa"}'),
        ("guided_json", {"patternProperties": {"a": {}}}, {"patternProperties": {"a" * 11: {}}}),
        ("guided_choice", ["a", "b"], ["x" * 100]),
        ("structured_outputs", {"json": "{}"}, {"json": json.dumps(nested(5))}),
        ("prompt_logprobs", 3, 4),
        ("response_format", {"a": "x" * 80}, {"a": "x" * 100}),
        ("structured_outputs", {"regex": "a" * 10}, {"regex": "a" * 11}),
        ("tools", [{"pattern": "a" * 10}], [{"b": [{"pattern": "a" * 11}]}]),
    ],
)
def test_what_is_within_a_bound_passes_and_what_is_beyond_is_refused_by_name(
    name: str, within: Any, beyond: Any
) -> None:
    BOUNDS.check_body({name: within})
    with pytest.raises(ApiError) as refused:
        BOUNDS.check_body({name: beyond})
    assert refused.value.status == 400
    assert str(refused.value.param).startswith(name)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("key", "most"),
    [
        ("max_prompts", MAX_PROMPTS),
        ("max_messages", MAX_MESSAGES),
        ("max_n", MAX_CHOICES),
        ("max_logprobs", MAX_LOGPROBS),
        ("max_stops", MAX_STOPS),
        ("max_stop_characters", MAX_STOP_CHARACTERS),
        ("max_schema_depth", MAX_DEPTH),
    ],
)
def test_no_more_can_be_configured_than_the_parameters_allow(key: str, most: int) -> None:
    assert getattr(load_config(None, [f"limits.{key}={most}"]).limits, key) == most
    with pytest.raises(ConfigError, match=f"limits.{key}"):
        load_config(None, [f"limits.{key}={most + 1}"])


def test_without_any_stop_string_allowed_a_request_that_has_none_passes() -> None:
    bounds = Bounds(max_stops=0)
    bounds.check_body({"stop": None})
    bounds.check_body({})
    with pytest.raises(ApiError, match="stop: expected at most 0 stop strings, got 1"):
        bounds.check_body({"stop": "a"})


def test_token_ids_are_one_prompt() -> None:
    BOUNDS.check_body({"prompt": [1, 2, 3, 4, 5]})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)
NAMES = st.sampled_from(["n", "stop", "prompt", "messages", "tools", "guided_json", "guided_regex"])


@settings(deadline=None)  # the machine may be busy
@given(st.dictionaries(NAMES, JSON))
def test_whatever_a_body_holds_it_passes_or_is_refused_in_words(body: dict[str, Any]) -> None:
    with suppress(ApiError):  # and by nothing else
        BOUNDS.check_body(body)


def test_depth_is_counted_no_further_than_needed() -> None:
    assert depth_of(nested(10_000), 33) == 33
    assert depth_of({}, 33) == 1
    assert depth_of([[1], {"a": []}], 33) == 3


async def test_a_prompt_that_is_too_long_is_refused_before_anybody_works_on_it(
    backend: ScriptedBackend,
) -> None:
    async with gateway(backend, safeguards=Safeguards(bounds=BOUNDS)) as client:
        assert (await client.complete(prompt="12345678")).status == 200
        reply = await client.complete(prompt="123456789")
        assert reply.status == 400
        assert reply.error["code"] == "context_length_exceeded"
        assert reply.error["param"] == "prompt"
        hello = [{"role": "user", "content": "Hello"}]
        assert (await client.chat(messages=hello)).error["param"] == "messages"
        assert (await client.complete(stop=["a", "b", "c"])).error["param"] == "stop"
    assert len(backend.requests) == 1
