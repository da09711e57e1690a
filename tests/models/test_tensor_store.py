import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import models.tensor_store
from models.checkpoint import Checkpoint
from models.errors import BadCheckpoint, ModelError
from models.shard import TorchShard, load_shard
from models.tensor_file import StoredTensor, map_tensor
from models.tensor_store import TensorStore
from tests.models.driving import make_batch, run
from tests.models.families import NUM_LAYERS

HASH = "0123456789abcdef"
LARGE = 1 << 30
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5]


@pytest.fixture
def store(tmp_path: Path) -> TensorStore:
    return TensorStore(tmp_path / "store", HASH, LARGE)


@pytest.fixture
def layer(llama: Path) -> dict[str, StoredTensor]:
    """The tensors of one layer."""
    checkpoint = Checkpoint.open(llama)
    return {name: checkpoint.tensors[name] for name in checkpoint.names(2, 3)}


def _load(path: Path, start: int, end: int, **options: Any) -> TorchShard:
    return load_shard(path, start, end, num_blocks=8, block_tokens=4, **options)


def _token(shard: TorchShard) -> list[int]:
    return run([shard], make_batch([PROMPT], [0], [[0, 1, 2]]))


def _bytes(tensor: StoredTensor) -> bytes:
    mapped, begin = map_tensor(tensor)
    return mapped[begin : begin + tensor.num_bytes]


def _unfinished(store: TensorStore, part: str) -> Path:
    return store._file(part).with_suffix(".unfinished")


def test_what_was_put_is_there_for_another_process(
    store: TensorStore, layer: dict[str, StoredTensor], tmp_path: Path
) -> None:
    assert store.get("layer-2", layer) is None
    assert store.put("layer-2", layer)
    other = TensorStore(tmp_path / "store", HASH, LARGE)
    found = other.get("layer-2", layer)
    assert found is not None
    assert found.keys() == layer.keys()
    for name, tensor in layer.items():
        raw = bytearray(tensor.num_bytes)
        tensor.read_into(memoryview(raw))
        assert _bytes(found[name]) == raw
        assert found[name].offset % 4 == 0
    assert other.num_bytes == store.num_bytes > sum(t.num_bytes for t in layer.values())


