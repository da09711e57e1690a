"""Which tensors a checkpoint holds and where, from its safetensors headers alone.

The one idea: a planner must know what layers weigh, and a handshake whether two nodes hold the
same model, before anybody loads a byte. Headers are small; of the weights behind them only a few
pieces are read, for the model's hash, and torch is never imported.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from models.config import ModelConfig, read_json
from models.errors import BadCheckpoint, WeightsMissing
from models.fingerprint import facts_of, model_hash
from models.tensor_file import StoredTensor, read_header

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
FACTS_NAME = "remuda.tensors.json"
"""Stands in a directory that is filled part by part, from elsewhere; says what all will be."""
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tensors of a model's directory by name."""

    config: ModelConfig
    tensors: Mapping[str, StoredTensor]
    directory: Path

    @classmethod
    def open(cls, path: str | Path) -> "Checkpoint":
        """Read the config and the headers of every safetensors file.

        Raises:
            UnsupportedModel: the architecture is not one we run.
            WeightsMissing: there are no safetensors files, or one named by the index is not there.
            BadCheckpoint: a file is garbled or shorter than its header says.
        """
        directory = Path(path)
        config = ModelConfig.from_directory(directory)
        tensors: dict[str, StoredTensor] = {}
        for file in _files(directory):
            tensors.update(read_header(file)[1])
        return cls(config, tensors, directory)

    @property
    def content_hash(self) -> str:
        """Names this model by its config, its tensors and a sample of their numbers.

        `models.fingerprint` says what that guarantees, and how to have all of them read.
        """
        config = (self.directory / "config.json").read_bytes()
        return model_hash(config, facts_of(self.tensors, "sample"))

    def names(self, start: int, end: int) -> list[str]:
        """Names of the tensors that layers `[start, end)` need, embedding and head among them."""
        return [name for name in self.tensors if belongs(self.config, name, start, end)]

    def weight_bytes(self, start: int, end: int, itemsize: int | None = None) -> int:
        """Bytes that a shard of layers `[start, end)` holds, embedding and head among them.

        A head tied to the embedding counts for itself: it is kept in a layout of its own.

        Args:
            start: first layer; 0 adds the embedding.
            end: layer after the last; the model's number of layers adds the norm and head.
            itemsize: bytes of one number on the device; None keeps the checkpoint's.
        """
        embedding = self.embedding_bytes(itemsize) if start == 0 else 0
        head = self.head_bytes(itemsize) if end == self.config.num_layers else 0
        layers = (
            n for n in self.tensors if (index := layer_of(n)) is not None and start <= index < end
        )
        return embedding + self._bytes(layers, itemsize) + head

    def layer_bytes(self, layer: int, itemsize: int | None = None) -> int:
        """Bytes of one layer alone."""
        return self._bytes((n for n in self.tensors if layer_of(n) == layer), itemsize)

    def embedding_bytes(self, itemsize: int | None = None) -> int:
        """Bytes of the token embedding."""
        return self._bytes((n for n in self.tensors if _is_embedding(n)), itemsize)

    def head_bytes(self, itemsize: int | None = None) -> int:
        """Bytes of the final norm and the head, which is the embedding where the two are tied."""
        names = (n for n in self.tensors if layer_of(n) is None and _is_tail(self.config, n))
        return self._bytes(names, itemsize)

    def active_parameters(self, layer: int) -> int:
        """Weights of a layer that one token is multiplied with: all but the experts not chosen."""
        share = self.config.experts_per_token / max(self.config.num_experts, 1)
        mine = [(n, t.num_elements) for n, t in self.tensors.items() if layer_of(n) == layer]
        return sum(int(count * share) if ".experts." in name else count for name, count in mine)

    def _bytes(self, names: Iterable[str], itemsize: int | None) -> int:
        chosen = [self.tensors[name] for name in names]
        return sum(t.num_elements * itemsize if itemsize else t.num_bytes for t in chosen)


def layer_of(name: str) -> int | None:
    """The layer a tensor belongs to, or None for embedding, final norm and head."""
    match = _LAYER.search(name)
    return int(match[1]) if match else None


def belongs(config: ModelConfig, name: str, start: int, end: int) -> bool:
    """Whether layers `[start, end)`, with embedding and head at the ends, need a tensor."""
    layer = layer_of(name)
    if layer is not None:
        return start <= layer < end
    is_last = end == config.num_layers
    return (start == 0 and _is_embedding(name)) or (is_last and _is_tail(config, name))


def part_of(name: str) -> str:
    """Which part of a model a tensor is in: a layer, the embedding, or what follows all layers."""
    layer = layer_of(name)
    if layer is not None:
        return f"layer-{layer}"
    return "embedding" if _is_embedding(name) else "tail"


def _is_tail(config: ModelConfig, name: str) -> bool:
    if config.tie_word_embeddings:
        return not name.endswith("lm_head.weight")
    return not _is_embedding(name)


def _is_embedding(name: str) -> bool:
    return name.endswith("embed_tokens.weight")


def _files(directory: Path) -> list[Path]:
    if (directory / FACTS_NAME).exists():
        return sorted(directory.glob("*.safetensors"))
    index = directory / INDEX_NAME
    if not index.exists():
        names = [SINGLE_NAME]
    else:
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(_is_plain(v) for v in weight_map.values()):
            raise BadCheckpoint(f"{index}: weight_map: expected tensor names to file names")
        names = sorted(set(weight_map.values()))
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise WeightsMissing(f"{directory}: expected {', '.join(names)}; not there: {missing[0]}")
    return [directory / name for name in names]


def _is_plain(name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name
