import errno
import fcntl
import gc
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
from models.errors import ModelError
from models.shard import TorchShard, load_shard
from models.tensor_file import StoredTensor, map_tensor
from models.tensor_store import TensorStore
from tests.models.driving import make_batch, run
from tests.models.families import NUM_LAYERS
from tests.support.tiny_checkpoint import write_checkpoint

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


@pytest.mark.parametrize("model_hash", ["", "abc", "../../etc/passwd", "ABCDEF0123"])
def test_a_hash_that_is_no_file_name_is_refused(tmp_path: Path, model_hash: str) -> None:
    with pytest.raises(ModelError, match="expected 8 to 128 hexadecimal digits"):
        TensorStore(tmp_path, model_hash, LARGE)


# --- holding, and making room


def _sized(layer: dict[str, StoredTensor], directory: Path, num_parts: int) -> TensorStore:
    """A store with room for so many parts like this one, and no more."""
    probe = TensorStore(directory / "probe", HASH, LARGE)
    assert probe.put("layer-2", layer)
    return TensorStore(directory / "sized", HASH, num_parts * probe.num_bytes + 512)


def _put_in_order(store: TensorStore, layer: dict[str, StoredTensor], *parts: str) -> None:
    for number, part in enumerate(parts):
        assert store.put(part, layer)
        os.utime(store._file(part), ns=(number, number))


def _parts_in(store: TensorStore) -> set[str]:
    return {file.stem.removeprefix(f"{HASH}-") for file in store._files()}


def test_what_nobody_holds_makes_room_the_longest_unused_first(
    layer: dict[str, StoredTensor], tmp_path: Path
) -> None:
    store = _sized(layer, tmp_path, 3)
    _put_in_order(store, layer, "layer-0", "layer-1", "layer-2")
    assert store.get("layer-0", layer) is not None  # used now
    assert store.put("layer-3", layer)
    assert _parts_in(store) == {"layer-0", "layer-2", "layer-3"}


def test_what_somebody_holds_stays_until_it_is_let_go(
    layer: dict[str, StoredTensor], tmp_path: Path
) -> None:
    store, other = _sized(layer, tmp_path, 2), TensorStore(tmp_path / "sized", "f" * 32, LARGE)
    _put_in_order(store, layer, "layer-0", "layer-1")
    hold = store.hold(["layer-0", "layer-1", "layer-9"])
    assert not store.put("layer-2", layer)
    assert _parts_in(store) == {"layer-0", "layer-1"}
    hold.close()
    hold.close()
    assert store.put("layer-2", layer)
    assert _parts_in(store) == {"layer-1", "layer-2"}
    assert other.num_bytes == store.num_bytes


def test_nothing_goes_for_what_would_not_fit_even_then(
    layer: dict[str, StoredTensor], tmp_path: Path
) -> None:
    store = _sized(layer, tmp_path, 2)
    _put_in_order(store, layer, "layer-0", "layer-1")
    twice = {**layer, **{f"again.{name}": tensor for name, tensor in layer.items()}}
    with_more = {**twice, **{f"more.{name}": tensor for name, tensor in layer.items()}}
    assert not store.put("layer-2", with_more)
    assert _parts_in(store) == {"layer-0", "layer-1"}


def test_the_parts_of_a_living_shard_are_held_and_those_of_one_that_is_gone_are_not(
    llama: Path, tmp_path: Path
) -> None:
    needed = _load(llama, 0, 2, store=TensorStore(tmp_path / "all", HASH, LARGE))
    bound = TensorStore(tmp_path / "all", HASH, LARGE).num_bytes + 512
    del needed
    store = TensorStore(tmp_path / "store", HASH, bound)
    shard = _load(llama, 0, 2, store=store)
    before = _parts_in(store)
    _load(llama, 2, NUM_LAYERS, store=store)
    assert _parts_in(store) == before
    del shard
    gc.collect()
    _load(llama, 2, NUM_LAYERS, store=store)
    assert "layer-2" in _parts_in(store)
    assert store.num_bytes <= bound


def test_a_shard_that_shares_layers_with_an_older_one_holds_them_for_itself(
    llama: Path, store: TensorStore
) -> None:
    held = _load(llama, 0, 2, store=store)
    newer = _load(llama, 1, NUM_LAYERS, held=held, store=store)
    del held
    gc.collect()
    full = TensorStore(store._directory, HASH, store.num_bytes)
    tensors = Checkpoint.open(llama).tensors
    part = {n: t for n, t in tensors.items() if "layers.0." in n}
    assert full.put("layer-9", part)
    assert "layer-0" not in _parts_in(store)
    assert {"layer-1", "tail"} <= _parts_in(store)
    assert newer.layers == (1, NUM_LAYERS)


def test_what_would_be_added_is_told_beforehand(
    layer: dict[str, StoredTensor], tmp_path: Path
) -> None:
    store = _sized(layer, tmp_path, 1)
    size = sum(tensor.num_bytes for tensor in layer.values())
    assert store.missing_bytes(layer) == size
    assert store.put("layer-2", layer)
    assert store.missing_bytes(layer) == 0
    assert TensorStore(tmp_path / "empty", HASH, 10).missing_bytes(layer) == 10


def test_a_cpu_uses_rows_as_they_lie_in_the_store_and_says_how_many_bytes(
    llama: Path, store: TensorStore
) -> None:
    plain = _load(llama, 0, NUM_LAYERS)
    assert plain.shared_bytes == 0
    shard = _load(llama, 0, NUM_LAYERS, store=store)
    embedding = Checkpoint.open(llama).embedding_bytes()
    assert embedding <= shard.shared_bytes < shard.resident_bytes == plain.resident_bytes
    assert shard.narrowed(1, NUM_LAYERS).shared_bytes < embedding
    newer = _load(llama, 0, 2, held=shard, store=store)
    assert embedding <= newer.shared_bytes < shard.shared_bytes
    other = _load(llama, 0, 2, store=store, dtype="bfloat16")
    assert other.shared_bytes == 0
    shard.network.get_input_embeddings().weight.data.fill_(0)  # its own pages alone
    assert _token(_load(llama, 0, NUM_LAYERS, store=store)) == _token(plain)


def test_a_part_is_stored_chunk_by_chunk_and_every_byte_is_paid_for(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model")
    checkpoint = Checkpoint.open(path)
    tensors = {name: checkpoint.tensors[name] for name in checkpoint.names(1, 2)}
    store, spent = TensorStore(tmp_path / "store", HASH, LARGE), list[int]()
    assert store.put("layer-1", tensors, spent.append)
    assert sum(spent) == sum(tensor.num_bytes for tensor in tensors.values())
    assert max(spent) == 4 << 20
    found = store.get("layer-1", tensors)
    assert found is not None
    for name, tensor in tensors.items():
        raw = bytearray(tensor.num_bytes)
        tensor.read_into(memoryview(raw))
        assert _bytes(found[name]) == raw