def test_its_files_are_safetensors_that_anybody_can_read(
    store: TensorStore, layer: dict[str, StoredTensor]
) -> None:
    store.put("layer-2", layer)
    theirs = load_file(store._file("layer-2"))
    assert {name: tuple(t.shape) for name, t in theirs.items()} == {
        name: t.shape for name, t in layer.items()
    }


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3_moe"])
def test_a_shard_from_the_store_needs_no_disk_and_draws_the_same(
    family: str,
    store: TensorStore,
    checkpoint_of: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = checkpoint_of(family)
    plain = _token(_load(path, 0, NUM_LAYERS))
    assert _token(_load(path, 0, NUM_LAYERS, store=store)) == plain

    def refuse(*_: object) -> None:
        raise AssertionError("read from the disk")

    monkeypatch.setattr(StoredTensor, "read_into", refuse)
    assert _token(_load(path, 0, NUM_LAYERS, store=store)) == plain
    with pytest.raises(AssertionError, match="read from the disk"):
        _load(path, 0, NUM_LAYERS)


def test_a_shard_loads_only_the_layers_that_its_neighbour_left_out(
    llama: Path, store: TensorStore
) -> None:
    held = _load(llama, 0, 2, store=store)
    assert len(store._files()) == 3
    _load(llama, 1, NUM_LAYERS, held=held, store=store)
    assert {file.name for file in store._files()} == {
        f"{HASH}-{part}.safetensors"
        for part in ("embedding", "tail", *(f"layer-{i}" for i in range(NUM_LAYERS)))
    }


def test_a_store_without_room_changes_nothing(llama: Path, tmp_path: Path) -> None:
    size = Checkpoint.open(llama).layer_bytes(2)
    small = TensorStore(tmp_path / "small", HASH, 2 * size)
    shard = _load(llama, 0, NUM_LAYERS, store=small)
    assert _token(shard) == _token(_load(llama, 0, NUM_LAYERS))
    assert 0 < small.num_bytes <= 2 * size


def test_a_full_file_system_leaves_nothing_behind(
    store: TensorStore, layer: dict[str, StoredTensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(models.tensor_store, "_write", full)
    assert not store.put("layer-2", layer)
    assert store.num_bytes == 0
    assert store._files() == []
    monkeypatch.undo()
    assert store.put("layer-2", layer)


def test_a_part_that_another_is_writing_is_left_to_it(
    store: TensorStore, layer: dict[str, StoredTensor]
) -> None:
    with models.tensor_store._alone(_unfinished(store, "layer-2")) as descriptor:
        assert descriptor is not None
        assert not store.put("layer-2", layer)
    assert store.put("layer-2", layer)


def test_what_a_writer_that_died_left_is_written_over(
    store: TensorStore, layer: dict[str, StoredTensor]
) -> None:
    _unfinished(store, "layer-2").write_bytes(b"half of it" * 1000)
    assert store.put("layer-2", layer)
    assert store.get("layer-2", layer) is not None
    assert not _unfinished(store, "layer-2").exists()


def test_a_file_that_was_finished_meanwhile_is_never_emptied(
    store: TensorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, finished = tmp_path / "store" / "a.unfinished", tmp_path / "store" / "a.safetensors"
    path.write_bytes(b"whole")
    lock = fcntl.flock

    def lock_late(descriptor: int, operation: int) -> None:
        path.rename(finished)
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    with models.tensor_store._alone(path) as descriptor:
        assert descriptor is None
    assert finished.read_bytes() == b"whole"


def test_tensors_of_a_checkpoint_that_was_exchanged_in_place_are_not_given_out(
    llama: Path, tmp_path: Path, store: TensorStore
) -> None:
    path = Path(shutil.copytree(llama, tmp_path / "model"))
    checkpoint = Checkpoint.open(path)
    tensors = {name: checkpoint.tensors[name] for name in checkpoint.names(2, 3)}
    assert store.put("layer-2", tensors)
    assert store.get("layer-2", tensors) is not None
    for file in {tensor.file for tensor in tensors.values()}:
        os.utime(file, ns=(1, 1))
    assert store.get("layer-2", tensors) is None
    # The stale file's room is that of the new one.
    tight = TensorStore(tmp_path / "store", HASH, store.num_bytes)
    assert tight.put("layer-2", tensors)
    assert tight.get("layer-2", tensors) is not None


def test_a_part_with_other_tensors_is_not_given_out(
    store: TensorStore, layer: dict[str, StoredTensor]
) -> None:
    store.put("layer-2", layer)
    files = [tensor.file for tensor in layer.values()]
    left_out = next(name for name, tensor in layer.items() if files.count(tensor.file) > 1)
    fewer = {name: tensor for name, tensor in layer.items() if name != left_out}
    assert models.tensor_store._stamp(fewer) == models.tensor_store._stamp(layer)
    assert store.get("layer-2", fewer) is None


def test_a_garbled_file_is_as_good_as_none(
    store: TensorStore, layer: dict[str, StoredTensor], caplog: pytest.LogCaptureFixture
) -> None:
    store._file("layer-2").write_bytes(json.dumps({"not": "safetensors"}).encode())
    assert store.get("layer-2", layer) is None
    assert "stored tensors garbled part=layer-2" in caplog.text


def test_removing_all_takes_this_models_files_and_mapped_ones_stay_readable(
    store: TensorStore, layer: dict[str, StoredTensor], tmp_path: Path
) -> None:
    other = TensorStore(tmp_path / "store", "f" * 32, LARGE)
    assert store.put("layer-2", layer)
    assert other.put("layer-2", layer)
    found = store.get("layer-2", layer)
    assert found is not None
    name, tensor = next(iter(found.items()))
    mapped, begin = map_tensor(tensor)
    _unfinished(store, "layer-3").write_bytes(b"half")
    store.remove_all()
    assert store.get("layer-2", layer) is None
    assert not _unfinished(store, "layer-3").exists()
    assert other.get("layer-2", layer) is not None
    raw = bytearray(layer[name].num_bytes)
    layer[name].read_into(memoryview(raw))
    assert mapped[begin : begin + tensor.num_bytes] == raw
    with pytest.raises(BadCheckpoint, match="cannot be mapped"):
        map_tensor(tensor)


@pytest.mark.parametrize("model_hash", ["", "abc", "../../etc/passwd", "ABCDEF0123"])
def test_a_hash_that_is_no_file_name_is_refused(tmp_path: Path, model_hash: str) -> None:
    with pytest.raises(ModelError, match="expected 8 to 128 hexadecimal digits"):
        TensorStore(tmp_path, model_hash, LARGE)
