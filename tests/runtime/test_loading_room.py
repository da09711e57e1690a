from pathlib import Path

import msgspec
import pytest

import models.device
from actors.kernel.ref import Ref
from actors.messages import AssignStage, WeightPolicy
from models.checkpoint import Checkpoint
from models.demo import demo_path
from models.errors import ModelError
from models.gain import gained_bytes
from models.shard import TorchShard, load_shard
from models.tensor_store import TensorStore
from runtime.loading_room import need_of, store_for
from runtime.torch_device import TorchDevice
from tests.actors.emulated_pipeline import assignment

NOBODY = Ref("tcp://127.0.0.1:1", 1, "nobody")
LARGE = 1 << 40
STORED = 1 << 30


@pytest.fixture(scope="module")
def demo() -> Checkpoint:
    return Checkpoint.open(demo_path())


@pytest.fixture(scope="module")
def wanted(demo: Checkpoint) -> AssignStage:
    return msgspec.structs.replace(
        assignment(0, (0, 2), NOBODY, NOBODY),
        model_hash=demo.content_hash,
        weights=WeightPolicy(store_bytes=STORED),
    )


@pytest.fixture(scope="module")
def held(wanted: AssignStage) -> TorchShard:
    return load_shard(
        demo_path(),
        0,
        2,
        num_blocks=wanted.num_blocks,
        block_tokens=wanted.block_tokens,
        model_hash=wanted.model_hash,
    )


def set_free(monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    monkeypatch.setattr(models.device, "free_bytes", lambda _: num_bytes)


def gain_of(wanted: AssignStage, demo: Checkpoint) -> int:
    return gained_bytes(
        demo,
        wanted.start,
        wanted.end,
        num_blocks=wanted.num_blocks,
        block_tokens=wanted.block_tokens,
        itemsize=4,
    ).num_bytes


def test_what_is_held_of_the_same_model_adds_nothing(
    wanted: AssignStage, demo: Checkpoint, held: TorchShard
) -> None:
    need = need_of(wanted, demo, "cpu", held, None)
    assert (need.weight_bytes, need.kv_bytes, need.stored_bytes) == (0, 0, 0)
    more = msgspec.structs.replace(wanted, end=3)
    assert need_of(more, demo, "cpu", held, None).weight_bytes == demo.layer_bytes(2, 4)
    others = msgspec.structs.replace(wanted, model_hash="another")
    assert need_of(others, demo, "cpu", held, None).weight_bytes > demo.layer_bytes(0, 4)
    blocks = msgspec.structs.replace(wanted, num_blocks=wanted.num_blocks * 2)
    assert need_of(blocks, demo, "cpu", held, None).kv_bytes > 0


def test_the_store_adds_what_it_lacks_of_what_is_read(
    wanted: AssignStage, demo: Checkpoint, held: TorchShard, tmp_path: Path
) -> None:
    store = TensorStore(tmp_path, wanted.model_hash, STORED)
    whole = sum(demo.tensors[name].num_bytes for name in demo.names(0, 2))
    assert need_of(wanted, demo, "cpu", None, store).stored_bytes == whole
    more = msgspec.structs.replace(wanted, end=3)
    assert need_of(more, demo, "cpu", held, store).stored_bytes >= demo.layer_bytes(2)
    assert need_of(more, demo, "cpu", held, store).stored_bytes < whole


def test_layers_that_do_not_fit_are_refused_with_numbers_before_anything_is_read(
    wanted: AssignStage, demo: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_free(monkeypatch, gain_of(wanted, demo) - 1)
    message = r"layers 0:2 do not fit on cpu: they add [\d.]+ MB of weights and [\d.]+ MB of KV, "
    with pytest.raises(ModelError, match=message):
        store_for(wanted, demo, "cpu", None, tmp_path)
    with pytest.raises(ModelError, match=message):
        TorchDevice("cpu", 1, tmp_path).load(
            msgspec.structs.replace(wanted, model="demo"), None, lambda *_: None
        )
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_store_gives_way_where_there_is_no_room_beside_what_must_be_loaded(
    wanted: AssignStage,
    demo: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    set_free(monkeypatch, gain_of(wanted, demo) + 10)
    store = store_for(wanted, demo, "cpu", None, tmp_path)
    assert store is not None
    wants = {name: demo.tensors[name] for name in demo.names(0, 1)}
    assert not store.put("layer-0", wants)
    assert "tensor store takes no more" in caplog.text
    set_free(monkeypatch, LARGE)
    roomy = store_for(wanted, demo, "cpu", None, tmp_path)
    assert roomy is not None
    assert roomy.put("layer-0", wants)


@pytest.mark.parametrize("has_directory", [False, True])
def test_there_is_no_store_without_a_place_or_without_bytes_for_it(
    wanted: AssignStage, demo: Checkpoint, tmp_path: Path, has_directory: bool
) -> None:
    none = msgspec.structs.replace(wanted, weights=WeightPolicy(store_bytes=0))
    chosen = none if has_directory else wanted
    assert store_for(chosen, demo, "cpu", None, tmp_path if has_directory else None) is None


def test_a_device_attaches_what_an_earlier_one_left_and_refuses_another_model(
    wanted: AssignStage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    asked = msgspec.structs.replace(wanted, model="demo")
    for _ in range(2):
        loaded = TorchDevice("cpu", 1, tmp_path).load(asked, None, lambda *_: None)
        assert loaded.shard.layers == (0, 2)
    found = [r.getMessage() for r in caplog.records if "tensors attached" in r.getMessage()]
    assert found == ["tensors attached parts=0 of=3", "tensors attached parts=3 of=3"]
    with pytest.raises(ModelError, match="is not the model that is served"):
        TorchDevice("cpu", 1, tmp_path).load(
            msgspec.structs.replace(asked, model_hash="0" * 32), None, lambda *_: None
        )
