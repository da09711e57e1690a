import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import models.linear
from models.checkpoint import Checkpoint
from models.dtypes import compute_dtype, torch_dtype
from models.errors import ModelError, ShapeMismatch, UnsupportedModel, WeightsMissing
from models.linear import PackedLinear
from models.network import build_network
from models.shard import TorchShard, load_shard
from models.weights import copy_in_slices, load_weights, num_resident_bytes
from tests.models.families import FAMILIES, NUM_LAYERS, new_model

CPU = torch.device("cpu")


def _load(path: Path, start: int, end: int, **options: object) -> TorchShard:
    return load_shard(path, start, end, num_blocks=4, block_tokens=4, **options)  # type: ignore[arg-type]


@pytest.fixture
def copied(llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama, tmp_path / "copy"))


@pytest.mark.parametrize("family", FAMILIES)
def test_buffers_that_no_checkpoint_holds_are_those_of_a_network_built_in_full(
    family: str, checkpoint_of: Callable[[str], Path]
) -> None:
    ours = build_network(checkpoint_of(family), 0, NUM_LAYERS, torch.float32, CPU)
    theirs = dict(new_model(family).named_buffers())
    assert {name for name, _ in ours.named_buffers()} == set(theirs)
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, theirs[name], rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shard_holds_its_own_layers_and_no_others(
    family: str, checkpoint_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Packed weights are padded to the kernel's tiles, so plain ones are counted here.
    monkeypatch.setattr(models.linear, "can_pack", lambda dtype: False)
    checkpoint = Checkpoint.open(checkpoint_of(family))
    for start, end in ((0, 2), (2, 3), (3, NUM_LAYERS)):
        expected = checkpoint.weight_bytes(start, end, 4)
        held = _load(checkpoint_of(family), start, end).resident_bytes
        rotary_bytes = held - expected
        assert 0 < rotary_bytes < 1000


def test_linear_layers_are_packed_and_leave_no_row_major_copy(llama: Path) -> None:
    network = build_network(llama, 1, 3, torch.float32, CPU)
    load_weights(network, Checkpoint.open(llama), 1, 3, CPU)
    layer = network.model.layers[1]
    assert isinstance(layer.mlp.up_proj, PackedLinear)
    assert all(parameter.dim() == 1 for parameter in network.parameters())
    packed = sum(m.num_bytes for m in network.modules() if isinstance(m, PackedLinear))
    norms = sum(t.nbytes for t in (*network.parameters(), *network.buffers()))
    assert num_resident_bytes(network) == packed + norms


def test_progress_counts_up_to_all_bytes(llama: Path) -> None:
    told: list[tuple[int, int]] = []
    _load(llama, 0, 2, on_progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1] == (Checkpoint.open(llama).weight_bytes(0, 2, 4),) * 2
    assert len({total for _, total in told}) == 1


def _edit(path: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
    """Replace a stored tensor, or drop it from file and index."""
    index_file = path / "model.safetensors.index.json"
    index = json.loads(index_file.read_text())
    file = path / index["weight_map"][name]
    tensors = load_file(file)
    changed = change(tensors.pop(name))
    if changed is None:
        del index["weight_map"][name]
        index_file.write_text(json.dumps(index))
    else:
        tensors[name] = changed
    save_file(tensors, file)


def test_a_missing_tensor_is_named(copied: Path) -> None:
    name = "model.layers.2.mlp.up_proj.weight"
    _edit(copied, name, lambda _: None)
    with pytest.raises(WeightsMissing, match=name):
        _load(copied, 2, 3)
    _load(copied, 0, 2)


def test_a_tensor_of_another_shape_is_named(copied: Path) -> None:
    _edit(copied, "model.layers.2.mlp.up_proj.weight", lambda t: t[:-1].clone())
    with pytest.raises(ShapeMismatch, match=r"up_proj.weight: expected \(96, 96\), got \(95, 96\)"):
        _load(copied, 2, 3)


def test_a_tensor_that_the_network_does_not_know_is_left_alone(copied: Path) -> None:
    name = "model.layers.2.input_layernorm.weight"
    config = json.loads((copied / "config.json").read_text())
    _edit(copied, name, lambda t: t)
    index = json.loads((copied / "model.safetensors.index.json").read_text())
    file = copied / index["weight_map"][name]
    save_file({**load_file(file), "model.layers.2.rotary_emb.inv_freq": torch.ones(3)}, file)
    assert config["num_hidden_layers"] == NUM_LAYERS
    assert _load(copied, 2, 3).layers == (2, 3)


@pytest.mark.parametrize(("start", "end"), [(0, 0), (2, 1), (-1, 2), (0, NUM_LAYERS + 1)])
def test_layers_that_the_model_has_not_are_refused(llama: Path, start: int, end: int) -> None:
    with pytest.raises(ShapeMismatch, match=f"expected a range in 0:{NUM_LAYERS}"):
        _load(llama, start, end)


def test_an_unsupported_architecture_is_refused_before_anything_is_built(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"architectures": ["OPTForCausalLM"]}))
    with pytest.raises(UnsupportedModel, match="OPTForCausalLM"):
        _load(copied, 0, 1)


@pytest.mark.parametrize("options", [{"device": "tpu:0"}, {"dtype": "int3"}, {"wire_dtype": "x"}])
def test_unknown_devices_and_dtypes_are_refused(llama: Path, options: dict[str, str]) -> None:
    with pytest.raises(ModelError, match="expected one of"):
        _load(llama, 0, 1, **options)


def test_auto_is_float32_on_a_cpu_and_bfloat16_on_a_gpu() -> None:
    assert compute_dtype("auto", CPU) is torch.float32
    assert compute_dtype("auto", torch.device("cuda:0")) is torch.bfloat16
    assert compute_dtype("float16", CPU) is torch_dtype("float16") is torch.float16


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (4, 6), (2, 3, 4)])
@pytest.mark.parametrize("size", [1, 6, 7, 1000])
def test_a_copy_in_slices_is_the_whole_tensor_in_the_other_dtype(
    shape: tuple[int, ...], size: int
) -> None:
    source = torch.arange(shape[0] * 30, dtype=torch.float32)[: torch.Size(shape).numel()]
    target = torch.full(shape, -1, dtype=torch.bfloat16)
    copy_in_slices(source.view(shape).transpose(0, -1).contiguous().transpose(0, -1), target, size)
    assert torch.equal(target, source.view(shape).to(torch.bfloat16))
