"""What a shard loaded beside another one shares with it, and that the other never notices."""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from models.checkpoint import Checkpoint
from models.errors import ModelError, ShapeMismatch
from models.gain import Gain, gained_bytes
from models.network import PassThrough, build_network
from models.pace import Pace
from models.shard import TorchShard, load_shard
from tests.models.driving import make_batch
from tests.models.families import FAMILIES, NUM_LAYERS

NUM_BLOCKS, BLOCK_TOKENS = 8, 4
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5]


def _load(path: Path, start: int, end: int, **options: Any) -> TorchShard:
    sizes = {"num_blocks": NUM_BLOCKS, "block_tokens": BLOCK_TOKENS}
    return load_shard(path, start, end, **(sizes | options))


def _kv(shard: TorchShard) -> dict[int, int]:
    """Where each layer's keys are."""
    return {layer: shard.cache.layer(layer)[0].data_ptr() for layer in range(*shard.layers)}


def _modules(shard: TorchShard) -> Iterator[tuple[str, torch.nn.Module]]:
    """The modules that hold a shard's weights, by name."""
    base = shard.network.model
    named = {f"layers.{index}": layer for index, layer in enumerate(base.layers)}
    named |= {"embed": base.embed_tokens, "norm": base.norm, "head": shard.network.lm_head}
    for name, module in named.items():
        if not isinstance(module, PassThrough):
            yield name, module


def _shared(one: TorchShard, other: TorchShard) -> set[str]:
    mine, theirs = dict(_modules(one)), dict(_modules(other))
    return {name for name in mine.keys() & theirs.keys() if mine[name] is theirs[name]}


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_in_both_are_the_same_modules_and_the_same_kv(
    family: str, checkpoint_of: Callable[[str], Path]
) -> None:
    held = _load(checkpoint_of(family), 0, 3)
    new = _load(checkpoint_of(family), 1, 4, held=held)
    assert _shared(held, new) == {"layers.1", "layers.2"}
    assert {n for n, _ in _modules(new)} == {"layers.1", "layers.2", "layers.3"}
    assert {n for n, _ in _modules(held)} == {"embed", "layers.0", "layers.1", "layers.2"}
    mine, theirs = _kv(held), _kv(new)
    assert [mine[layer] == theirs[layer] for layer in (1, 2)] == [True, True]
    assert len({*mine.values(), *theirs.values()}) == 4


def test_the_embedding_and_the_head_are_shared_where_both_are_at_that_end(llama: Path) -> None:
    whole = _load(llama, 0, NUM_LAYERS)
    assert "embed" in _shared(whole, _load(llama, 0, 1, held=whole))
    assert {"norm", "head"} <= _shared(whole, _load(llama, 4, NUM_LAYERS, held=whole))


def test_narrowing_takes_no_memory(llama: Path) -> None:
    whole = _load(llama, 0, NUM_LAYERS)
    part = whole.narrowed(1, 3)
    assert _shared(whole, part) == {"layers.1", "layers.2"} == {n for n, _ in _modules(part)}
    assert _kv(part) == {layer: at for layer, at in _kv(whole).items() if layer in (1, 2)}


def test_with_other_blocks_the_weights_are_shared_and_the_kv_is_fresh(llama: Path) -> None:
    held = _load(llama, 0, 3)
    for sizes in ({"num_blocks": 9}, {"block_tokens": 8}):
        new = _load(llama, 0, 3, held=held, **sizes)
        assert _shared(held, new) == {"embed", "layers.0", "layers.1", "layers.2"}
        assert not set(_kv(held).values()) & set(_kv(new).values())


def test_with_another_wire_format_all_is_shared(llama: Path) -> None:
    held = _load(llama, 1, 3)
    new = _load(llama, 1, 3, held=held, wire_dtype="bfloat16")
    assert _shared(held, new) == {"layers.1", "layers.2"}
    assert _kv(held) == _kv(new)


def test_with_another_dtype_or_model_nothing_is_shared(llama: Path, tmp_path: Path) -> None:
    held = _load(llama, 0, 3)
    twin = Path(shutil.copytree(llama, tmp_path / "finetuned"))
    for new in (_load(llama, 0, 3, held=held, dtype="bfloat16"), _load(twin, 0, 3, held=held)):
        assert _shared(held, new) == set()
        assert not set(_kv(held).values()) & set(_kv(new).values())


