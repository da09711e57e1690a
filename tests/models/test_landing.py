import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from models.checkpoint import FACTS_NAME, Checkpoint
from models.errors import ModelError
from models.landing import PIECE_BYTES, Landing, LandingPart
from models.weight_source import WeightSource, open_checked
from tests.support.tiny_checkpoint import NUM_LAYERS, write_checkpoint

LARGE = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model")


@pytest.fixture
def content_hash(path: Path) -> str:
    return Checkpoint.open(path).content_hash


@pytest.fixture
def source(path: Path, content_hash: str) -> WeightSource:
    return WeightSource.open(path, content_hash, "sample")


@pytest.fixture
def landing(tmp_path: Path, content_hash: str, source: WeightSource) -> Landing:
    landing = Landing(tmp_path / "landing", content_hash, "sample")
    landing.describe(small_files(source))
    return landing


def small_files(source: WeightSource) -> dict[str, bytes]:
    return {name: source.read(name, 0, size) for name, size in source.files.items()}


def fill(part: LandingPart, source: WeightSource) -> None:
    for piece in part.missing:
        part.write(piece.name, piece.offset, source.read(piece.name, piece.offset, piece.num_bytes))


def fetch(landing: Landing, source: WeightSource, start: int, end: int) -> None:
    for name, facts in landing.missing(start, end).items():
        with landing.begin(name, facts) as part:
            fill(part, source)
            part.finish()


def names_in(landing: Landing) -> set[str]:
    return {file.name for file in landing.directory.iterdir()}


def test_what_was_fetched_is_a_checkpoint_of_those_layers(
    landing: Landing, source: WeightSource, path: Path, content_hash: str
) -> None:
    fetch(landing, source, 0, 2)
    checkpoint, _ = open_checked(landing.directory, content_hash, "sample")
    own = Checkpoint.open(path)
    assert set(checkpoint.tensors) == set(own.names(0, 2))
    for name in own.names(0, 2):
        theirs, mine = checkpoint.tensors[name], own.tensors[name]
        assert theirs.shape == mine.shape
        raws = [bytearray(mine.num_bytes) for _ in range(2)]
        theirs.read_into(memoryview(raws[0]))
        mine.read_into(memoryview(raws[1]))
        assert raws[0] == raws[1]
    assert names_in(landing) == {
        "config.json", "tokenizer.json", FACTS_NAME,
        "embedding.safetensors", "layer-0.safetensors", "layer-1.safetensors",
    }  # fmt: skip


def test_only_what_is_not_there_is_missing_and_in_the_end_nothing(
    landing: Landing, source: WeightSource
) -> None:
    assert landing.missing(1, 2).keys() == {"layer-1"}
    fetch(landing, source, 1, 2)
    assert landing.missing(0, NUM_LAYERS).keys() == {"embedding", "layer-0", "layer-2", "tail"}
    fetch(landing, source, 0, NUM_LAYERS)
    assert landing.missing(0, NUM_LAYERS) == {}


def test_what_came_can_be_given_on_but_for_what_did_not(
    landing: Landing, source: WeightSource, content_hash: str
) -> None:
    fetch(landing, source, 1, 2)
    second = WeightSource.open(landing.directory, content_hash, "sample")
    assert second.read(LARGE, 5, 9) == source.read(LARGE, 5, 9)
    assert second.facts == source.facts
    with pytest.raises(ModelError, match="no such tensor"):
        second.read("model.norm.weight", 0, 4)


def test_a_description_of_another_model_is_refused_and_leaves_nothing(
    tmp_path: Path, source: WeightSource
) -> None:
    landing = Landing(tmp_path / "landing", "00", "sample")
    with pytest.raises(ModelError, match=r"what came is the model .*, expected 00"):
        landing.describe(small_files(source))
    assert not landing.is_described
    assert names_in(landing) == set()


@pytest.mark.parametrize("name", ["../evil", "secret.txt", "/etc/passwd", "model.safetensors"])
def test_a_file_by_another_name_is_refused(
    name: str, tmp_path: Path, content_hash: str, source: WeightSource
) -> None:
    landing = Landing(tmp_path / "landing", content_hash, "sample")
    with pytest.raises(ModelError, match="is no file of a model"):
        landing.describe({**small_files(source), name: b""})
    assert names_in(landing) == set()


