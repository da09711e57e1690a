import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.chaos.events import MAX_EVENT_BYTES, Event, EventReader, NotEvents

STREAM = (
    b'data: {"text": "\xc3\xa9"}\n\n: recovered stage=1\n\n'
    b'event: error\ndata: {"error": 1}\n\ndata: one\ndata: two\n\n'
)
EVENTS = [
    Event(data='{"text": "é"}'),
    Event(comments=("recovered stage=1",)),
    Event(name="error", data='{"error": 1}'),
    Event(data="one\ntwo"),
]


@given(st.lists(st.integers(0, len(STREAM))))
def test_events_are_the_same_however_their_bytes_are_cut(cuts: list[int]) -> None:
    reader, ends = EventReader(), sorted({*cuts, len(STREAM)})
    pieces = [STREAM[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    assert [event for piece in pieces for event in reader.feed(piece)] == EVENTS


def test_an_event_comes_when_it_is_whole_and_not_before() -> None:
    reader = EventReader()
    assert reader.feed(b"data: a\n") == []
    assert reader.feed(b"\n") == [Event(data="a")]


def test_an_event_without_end_is_refused() -> None:
    reader = EventReader()
    assert reader.feed(b"x" * MAX_EVENT_BYTES) == []
    with pytest.raises(NotEvents, match="more than"):
        reader.feed(b"x")


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(NotEvents, match="UTF-8"):
        EventReader().feed(b"data: \xff\n\n")
