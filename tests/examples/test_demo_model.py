import argparse
import io
import math
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from examples.demo_model.conversation import conversations
from examples.demo_model.corpus import Entry, clean
from examples.demo_model.samples import samples
from examples.demo_model.tokens import IGNORED, build_stream, train_tokenizer
from examples.train_demo_model import build_model, mean_loss, positive, round_weights, save, train

ENTRIES = (
    Entry(
        name="json",
        kind="module",
        home="json",
        paragraphs=("JSON is a lightweight data interchange format.", "It is a text format."),
    ),
    Entry(
        name="loads",
        kind="function",
        home="json",
        paragraphs=("Deserialize a document to a Python object.",),
    ),
)


@pytest.mark.parametrize(
    ("text", "paragraphs"),
    [
        ("Return the whole value.\n\n    >>> value()\n    1.", ("Return the whole value.",)),
        ("The value is\nnever empty.", ("The value is never empty.",)),
        ("len(obj, /) -> int\n\nReturn the number of items.", ("Return the number of items.",)),
        ("See :class:`~a.Thing` for ``all`` of it.", ("See a.Thing for all of it.",)),
        ("Title of it\n===========\n\nIt\u2019s a whole sentence.", ("It's a whole sentence.",)),
        ("a | b | c\n1 | 2 | 3.", ()),
    ],
)
def test_sentences_stay_and_code_tables_and_titles_go(
    text: str, paragraphs: tuple[str, ...]
) -> None:
    assert clean(text) == paragraphs


@given(st.text())
def test_a_cleaned_paragraph_is_one_line_of_ascii_that_ends_like_a_sentence(text: str) -> None:
    for paragraph in clean(text):
        assert paragraph.isascii()
        assert paragraph == " ".join(paragraph.split())
        assert paragraph[-1] in ".:!?"


@given(st.integers(0, 2**32))
def test_chats_alternate_after_an_optional_system_message_and_repeat_by_seed(seed: int) -> None:
    chats = list(conversations(ENTRIES, random.Random(seed)))
    for chat in chats:
        roles = [message["role"] for message in chat if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2) != []
    assert chats == list(conversations(ENTRIES, random.Random(seed)))


def test_only_answers_are_learned_and_tokens_are_those_of_the_chat_template() -> None:
    tokenizer = train_tokenizer(ENTRIES, random.Random(1))
    stream = build_stream(tokenizer, ENTRIES, random.Random(1))
    token_ids, labels = stream.token_ids.tolist(), stream.labels.tolist()
    learned = [token for token, label in zip(token_ids, labels, strict=True) if label != IGNORED]
    text = tokenizer.decode(token_ids)
    assert "<|user|>What is a list?<|end|><|assistant|>A list is" in text
    assert "<|user|>" not in tokenizer.decode(learned)
    assert "A list is a mutable sequence of objects." in tokenizer.decode(learned)
    assert all(label in (token, IGNORED) for token, label in zip(token_ids, labels, strict=True))


def test_a_few_steps_lower_the_loss_and_the_checkpoint_reads_back_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(1)
    rng = random.Random(1)
    tokenizer = train_tokenizer(ENTRIES, rng)
    stream = build_stream(tokenizer, ENTRIES, rng)
    model = build_model(tokenizer)
    before = mean_loss(model, stream, max_rows=2)
    options = argparse.Namespace(steps=4, minutes=math.inf, fp32=True)
    train(model, stream, rng, options, Console(file=io.StringIO()))
    round_weights(model)
    after = mean_loss(model, stream, max_rows=2)
    assert after < before

    size = save(model, tokenizer, tmp_path)
    assert size == sum(path.stat().st_size for path in tmp_path.iterdir())
    loaded = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert mean_loss(loaded, stream, max_rows=2) == pytest.approx(after)
    reread = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert len(list(samples(loaded, reread))) == 16


def test_training_stops_when_its_minutes_are_over() -> None:
    rng = random.Random(1)
    tokenizer = train_tokenizer(ENTRIES, rng)
    model = build_model(tokenizer)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    options = argparse.Namespace(steps=1000, minutes=1e-12, fp32=True)
    train(model, build_stream(tokenizer, ENTRIES, rng), rng, options, Console(file=io.StringIO()))
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_minutes_must_be_above_zero() -> None:
    assert positive("0.5") == 0.5
    with pytest.raises(argparse.ArgumentTypeError, match="above 0, got 0"):
        positive("0")
