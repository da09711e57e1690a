import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from models.errors import BadCheckpoint, BadTemplate
from models.tokenizer import Tokenizer

WORDS = ["<s>", "</s>", "<unk>", "a", "b", "c", "<|user|>"]
CHAT = "{{ bos_token }}{% for m in messages %}<|user|> {{ m['content'] }} {% endfor %}"


def _write(path: Path, *, opens: bool = False, jinja: str | None = None, **settings: Any) -> Path:
    fast = FastTokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast.add_special_tokens(["<s>", "</s>", "<|user|>"])
    fast.enable_truncation(4)
    fast.enable_padding(length=4)
    if opens:
        fast.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast.save(str(path / "tokenizer.json"))
    fixed = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (path / "tokenizer_config.json").write_text(json.dumps(fixed | settings))
    if jinja is not None:
        (path / "chat_template.jinja").write_text(jinja)
    return path


@pytest.mark.parametrize("opens", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"add_bos_token": True},
        {"add_bos_token": False},
        {"add_eos_token": True},
        {"add_bos_token": True, "add_eos_token": True},
        {"add_bos_token": True, "bos_token": {"content": "<s>", "__type": "AddedToken"}},
        {"added_tokens_decoder": {"7": {"content": "<new>", "special": True}}},
    ],
)
def test_ids_are_those_of_transformers(
    tmp_path: Path, opens: bool, settings: dict[str, Any]
) -> None:
    path = _write(tmp_path, opens=opens, **settings)
    ours, theirs = Tokenizer.from_directory(path), AutoTokenizer.from_pretrained(path)
    for text in ("a b c a b c", "", "<|user|> a <new> x"):
        assert ours.encode(text) == theirs(text, truncation=False, padding=False)["input_ids"]
        assert (
            ours.encode(text, add_special_tokens=False)
            == theirs(text, add_special_tokens=False, truncation=False, padding=False)["input_ids"]
        )


def test_half_a_surrogate_pair_is_an_unknown_character_and_no_crash(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_directory(_write(tmp_path))
    assert tokenizer.encode("a \ud800 b") == [3, 2, 4]


def test_decoding_drops_special_tokens_unless_told_otherwise(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_directory(_write(tmp_path))
    assert tokenizer.decode([0, 3, 4, 1]) == "a b"
    assert tokenizer.decode([0, 3], skip_special_tokens=False) == "<s> a"
    assert tokenizer.detokenizer().push([0, 3, 1, 4]) == "a b"
    assert tokenizer.detokenizer(skip_special_tokens=False).push([0, 3]) == "<s> a"
    assert tokenizer.vocab_size == len(WORDS)


@pytest.mark.parametrize(
    ("jinja", "settings"),
    [
        (CHAT, {}),
        (None, {"chat_template": CHAT}),
        (None, {"chat_template": [{"name": "default", "template": CHAT}]}),
    ],
)
def test_a_chat_renders_as_transformers_renders_it(
    tmp_path: Path, jinja: str | None, settings: dict[str, Any]
) -> None:
    path = _write(tmp_path, opens=True, jinja=jinja, **settings)
    ours, theirs = Tokenizer.from_directory(path), AutoTokenizer.from_pretrained(path)
    messages = [{"role": "user", "content": "a b"}, {"role": "user", "content": "c"}]
    expected = theirs.apply_chat_template(messages, tokenize=False)
    assert ours.render_chat(messages) == expected == "<s><|user|> a b <|user|> c "
    assert ours.encode_chat(messages)[0] == 0
    assert ours.encode_chat(messages)[1] != 0, "the template alone opens the prompt"


def test_a_model_without_a_template_says_so(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_directory(_write(tmp_path))
    with pytest.raises(BadTemplate, match="no chat template"):
        tokenizer.render_chat([{"role": "user", "content": "a"}])


@pytest.mark.parametrize("text", ["", "{}", '{"model": {"type": "BPE"}}', "[]"])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json"):
        Tokenizer.from_directory(tmp_path)


def test_a_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json: expected a readable file"):
        Tokenizer.from_directory(tmp_path)