@pytest.mark.parametrize("name", ["config.json", FACTS_NAME])
def test_a_description_without_its_heart_is_refused(
    name: str, tmp_path: Path, content_hash: str, source: WeightSource
) -> None:
    landing = Landing(tmp_path / "landing", content_hash, "sample")
    files = small_files(source)
    del files[name]
    with pytest.raises(ModelError, match=f"{name} did not come"):
        landing.describe(files)


@pytest.mark.parametrize(
    ("name", "offset", "num_bytes"),
    [
        ("model.layers.0.mlp.up_proj.weight", 0, PIECE_BYTES),
        ("model.layers.1.mlp.up_proj.weight", 1, PIECE_BYTES),
        ("model.layers.1.mlp.up_proj.weight", 0, PIECE_BYTES - 1),
        ("model.layers.1.mlp.up_proj.weight", 2 * PIECE_BYTES, PIECE_BYTES),
        ("model.layers.1.mlp.up_proj.weight", -PIECE_BYTES, PIECE_BYTES),
    ],
    ids=["of another part", "beside its place", "too short", "too long", "before the file"],
)
def test_a_piece_that_is_not_awaited_is_refused(
    name: str, offset: int, num_bytes: int, landing: Landing
) -> None:
    ((part_name, facts),) = landing.missing(1, 2).items()
    with landing.begin(part_name, facts) as part:
        before = part.missing
        with pytest.raises(ModelError, match="are not awaited"):
            part.write(name, offset, bytes(num_bytes))
        assert part.missing == before


def test_a_piece_that_came_is_not_taken_twice(landing: Landing, source: WeightSource) -> None:
    ((name, facts),) = landing.missing(1, 2).items()
    with landing.begin(name, facts) as part:
        part.write(LARGE, 0, source.read(LARGE, 0, PIECE_BYTES))
        with pytest.raises(ModelError, match="are not awaited"):
            part.write(LARGE, 0, bytes(PIECE_BYTES))


def test_a_tensor_with_other_bytes_is_fetched_again_and_the_part_is_not_there_till_then(
    landing: Landing, source: WeightSource
) -> None:
    ((name, facts),) = landing.missing(1, 2).items()
    with landing.begin(name, facts) as part:
        part.write(LARGE, 0, bytes(PIECE_BYTES))
        with pytest.raises(ModelError, match="has not come whole"):
            part.finish()
        fill(part, source)
        with pytest.raises(ModelError, match="came with other bytes"):
            part.finish()
        assert {piece.name for piece in part.missing} == {LARGE}
        assert len(part.missing) == 3
        assert landing.missing(1, 2)
        fill(part, source)
        part.finish()
    assert not landing.missing(1, 2)


def test_a_part_that_was_not_finished_leaves_nothing(landing: Landing) -> None:
    before = names_in(landing)
    ((name, facts),) = landing.missing(1, 2).items()
    with landing.begin(name, facts) as part:
        assert len(names_in(landing)) == len(before) + 1
    assert names_in(landing) == before
    part.close()


def test_two_who_fetch_one_part_do_not_harm_each_other(
    landing: Landing, source: WeightSource, content_hash: str
) -> None:
    ((name, facts),) = landing.missing(1, 2).items()
    with landing.begin(name, facts) as one, landing.begin(name, facts) as other:
        fill(one, source)
        Landing(landing.directory, content_hash, "sample")
        fill(other, source)
        one.finish()
        other.finish()
    assert not landing.missing(1, 2)
    assert open_checked(landing.directory, content_hash, "sample")


def test_what_one_that_is_gone_left_is_removed_and_what_is_under_way_is_not(
    landing: Landing, content_hash: str
) -> None:
    left = landing.directory / "layer-1.safetensors.77.0.unfinished"
    left.write_bytes(b"half")
    ((name, facts),) = landing.missing(1, 2).items()
    with landing.begin(name, facts):
        Landing(landing.directory, content_hash, "sample")
        assert not left.exists()
        assert [n for n in names_in(landing) if f".{os.getpid()}." in n]


def test_parts_that_do_not_fit_are_refused_with_numbers(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = SimpleNamespace(free=6_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    landing.check_room(landing.missing(1, 2))
    with pytest.raises(ModelError, match=r"weights of 10\.5 MB .* and 6\.0 MB are free"):
        landing.check_room(landing.missing(0, 2))
