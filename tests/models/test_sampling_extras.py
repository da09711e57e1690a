import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ShapeMismatch
from models.sampling import NO_TOKEN
from models.sampling_extras import RowExtras, SamplingExtras, needs, pack_rows, unpack_rows
from models.token_logprobs import pack_logprobs, unpack_logprobs
from scheduling import step

_IDS = st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple)
_NUMBER = st.floats(-100, 100, width=32)
EXTRAS = st.builds(
    SamplingExtras,
    presence_penalty=_NUMBER,
    frequency_penalty=_NUMBER,
    repetition_penalty=_NUMBER,
    num_logprobs=st.integers(-1, 20),
    num_prompt_logprobs=st.integers(-1, 20),
    bias=st.lists(st.tuples(st.integers(0, 2**31 - 1), _NUMBER), max_size=4).map(tuple),
    allowed_ids=_IDS,
    early_ids=_IDS,
    grammar=st.text(max_size=20),
)
ROWS = st.lists(
    st.builds(
        RowExtras,
        row=st.integers(0, 9),
        parameters=EXTRAS.map(SamplingExtras.pack),
        num_prompt_tokens=st.integers(0, 2**31),
        next_id=st.integers(-1, 2**31 - 1),
        prompt_ids=_IDS.map(lambda ids: np.asarray(ids, np.int32)),
        output_ids=_IDS.map(lambda ids: np.asarray(ids, np.int32)),
    ),
    max_size=4,
)


@given(EXTRAS)
def test_parameters_come_back_as_they_were(extras: SamplingExtras) -> None:
    assert SamplingExtras.unpack(extras.pack()) == extras


@given(ROWS)
def test_rows_come_back_as_they_were(rows: list[RowExtras]) -> None:
    again = unpack_rows(pack_rows(rows), 10)
    assert [row.wanted for row in again] == [row.wanted for row in rows]
    for one, other in zip(rows, again, strict=True):
        facts = (one.row, one.num_prompt_tokens, one.next_id)
        assert (other.row, other.num_prompt_tokens, other.next_id) == facts
        np.testing.assert_array_equal(one.prompt_ids, other.prompt_ids)
        np.testing.assert_array_equal(one.output_ids, other.output_ids)


@given(ROWS, st.data())
def test_truncated_rows_are_fewer_or_refused(rows: list[RowExtras], data: st.DataObject) -> None:
    packed = pack_rows(rows)
    cut = data.draw(st.integers(0, max(0, len(packed) - 1)))
    try:
        found = unpack_rows(packed[:cut], 10)
    except ShapeMismatch:
        return
    assert len(found) < max(1, len(rows)) or cut == len(packed)


@given(st.binary(max_size=200))
def test_any_bytes_are_rows_and_parameters_or_a_shape_mismatch(data: bytes) -> None:
    for read in (lambda: unpack_rows(data, 3), lambda: SamplingExtras.unpack(data)):
        try:
            read()
        except ShapeMismatch:
            continue


def test_a_row_outside_the_batch_is_refused() -> None:
    row = RowExtras(row=3, parameters=SamplingExtras(num_logprobs=1).pack())
    with pytest.raises(ShapeMismatch, match="row 3 of a batch of 3"):
        unpack_rows(pack_rows([row]), 3)


def test_who_asks_for_nothing_sends_nothing() -> None:
    assert SamplingExtras().pack() == b""
    assert pack_rows([]) == b""
    assert needs(b"") == (False, False, False)


@pytest.mark.parametrize(
    ("extras", "needed"),
    [
        (SamplingExtras(num_logprobs=3), (False, False, False)),
        (SamplingExtras(bias=((1, 2.0),)), (False, False, False)),
        (SamplingExtras(presence_penalty=0.5), (False, True, False)),
        (SamplingExtras(frequency_penalty=-0.5), (False, True, False)),
        (SamplingExtras(repetition_penalty=1.5), (True, True, False)),
        (SamplingExtras(grammar="start: /a/"), (False, True, False)),
        (SamplingExtras(num_prompt_logprobs=0), (False, False, True)),
    ],
)
def test_only_the_tokens_that_matter_must_travel(
    extras: SamplingExtras, needed: tuple[bool, bool, bool]
) -> None:
    assert needs(extras.pack()) == needed


def test_both_packages_mean_the_same_by_no_token() -> None:
    assert step.NO_TOKEN == NO_TOKEN


@given(st.integers(0, 4), st.integers(0, 3), st.data())
def test_logprobs_come_back_as_they_were(count: int, num_top: int, data: st.DataObject) -> None:
    width = num_top + 1
    ids = data.draw(st.lists(st.integers(0, 99), min_size=count * width, max_size=count * width))
    table = np.asarray(ids, np.int32).reshape(count, width)
    values = (-table / 3).astype(np.float32)
    packed = pack_logprobs(range(count), table, values, np.ones(count, np.int32))
    entries = unpack_logprobs(packed + packed)
    assert entries[:count] == entries[count:]
    assert [entry.position for entry in entries[:count]] == list(range(count))
    for entry, row, likely in zip(entries, table.tolist(), values.tolist(), strict=False):
        assert (entry.token_id, entry.logprob) == (row[0], likely[0])
        assert entry.top == tuple(zip(row[1:], likely[1:], strict=True))


@given(st.binary(min_size=1, max_size=60))
def test_any_bytes_are_logprobs_or_a_shape_mismatch(data: bytes) -> None:
    try:
        entries = unpack_logprobs(data)
    except ShapeMismatch:
        return
    assert len(entries) * 16 <= len(data)