RANGES = [(0, 2), (1, 4), (3, NUM_LAYERS), (0, NUM_LAYERS), (2, 3)]


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3_moe"])
@pytest.mark.parametrize("wanted", RANGES)
def test_what_a_load_adds_is_what_was_foretold(
    family: str, wanted: tuple[int, int], checkpoint_of: Callable[[str], Path]
) -> None:
    path = checkpoint_of(family)
    for span in (None, *RANGES):
        held = None if span is None else _load(path, *span)
        told = [(0, 0)]
        new = _load(path, *wanted, held=held, on_progress=lambda *done: told.append(done))  # noqa: B023
        gain = gained_bytes(
            Checkpoint.open(path),
            *wanted,
            num_blocks=NUM_BLOCKS,
            block_tokens=BLOCK_TOKENS,
            itemsize=4,
            held=span,
        )
        fresh = set(_kv(new).values()) - set(_kv(held).values() if held else ())
        assert told[-1] == (gain.weight_bytes, gain.weight_bytes)
        assert len(fresh) * new.cache.geometry.layer_bytes == gain.kv_bytes
        assert gain.num_bytes == gain.weight_bytes + gain.kv_bytes


def test_blocks_of_another_size_cost_their_kv_for_every_layer(llama: Path) -> None:
    checkpoint = Checkpoint.open(llama)
    sizes = {"num_blocks": 10, "block_tokens": 4, "itemsize": 2, "held": (0, 3)}
    kept = gained_bytes(checkpoint, 1, 4, **sizes)  # type: ignore[arg-type]
    fresh = gained_bytes(checkpoint, 1, 4, **sizes, keeps_kv=False)  # type: ignore[arg-type]
    assert kept.kv_bytes == checkpoint.config.kv_bytes_per_token(1, 2) * 40
    assert fresh == Gain(weight_bytes=kept.weight_bytes, kv_bytes=3 * kept.kv_bytes)


@pytest.mark.parametrize(("wanted", "held"), [((0, 9), None), ((2, 2), None), ((0, 2), (0, 9))])
def test_no_gain_is_told_of_layers_that_the_model_has_not(
    wanted: tuple[int, int], held: tuple[int, int] | None, llama: Path
) -> None:
    with pytest.raises(ShapeMismatch, match=f"expected a range in 0:{NUM_LAYERS}"):
        gained_bytes(
            Checkpoint.open(llama), *wanted, num_blocks=1, block_tokens=1, itemsize=4, held=held
        )


def test_a_shard_at_work_is_not_disturbed_by_loads_in_another_thread(llama: Path) -> None:
    held = _load(llama, 0, 3, dtype="bfloat16")
    batch = make_batch([PROMPT], [0], [[0, 1, 2]])
    loaded: list[TorchShard] = []

    def load() -> None:
        loaded.extend(
            _load(llama, 1, end, held=held, dtype="bfloat16") for end in (4, NUM_LAYERS, 2, 4)
        )

    alone = held.forward(batch, None).hidden
    assert alone is not None
    loader = threading.Thread(target=load)
    loader.start()
    results = {bytes(held.forward(batch, None).hidden or b"")}
    while loader.is_alive():
        results.add(bytes(held.forward(batch, None).hidden or b""))
    loader.join()
    assert len(loaded) == 4
    assert results == {bytes(alone)}
    assert held.layers == (0, 3)


def test_building_never_changes_the_dtype_that_other_threads_compute_in(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[torch.dtype] = []
    change = torch.set_default_dtype

    def record(dtype: torch.dtype) -> None:
        chosen.append(dtype)
        change(dtype)

    monkeypatch.setattr(torch, "set_default_dtype", record)
    network = build_network(llama, 0, 2, torch.bfloat16, torch.device("cpu"))
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    assert set(chosen) <= {torch.float32}


class Clock:
    """Time that passes only while somebody sleeps or works."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        self.slept.append(duration_s)
        self.now_s += duration_s


def test_reading_ahead_of_its_pace_waits_and_time_not_used_is_not_saved() -> None:
    clock = Clock()
    pace = Pace(100.0, clock=clock, sleep=clock.sleep)
    pace.spend(50)
    assert clock.slept == [0.5]
    clock.now_s += 10.0
    pace.spend(50)
    assert clock.slept == [0.5]
    pace.spend(200)
    assert clock.slept == [0.5, 2.0]


def test_without_a_pace_nothing_waits() -> None:
    clock = Clock()
    Pace(None, clock=clock, sleep=clock.sleep).spend(1 << 60)
    assert clock.slept == []


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_pace_at_which_nothing_would_ever_be_read_is_refused(llama: Path, rate: float) -> None:
    with pytest.raises(ModelError, match="max_bytes_per_s: expected more than 0"):
        _load(llama, 0, 1, max_bytes_per_s=rate)


def test_a_load_keeps_its_pace_over_every_byte_that_it_reads(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent: list[int] = []
    monkeypatch.setattr(Pace, "spend", lambda _, num_bytes: spent.append(num_bytes))
    held = _load(llama, 0, 2)
    spent.clear()
    _load(llama, 0, 4, held=held, max_bytes_per_s=1e6)
    checkpoint = Checkpoint.open(llama)
    assert sum(spent) == checkpoint.layer_bytes(2) + checkpoint.layer_bytes(3)
