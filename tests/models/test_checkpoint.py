import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.checkpoint import INDEX_NAME, Checkpoint
from models.errors import BadCheckpoint, WeightsMissing
from tests.models.families import FAMILIES, NUM_LAYERS, new_model


@pytest.fixture
def copied(llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama, tmp_path / "copy"))


def _first_file(path: Path) -> Path:
    return min(path.glob("*.safetensors"))


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_add_up_to_the_whole_network(
    family: str, checkpoint_of: Callable[[str], Path]
) -> None:
    checkpoint = Checkpoint.open(checkpoint_of(family))
    network = new_model(family)
    layer = sum(p.nbytes for p in network.model.layers[1].parameters())
    embedding = network.get_input_embeddings().weight.nbytes
    head = network.lm_head.weight.nbytes + network.model.norm.weight.nbytes
    assert checkpoint.layer_bytes(1) == layer
    assert (checkpoint.embedding_bytes(), checkpoint.head_bytes()) == (embedding, head)
    assert checkpoint.weight_bytes(1, 3) == 2 * layer
    assert checkpoint.weight_bytes(0, 2) == embedding + 2 * layer
    assert checkpoint.weight_bytes(3, NUM_LAYERS) == 2 * layer + head
    assert checkpoint.weight_bytes(0, NUM_LAYERS, 2) * 2 == (embedding + NUM_LAYERS * layer + head)


def test_only_chosen_experts_are_active(checkpoint_of: Callable[[str], Path]) -> None:
    mixtral = Checkpoint.open(checkpoint_of("mixtral"))
    experts = sum(
        t.num_elements for n, t in mixtral.tensors.items() if ".experts." in n and "layers.1." in n
    )
    assert experts > 0
    whole = mixtral.layer_bytes(1) // 4
    assert mixtral.active_parameters(1) == whole - experts // 2
    dense = Checkpoint.open(checkpoint_of("llama"))
    assert dense.active_parameters(1) == dense.layer_bytes(1) // 4


def test_the_hash_names_the_model_and_nothing_else(
    llama: Path, copied: Path, checkpoint_of: Callable[[str], Path]
) -> None:
    original = Checkpoint.open(llama).content_hash
    assert Checkpoint.open(copied).content_hash == original
    assert Checkpoint.open(checkpoint_of("qwen3")).content_hash != original
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    assert Checkpoint.open(copied).content_hash != original


def test_a_single_file_needs_no_index(tmp_path: Path) -> None:
    model = new_model("llama").to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.layer_bytes(0) == sum(p.nbytes for p in model.model.layers[0].parameters())
    assert checkpoint.layer_bytes(0, 4) == 2 * checkpoint.layer_bytes(0)


def test_a_file_that_is_not_there_is_named(copied: Path) -> None:
    missing = _first_file(copied)
    missing.unlink()
    with pytest.raises(WeightsMissing, match=missing.name):
        Checkpoint.open(copied)
    (copied / INDEX_NAME).unlink()
    with pytest.raises(WeightsMissing, match=r"not there: model\.safetensors"):
        Checkpoint.open(copied)


@pytest.mark.parametrize("value", ["../secret.safetensors", "/etc/passwd", 3])
def test_an_index_that_points_outside_is_refused(copied: Path, value: object) -> None:
    (copied / INDEX_NAME).write_text(json.dumps({"weight_map": {"a": value}}))
    with pytest.raises(BadCheckpoint, match="weight_map"):
        Checkpoint.open(copied)


def test_an_index_without_a_map_is_refused(copied: Path) -> None:
    (copied / INDEX_NAME).write_text("{}")
    with pytest.raises(BadCheckpoint, match="weight_map"):
        Checkpoint.open(copied)


def _with_header(header: object) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "header, got one of 0 bytes"),
        (b"\xff" * 8, "expected a safetensors header"),
        (_with_header(b"{nonsense"), "expected a JSON header"),
        (_with_header([1, 2]), "expected a JSON object as header"),
        (_with_header({"a": {"dtype": "F32", "shape": [1]}}), "no tensor we can read"),
        (_with_header({"a": 3}), "no tensor we can read"),
        (
            _with_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
            "expected .* bytes or more, got",
        ),
        (
            _with_header({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}})
            + b"8bytes..",
            "does not fit offsets 0:8",
        ),
        (
            _with_header({"a": {"dtype": "Q4", "shape": [2], "data_offsets": [0, 8]}})
            + b"8bytes..",
            "no tensor we can read",
        ),
    ],
)
def test_a_garbled_file_is_refused_by_name(copied: Path, data: bytes, text: str) -> None:
    file = _first_file(copied)
    file.write_bytes(data)
    with pytest.raises(BadCheckpoint, match=text) as caught:
        Checkpoint.open(copied)
    assert file.name in str(caught.value)


def test_a_truncated_file_is_refused(copied: Path) -> None:
    file = _first_file(copied)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BadCheckpoint, match=r"expected .* bytes or more, got"):
        Checkpoint.open(copied)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": "ab"},
        {"shape": [2, -1]},
        {"shape": 7},
        {"data_offsets": [-8, 0]},
        {"data_offsets": [0, "8"]},
        {"data_offsets": [0, 4, 8]},
        {"dtype": ["F32"]},
    ],
)
def test_a_header_entry_of_the_wrong_kind_is_refused(
    copied: Path, change: dict[str, object]
) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | change
    _first_file(copied).write_bytes(_with_header({"a": entry}) + bytes(8))
    with pytest.raises(BadCheckpoint, match="a: "):
        Checkpoint.open(copied)


def test_a_file_cut_short_after_its_header_was_read_is_noticed(copied: Path) -> None:
    stored = next(iter(Checkpoint.open(copied).tensors.values()))
    stored.file.write_bytes(stored.file.read_bytes()[: stored.offset + 1])
    with pytest.raises(BadCheckpoint, match="ends within a tensor, at 1 bytes"):
        stored.read_into(memoryview(bytearray(stored.num_bytes)))
