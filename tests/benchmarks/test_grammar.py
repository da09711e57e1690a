"""The cost of grammars: what is measured is what is told, and a wrong answer is found."""

import random

import jsonschema
import pytest

from benchmarks.grammar import Measured, _check, measure
from benchmarks.schemas import random_schema

SCHEMA = {
    "type": "object",
    "properties": {"size": {"enum": [1, 2]}},
    "required": ["size"],
    "additionalProperties": False,
}


def test_answers_that_end_are_of_their_schemas_and_every_token_is_timed() -> None:
    measured = measure([SCHEMA, SCHEMA], batch_size=2, max_tokens=40, seed=1)
    assert (measured.num_ended, measured.num_cut, measured.num_wrong) == (2, 0, 0)
    assert len(measured.mask_s) >= len(measured.step_s) > 4
    assert 0 < measured.share < 1
    assert next(iter(measured.lines())) == "answers: 2 ended, 0 cut off, 0 wrong"


@pytest.mark.parametrize(
    ("text", "counts"),
    [('{"size": 2}', (1, 0, 0)), ('{"size": 3}', (1, 0, 1)), (None, (0, 1, 0))],
)
def test_an_answer_that_is_not_of_its_schema_is_counted_as_wrong(
    text: str | None, counts: tuple[int, int, int]
) -> None:
    measured = Measured()
    _check(SCHEMA, text, measured)
    assert (measured.num_ended, measured.num_cut, measured.num_wrong) == counts


def test_schemas_are_schemas_and_the_same_for_a_seed() -> None:
    first, second = random.Random(4), random.Random(4)
    for _ in range(50):
        schema = random_schema(first)
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema == random_schema(second)
