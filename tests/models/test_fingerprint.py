import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import models.fingerprint
from models.checkpoint import Checkpoint
from models.errors import BadCheckpoint
from models.fingerprint import (
    SAMPLE_BYTES,
    TensorFacts,
    Verify,
    digest_of,
    facts_of,
    model_hash,
    pack_facts,
    unpack_facts,
)
from models.tensor_file import StoredTensor
from tests.support.tiny_checkpoint import write_checkpoint

LARGE = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model")


def hash_of(path: Path, verify: Verify, cache: Path | None = None) -> str:
    facts = facts_of(Checkpoint.open(path).tensors, verify, cache)
    return model_hash((path / "config.json").read_bytes(), facts)


def flip(path: Path, name: str, at: int) -> None:
    """Damage one byte of a tensor, the file's size and header unchanged."""
    tensor = Checkpoint.open(path).tensors[name]
    with tensor.file.open("r+b") as stream:
        stream.seek(tensor.offset + at)
        (byte,) = stream.read(1)
        stream.seek(tensor.offset + at)
        stream.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("verify", ["sample", "full"])
def test_other_weights_under_the_same_headers_are_another_model(
    verify: Verify, path: Path, tmp_path: Path
) -> None:
    other = write_checkpoint(tmp_path / "other", seed=1)
    same = write_checkpoint(tmp_path / "same")
    assert hash_of(path, verify) == hash_of(same, verify) != hash_of(other, verify)


def test_a_single_byte_counts_where_all_is_read_or_where_the_sample_is(path: Path) -> None:
    before = hash_of(path, "sample"), hash_of(path, "full")
    flip(path, LARGE, 3 * SAMPLE_BYTES)
    assert hash_of(path, "sample") == before[0]
    assert hash_of(path, "full") != before[1]
    flip(path, LARGE, 7)
    assert hash_of(path, "sample") != before[0]


def test_a_tensor_no_larger_than_its_sample_is_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(bytes(3 * SAMPLE_BYTES))
    tensor = StoredTensor(file, 0, 3 * SAMPLE_BYTES, "U8", (3 * SAMPLE_BYTES,))
    assert digest_of(tensor, "sample") == digest_of(tensor, "full")


def test_how_tensors_are_spread_over_files_is_no_part_of_the_model(path: Path) -> None:
    before = hash_of(path, "full")
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, mine in parts.items():
        save_file({name: tensors[name] for name in mine}, path / file)
    weight_map = {name: file for file, mine in parts.items() for name in mine}
    index = path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert hash_of(path, "full") == before


def test_a_file_that_ends_early_has_no_digest(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(bytes(10))
    with pytest.raises(BadCheckpoint, match="ends within a tensor"):
        digest_of(StoredTensor(file, 4, 7, "U8", (7,)), "full")


# --- the cache


@pytest.fixture
def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    reads: list[str] = []
    digest = models.fingerprint.digest_of

    def counted(tensor: StoredTensor, verify: Verify) -> str:
        reads.append(verify)
        return digest(tensor, verify)

    monkeypatch.setattr(models.fingerprint, "digest_of", counted)
    return reads


def test_a_whole_file_is_read_once_and_again_only_when_it_changed(
    path: Path, tmp_path: Path, count_reads: list[str]
) -> None:
    cache = tmp_path / "cache"
    first = hash_of(path, "full", cache)
    num_tensors = len(count_reads)
    assert num_tensors > 0
    assert hash_of(path, "full", cache) == first
    assert len(count_reads) == num_tensors
    flip(path, LARGE, 3 * SAMPLE_BYTES)
    os.utime(path / "model.safetensors", ns=(1, 1))
    assert hash_of(path, "full", cache) != first
    assert len(count_reads) == 2 * num_tensors


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": 1}', '{"state": [], "digests": 3}'])
def test_a_garbled_cache_is_as_good_as_none(text: str, path: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = hash_of(path, "full", cache)
    (kept,) = cache.iterdir()
    kept.write_text(text)
    assert hash_of(path, "full", cache) == first
    assert json.loads(kept.read_text())["digests"]


def test_a_cache_that_cannot_be_written_is_no_harm(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert hash_of(path, "full", tmp_path / "file") == hash_of(path, "full")
    assert "digests not remembered" in caplog.text


def test_a_file_that_changes_while_it_is_read_is_no_model(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(tensor: StoredTensor, verify: Verify) -> str:
        os.utime(tensor.file, ns=(5, 5))
        return "d"

    monkeypatch.setattr(models.fingerprint, "digest_of", change)
    with pytest.raises(BadCheckpoint, match="changed while it was read"):
        hash_of(path, "full", tmp_path / "cache")


def test_a_copy_of_a_model_elsewhere_does_not_take_the_originals_digests(
    path: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    first = hash_of(path, "full", cache)
    copied = Path(shutil.copytree(path, tmp_path / "copy"))
    flip(copied, LARGE, 3 * SAMPLE_BYTES)
    assert hash_of(copied, "full", cache) != first


# --- on the way


facts = st.builds(
    TensorFacts,
    st.sampled_from(["F32", "BF16"]),
    st.lists(st.integers(0, 1 << 40), max_size=4).map(tuple),
    st.integers(0, 1 << 50),
    st.text("0123456789abcdef", max_size=32),
)


@given(st.dictionaries(st.text(max_size=20), facts, max_size=8))
def test_facts_arrive_as_they_were_sent(told: dict[str, TensorFacts]) -> None:
    assert unpack_facts(pack_facts(told)) == told


@given(st.binary(max_size=64))
def test_bytes_that_are_no_facts_are_refused_or_are_some(data: bytes) -> None:
    with contextlib.suppress(BadCheckpoint):
        assert isinstance(unpack_facts(data), dict)


@pytest.mark.parametrize(
    "entry",
    [
        ["F32", [1], 4],
        ["F32", [1], 4, 5],
        ["F32", [-1], 4, "d"],
        ["F32", [True], 4, "d"],
        ["F32", [1.5], 4, "d"],
        ["F32", 7, 4, "d"],
        ["F" * 999, [1], 4, "d"],
        [None, [1], 4, "d"],
        {"dtype": "F32"},
    ],
)
def test_facts_that_cannot_be_are_refused(entry: Any) -> None:
    with pytest.raises(BadCheckpoint, match="cannot be read"):
        unpack_facts(json.dumps({"a": entry}).encode())


def test_facts_that_are_nested_without_end_are_refused() -> None:
    with pytest.raises(BadCheckpoint, match="cannot be read"):
        unpack_facts(b"[" * 100_000)


def test_too_many_facts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.fingerprint, "MAX_TENSORS", 1)
    two = {name: ["F32", [1], 4, "d"] for name in "ab"}
    with pytest.raises(BadCheckpoint, match="up to 1 tensors"):
        unpack_facts(json.dumps(two).encode())


def test_each_fact_is_part_of_the_models_hash() -> None:
    fact = TensorFacts("F32", (2, 3), 24, "d")
    others = (
        TensorFacts("I32", (2, 3), 24, "d"),
        TensorFacts("F32", (3, 2), 24, "d"),
        TensorFacts("F32", (2, 3), 25, "d"),
        TensorFacts("F32", (2, 3), 24, "e"),
    )
    hashes = {model_hash(b"{}", {"a": other}) for other in others}
    hashes |= {model_hash(b"{}", {"a": fact}), model_hash(b"{}", {"b": fact})}
    assert len(hashes | {model_hash(b"{ }", {"a": fact})}) == 7
