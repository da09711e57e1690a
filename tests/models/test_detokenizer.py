from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from models.detokenizer import Detokenizer

_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def _byte_level() -> Tokenizer:
    """One token for every byte, so that every character of several bytes is cut."""
    fast = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(_ALPHABET)}, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    return fast


def _metaspace() -> Tokenizer:
    """Words with a leading space mark, and bytes to fall back to, as SentencePiece models have."""
    words = ["▁the", "▁horse", "s", "▁", ",", "<0xF0>", "<0x9F>", "<0x90>", "<0xB4>"]
    fast = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=[]))
    fast.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    return fast


BYTE_LEVEL, METASPACE = _byte_level(), _metaspace()


def _stream(fast: Tokenizer, portions: Sequence[Sequence[int]]) -> list[str]:
    detokenizer = Detokenizer(lambda ids: str(fast.decode(list(ids))))
    return [*(detokenizer.push(portion) for portion in portions), detokenizer.flush()]


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=40), st.integers(1, 5))
def test_pieces_of_any_text_join_to_the_text(text: str, portion: int) -> None:
    ids = BYTE_LEVEL.encode(text).ids
    pieces = _stream(BYTE_LEVEL, [ids[i : i + portion] for i in range(0, len(ids), portion)])
    assert "".join(pieces) == text


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=20))
def test_no_piece_holds_half_a_character(text: str) -> None:
    ids = BYTE_LEVEL.encode(text).ids
    assert "\ufffd" not in "".join(_stream(BYTE_LEVEL, [[i] for i in ids]))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 255), max_size=60))
def test_bytes_that_are_no_text_neither_break_nor_stall_it(ids: list[int]) -> None:
    def collapsed(text: str) -> list[str]:
        return [part for part in text.split("\ufffd") if part]

    got, whole = "".join(_stream(BYTE_LEVEL, [[i] for i in ids])), BYTE_LEVEL.decode(ids)
    assert collapsed(got) == collapsed(whole)


def test_a_long_run_of_no_text_is_given_out_before_the_end() -> None:
    ids = BYTE_LEVEL.encode("é").ids[1:] * 100
    pieces = _stream(BYTE_LEVEL, [[i] for i in ids])
    assert any(pieces[:50])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([[0], [1], [2], [3], [4], [5, 6, 7, 8]]), max_size=12))
def test_space_marks_and_byte_fallback_join_to_the_whole_decoding(words: list[list[int]]) -> None:
    ids = [token for word in words for token in word]
    assert "".join(_stream(METASPACE, [[i] for i in ids])) == METASPACE.decode(ids)


def test_a_character_of_four_tokens_appears_with_the_last() -> None:
    assert _stream(METASPACE, [[0], [5], [6], [7], [8], [2]]) == ["the", "", "", "", "🐴", "s", ""]


def test_a_character_that_is_never_finished_shows_as_replaced_at_the_end() -> None:
    assert _stream(BYTE_LEVEL, [BYTE_LEVEL.encode("aé").ids[:2]]) == ["a", "\ufffd"]


def test_after_a_prompt_the_first_word_keeps_its_space() -> None:
    detokenizer = Detokenizer(lambda ids: str(METASPACE.decode(list(ids))), [0])
    assert detokenizer.push([1, 2]) == " horses"
