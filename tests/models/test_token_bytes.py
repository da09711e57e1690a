import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders
from tokenizers.models import BPE

import models.token_bytes as subject
from models.demo import demo_path
from models.token_bytes import token_bytes
from models.tokenizer import Tokenizer


def test_the_examples_of_the_docstring_hold() -> None:
    assert doctest.testmod(subject).failed == 0


@given(st.text(max_size=40))
def test_the_bytes_of_a_texts_tokens_are_the_texts(text: str) -> None:
    tokenizer = Tokenizer.from_directory(demo_path())
    ids = tokenizer.encode(text, add_special_tokens=False)
    plain = [i for i in ids if i > 10]  # what looks like a special token is one
    if len(plain) == len(ids):
        data = b"".join(tokenizer.token_bytes(i) for i in ids)
        assert data == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def test_special_tokens_have_their_names_and_unknown_ones_nothing() -> None:
    tokenizer = Tokenizer.from_directory(demo_path())
    assert tokenizer.token_bytes(2) == b"<|end|>"
    assert tokenizer.token_bytes(1 << 20) == b""


@pytest.mark.parametrize(
    ("piece", "data"), [("▁hay", b" hay"), ("<0xF0>", b"\xf0"), ("é", "é".encode())]
)
def test_a_sentencepiece_vocabulary_writes_spaces_and_bytes_its_own_way(
    piece: str, data: bytes
) -> None:
    fast = FastTokenizer(BPE(vocab={piece: 0}, merges=[]))
    fast.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    assert Tokenizer(fast, None).token_bytes(0) == data
    assert token_bytes(piece, is_byte_level=False) == data
