import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.demo import REQUIRED_FILES, checked_folder, demo_path
from models.errors import BadCheckpoint

MAX_BYTES = 6_000_000
PROMPTS = ("The list is", "Number 3:")
QUESTIONS = ("Hello! What is a list?", "What is Python?", "Tell me about threads.")


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(demo_path(), dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(demo_path())


def test_the_checkpoint_is_whole_and_small_enough_for_the_repository() -> None:
    sizes = {path.name: path.stat().st_size for path in demo_path().iterdir()}
    assert set(REQUIRED_FILES) <= set(sizes)
    assert sum(sizes.values()) < MAX_BYTES


def test_a_folder_that_lacks_files_is_refused_with_their_names(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    with pytest.raises(BadCheckpoint, match=r"no model\.safetensors, tokenizer\.json"):
        checked_folder(tmp_path)


def test_finding_the_demo_needs_no_torch() -> None:
    code = "import sys, models.demo as d; d.demo_path(); sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60).returncode == 0


def test_there_are_layers_enough_to_split_and_room_for_long_streams() -> None:
    config = json.loads((demo_path() / "config.json").read_text(encoding="utf-8"))
    assert config["num_hidden_layers"] == 12
    assert config["max_position_embeddings"] >= 1024


def test_every_weight_is_finite_and_was_trained_away_from_its_start(model: Any) -> None:
    for name, weight in model.named_parameters():
        assert torch.isfinite(weight).all(), name
        assert weight.std() > 0, name


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_is_continued_in_words(
    model: Any, tokenizer: Any, prompt: str, temperature: float
) -> None:
    assert_readable(tokenizer.decode(generate(model, tokenizer.encode(prompt), temperature)))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_answered_in_words_and_the_answer_ends_by_itself(
    model: Any, tokenizer: Any, question: str, temperature: float
) -> None:
    chat = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    answer = generate(model, prompt, temperature)
    assert answer[-1] == tokenizer.eos_token_id
    assert_readable(tokenizer.decode(answer, skip_special_tokens=True))


def test_the_chat_template_refuses_a_role_it_does_not_know(tokenizer: Any) -> None:
    with pytest.raises(Exception, match="knows no role 'oracle'"):
        tokenizer.apply_chat_template([{"role": "oracle", "content": "?"}])


def test_the_template_writes_the_same_opening_token_as_the_tokenizer(tokenizer: Any) -> None:
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], return_dict=False)
    assert chat[0] == tokenizer.encode("Hi")[0] == tokenizer.bos_token_id
    assert tokenizer.bos_token_id not in chat[1:]


def generate(model: Any, prompt: Sequence[int], temperature: float) -> list[int]:
    torch.manual_seed(7)
    token_ids = torch.tensor([prompt])
    how = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    output = model.generate(
        token_ids, attention_mask=torch.ones_like(token_ids), max_new_tokens=60, **how
    )
    new: list[int] = output[0, len(prompt) :].tolist()
    return new


def assert_readable(text: str) -> None:
    words = re.findall(r"[A-Za-z]+", text)
    assert len(words) >= 8, text
    most_common, count = Counter(word.lower() for word in words).most_common(1)[0]
    assert count <= len(words) / 2, f"{most_common!r} is half of {text!r}"
