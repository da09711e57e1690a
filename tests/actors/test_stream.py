"""One request's tokens: nothing twice, no hole unseen, and what a recovery says of itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.messages import TokensOf
from actors.stream import Failed, Note, Stream
from tests.actors.emulated_pipeline import request
from tests.actors.members import ref

PIPELINE = ref("pipeline")


def stream_of(*prompt: int, max_tokens: int = 10) -> Stream:
    return Stream(request("r", prompt or (1, 2, 3), max_tokens), 0.0)


def part(position: int, *tokens: int, finish: str | None = None, name: str = "r") -> TokensOf:
    return TokensOf(request=name, position=position, token_ids=tokens, finish_reason=finish)


def heard(stream: Stream) -> list[TokensOf | Failed | Note]:
    """All that its reader has not heard yet."""
    updates = []
    while not stream.updates.empty():
        updates.append(stream.updates.get_nowait())
    return updates


# --- positions


def test_what_is_new_is_handed_on_with_its_position_under_the_readers_name() -> None:
    stream = stream_of()
    assert stream.accept(part(0, 5, 6), now=1.0)
    assert stream.accept(part(2, 7, finish="length", name="r~2"), now=2.0)
    assert heard(stream) == [part(0, 5, 6), part(2, 7, finish="length")]
    assert (stream.delivered, stream.last_token_at) == ([5, 6, 7], 2.0)


def test_what_comes_twice_adds_nothing() -> None:
    stream = stream_of()
    for update in (part(0, 5, 6), part(0, 5, 6), part(1, 6, 7), part(0, 5)):
        assert stream.accept(update, now=1.0)
    assert heard(stream) == [part(0, 5, 6), part(2, 7)]


def test_logprobs_of_a_prompt_are_handed_on_and_are_no_progress() -> None:
    stream = stream_of()
    stream.note_loss("stage=1")
    told = TokensOf("r", 0, (), None, b"prompt")
    assert stream.accept(told, now=1.0)
    assert heard(stream) == [told]
    assert (stream.num_fruitless, stream.lost_to) == (1, "stage=1")
    token = TokensOf("r", 0, (5,), None, b"token")
    assert stream.accept(token, now=2.0)
    assert heard(stream)[-1] == token
    assert stream.num_fruitless == 0


def test_an_end_without_a_token_is_handed_on() -> None:
    stream = stream_of()
    stream.accept(part(0, 5), now=1.0)
    stream.accept(part(1, finish="stop"), now=2.0)
    assert heard(stream) == [part(0, 5), part(1, finish="stop")]


def test_a_hole_is_told_and_nothing_behind_it_is_handed_on() -> None:
    stream = stream_of()
    stream.accept(part(0, 5), now=1.0)
    assert not stream.accept(part(2, 7), now=2.0)
    assert not stream.accept(part(2, finish="stop"), now=2.0)
    assert heard(stream) == [part(0, 5)]
    assert (stream.delivered, stream.last_token_at) == ([5], 1.0)


@given(st.data())
def test_whatever_comes_the_reader_has_the_beginning_of_the_truth_and_holes_are_told(
    data: st.DataObject,
) -> None:
    truth = tuple(range(100, 100 + data.draw(st.integers(1, 30))))
    stream = stream_of()
    for _ in range(data.draw(st.integers(1, 30))):
        start = data.draw(st.integers(0, len(truth)))
        end = data.draw(st.integers(start, len(truth)))
        had = len(stream.delivered)
        is_whole = stream.accept(part(start, *truth[start:end]), now=0.0)
        assert is_whole == (start <= had)
        assert len(stream.delivered) == (max(had, end) if is_whole else had)
    assert tuple(stream.delivered) == truth[: len(stream.delivered)]
    read: list[int] = []
    for update in heard(stream):
        assert isinstance(update, TokensOf)
        assert (update.position, bool(update.token_ids)) == (len(read), True)
        read += update.token_ids
    assert read == stream.delivered


# --- attempts


def test_the_first_attempt_is_the_request_as_it_came() -> None:
    stream = stream_of(4, 5)
    sent = stream.next_attempt("0", PIPELINE)
    assert sent == request("r", (4, 5), 10, num_prompt_tokens=2)
    assert (stream.pipeline, stream.ref, stream.wire_name) == ("0", PIPELINE, "r")


def test_the_next_attempt_takes_what_was_delivered_along_as_generated() -> None:
    stream = stream_of(4, 5)
    stream.next_attempt("0", PIPELINE)
    stream.accept(part(0, 6, 7), now=1.0)
    sent = stream.next_attempt("1", PIPELINE)
    assert sent == request("r~2", (4, 5, 6, 7), 10, num_prompt_tokens=2)
    assert stream.next_attempt("1", PIPELINE).request == "r~3"


def test_no_two_attempts_have_one_name() -> None:
    stream = stream_of()
    names = [stream.next_attempt("0", PIPELINE).request for _ in range(20)]
    assert len(set(names)) == 20


def test_only_a_stream_without_a_token_has_its_prompt_before_it() -> None:
    stream = stream_of(1, 2, 3)
    assert stream.num_queued_tokens == 3
    stream.accept(part(0, 5), now=1.0)
    assert stream.num_queued_tokens == 0


# --- recoveries


def test_the_first_token_after_a_loss_comes_behind_a_note_of_what_was_lost_and_for_how_long() -> (
    None
):
    stream = stream_of()
    stream.accept(part(0, 5), now=1.0)
    stream.note_loss("stage=1")
    assert stream.num_recoveries == 0
    stream.accept(part(1, 6), now=1.25)
    stream.accept(part(2, 7), now=1.5)
    note = Note("recovered stage=1 gap_ms=250")
    assert heard(stream) == [part(0, 5), note, part(1, 6), part(2, 7)]
    assert stream.num_recoveries == 1


def test_losses_before_the_next_token_are_one_recovery_named_by_the_first() -> None:
    stream = stream_of()
    stream.note_loss("stage=0")
    stream.note_loss("pipeline_lost")
    assert stream.num_fruitless == 2
    stream.accept(part(0, 5), now=2.0)
    assert heard(stream) == [Note("recovered stage=0 gap_ms=2000"), part(0, 5)]
    assert (stream.num_recoveries, stream.num_fruitless) == (1, 0)


@pytest.mark.parametrize(
    "update", [part(0, 5), part(2, 9)], ids=["a repetition", "what is behind a hole"]
)
def test_only_progress_ends_a_recovery(update: TokensOf) -> None:
    stream = stream_of()
    stream.accept(part(0, 5), now=1.0)
    heard(stream)
    stream.note_loss("stage=0")
    stream.accept(update, now=5.0)
    assert heard(stream) == []
    assert (stream.num_recoveries, stream.num_fruitless, stream.lost_to) == (0, 1, "stage=0")


def test_an_end_alone_ends_a_recovery_too() -> None:
    stream = stream_of()
    stream.note_loss("stage=0")
    stream.accept(part(0, finish="stop"), now=1.0)
    assert heard(stream) == [Note("recovered stage=0 gap_ms=1000"), part(0, finish="stop")]


def test_a_failure_is_the_last_that_is_heard() -> None:
    stream = stream_of()
    stream.accept(part(0, 5), now=1.0)
    stream.fail("stage_lost", "nobody replaced it")
    assert heard(stream) == [part(0, 5), Failed("stage_lost", "nobody replaced it")]
