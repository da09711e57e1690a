"""JSON by a schema, over a real service: what ends is of its schema, what cannot be is said."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest

from benchmarks.schemas import REFUSED, Schema, random_schema
from tests.support.services import Client

NUM_SCHEMAS = 24
MAX_TOKENS = 400


def asked(schema: Schema, **more: Any) -> dict[str, Any]:
    named = {"name": "answer", "schema": schema, "strict": True}
    return {
        "model": "demo",
        "messages": [{"role": "user", "content": "Describe it."}],
        "response_format": {"type": "json_schema", "json_schema": named},
        "max_tokens": MAX_TOKENS,
        **more,
    }


@pytest.mark.timeout(200)
def test_every_answer_that_ends_is_of_its_schema(demo: Client) -> None:
    rng = random.Random(11)
    schemas = [random_schema(rng) for _ in range(NUM_SCHEMAS)]

    def one(schema: Schema) -> bool:
        status, answer = demo.post("/v1/chat/completions", asked(schema, seed=5))
        assert status == 200, (schema, answer)
        [choice] = answer["choices"]
        if choice["finish_reason"] == "stop":
            checker = jsonschema.FormatChecker()
            found = json.loads(choice["message"]["content"])
            jsonschema.Draft202012Validator(schema, format_checker=checker).validate(found)
        return bool(choice["finish_reason"] == "stop")

    with ThreadPoolExecutor(NUM_SCHEMAS) as pool:
        ended = sum(pool.map(one, schemas))
    assert ended >= 0.9 * NUM_SCHEMAS


@pytest.mark.parametrize(("word", "schema"), REFUSED, ids=[word for word, _ in REFUSED])
def test_what_has_no_grammar_is_refused_with_the_reason(
    demo: Client, word: str, schema: Schema
) -> None:
    status, answer = demo.post("/v1/chat/completions", asked(schema))
    assert (status, answer["error"]["param"]) == (400, "response_format")
    assert word in answer["error"]["message"]
