import json
import os
import shutil
from pathlib import Path

import pytest

from models.checkpoint import FACTS_NAME, Checkpoint
from models.errors import BadCheckpoint, ModelError
from models.fingerprint import unpack_facts
from models.weight_places import WeightPlaces
from models.weight_source import MAX_PIECE_BYTES, WeightSource, open_checked
from tests.support.tiny_checkpoint import write_checkpoint

LARGE = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model")


@pytest.fixture
def source(path: Path) -> WeightSource:
    return WeightSource.open(path, Checkpoint.open(path).content_hash, "sample")


def test_a_directory_with_another_model_is_refused_with_both_hashes(path: Path) -> None:
    found = Checkpoint.open(path).content_hash
    with pytest.raises(ModelError, match=rf"its hash is {found}, expected 00"):
        open_checked(path, "00", "sample")


def test_what_is_given_are_the_bytes_of_the_tensor(path: Path, source: WeightSource) -> None:
    tensor = Checkpoint.open(path).tensors[LARGE]
    raw = bytearray(tensor.num_bytes)
    tensor.read_into(memoryview(raw))
    assert source.read(LARGE, 1000, 5000) == raw[1000:6000]
    assert source.read(LARGE, tensor.num_bytes, 0) == b""


def test_the_small_files_are_those_of_a_model_and_the_facts(
    path: Path, source: WeightSource
) -> None:
    assert source.files.keys() == {"config.json", "tokenizer.json", FACTS_NAME}
    size = source.files["config.json"]
    assert source.read("config.json", 0, size) == (path / "config.json").read_bytes()
    told = unpack_facts(source.read(FACTS_NAME, 0, source.files[FACTS_NAME]))
    assert told.keys() == Checkpoint.open(path).tensors.keys()


@pytest.mark.parametrize(
    "name",
    ["secret.txt", "../secret.txt", "/etc/passwd", "model.safetensors", "", "model.layers.9.x"],
)
def test_nothing_else_can_be_read_by_whatever_name(name: str, source: WeightSource) -> None:
    with pytest.raises(ModelError, match="no such tensor or file"):
        source.read(name, 0, 1)


@pytest.mark.parametrize(
    ("offset", "num_bytes"), [(-1, 4), (0, 6 << 20), (5 << 20, 1), (1 << 40, 1), (0, -1)]
)
def test_bytes_that_a_tensor_has_not_are_refused(
    offset: int, num_bytes: int, source: WeightSource
) -> None:
    with pytest.raises(ModelError, match=r"bytes"):
        source.read(LARGE, offset, num_bytes)
    assert MAX_PIECE_BYTES < 6 << 20


@pytest.mark.parametrize("name", [LARGE, "config.json"])
def test_a_file_that_changed_since_it_was_checked_is_read_no_more(
    name: str, path: Path, source: WeightSource
) -> None:
    for file in path.iterdir():
        os.utime(file, ns=(1, 1))
    with pytest.raises(BadCheckpoint, match="changed since it was checked"):
        source.read(name, 0, 4)


def test_a_small_file_that_is_none_is_left_out(path: Path) -> None:
    with (path / "tokenizer.json").open("wb") as stream:
        stream.truncate((64 << 20) + 1)
    content_hash = Checkpoint.open(path).content_hash
    assert "tokenizer.json" not in WeightSource.open(path, content_hash, "sample").files


def test_facts_that_the_files_beside_them_contradict_are_refused(
    path: Path, source: WeightSource
) -> None:
    told = json.loads(source.facts)
    told[LARGE][1] = [1024, 1280]
    (path / FACTS_NAME).write_text(json.dumps(told))
    with pytest.raises(BadCheckpoint, match=f"{LARGE} is not what"):
        open_checked(path, "00", "sample")


def test_a_node_gives_its_own_copy_before_one_that_came(path: Path, tmp_path: Path) -> None:
    content_hash = Checkpoint.open(path).content_hash
    places = WeightPlaces(locate=Path, landing=tmp_path / "landing")
    assert places.own(str(path), content_hash, "sample") == path
    assert places.source(str(path), content_hash, "sample").files
    shutil.move(path, tmp_path / "landing" / content_hash)
    with pytest.raises(ModelError):
        places.own(str(path), content_hash, "sample")
    assert places.source(str(path), content_hash, "sample").files


@pytest.mark.parametrize("model_hash", ["../up", "", "a/b", "é"])
def test_a_hash_that_is_no_directory_is_refused(model_hash: str, tmp_path: Path) -> None:
    places = WeightPlaces(locate=Path, landing=tmp_path / "landing")
    with pytest.raises(ModelError, match="expected letters and digits"):
        places.landing_for(model_hash, "sample")
