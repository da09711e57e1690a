"""A checkpoint as another node reads it: checked against the model's hash, then piece by piece.

The one idea: whoever reads names tensors, never paths. What can be had are the tensors that the
checkpoint names, the few small files below, and the facts of all tensors; each under its name, in
pieces. A file that changed since it was checked is not read any more.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from models.checkpoint import FACTS_NAME, Checkpoint
from models.errors import BadCheckpoint, ModelError
from models.fingerprint import Facts, Verify, facts_of, model_hash, pack_facts, unpack_facts

CONFIG_NAME = "config.json"
SMALL_FILES = (
    CONFIG_NAME,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)
MAX_SMALL_BYTES = 64 << 20
MAX_PIECE_BYTES = 1 << 22


def open_checked(
    path: Path, expected: str, verify: Verify, cache: Path | None = None
) -> tuple[Checkpoint, Facts]:
    """A checkpoint that is the model with this hash, or the parts of it that are there.

    Args:
        path: a model's directory, or one that is filled from elsewhere.
        expected: the model's hash.
        verify: how its tensors are digested.
        cache: remembers full digests.

    Raises:
        ModelError: there is no model, or it is another one.
    """
    checkpoint = Checkpoint.open(path)
    facts = _facts(path, checkpoint, verify, cache)
    found = model_hash((path / CONFIG_NAME).read_bytes(), facts)
    if found != expected:
        raise ModelError(
            f"{path} on this node is not the model that is served: its hash is {found}, "
            f"expected {expected}; copy the same checkpoint to every node, or have it fetched "
            f"with --set weights.source=peer"
        )
    return checkpoint, facts


def _facts(path: Path, checkpoint: Checkpoint, verify: Verify, cache: Path | None) -> Facts:
    told = path / FACTS_NAME
    if not told.exists():
        return facts_of(checkpoint.tensors, verify, cache)
    facts = unpack_facts(told.read_bytes())
    for name, tensor in checkpoint.tensors.items():
        fact = facts.get(name)
        if fact is None or (fact.dtype, fact.shape) != (tensor.dtype, tensor.shape):
            raise BadCheckpoint(f"{tensor.file}: {name} is not what {told} says it is: {fact}")
    return facts


@dataclass(frozen=True, slots=True)
class _Place:
    """Bytes of a file, and the file's state when it was checked."""

    file: Path
    offset: int
    num_bytes: int
    state: tuple[int, int, int]


class WeightSource:
    """What one checkpoint has for others; all methods block."""

    def __init__(self, checkpoint: Checkpoint, facts: Facts) -> None:
        self.facts = pack_facts(facts)
        """The facts of all tensors of the model, those that are not here among them."""
        states = {t.file: _state(t.file) for t in checkpoint.tensors.values()}
        self._tensors = {
            name: _Place(tensor.file, tensor.offset, tensor.num_bytes, states[tensor.file])
            for name, tensor in checkpoint.tensors.items()
        }
        files = (checkpoint.directory / name for name in SMALL_FILES)
        self._files = {
            file.name: _Place(file, 0, file.stat().st_size, _state(file))
            for file in files
            if file.is_file() and file.stat().st_size <= MAX_SMALL_BYTES
        }

    @classmethod
    def open(
        cls, path: Path, expected: str, verify: Verify, cache: Path | None = None
    ) -> "WeightSource":
        """Check a directory, as `open_checked` does, and offer what it has."""
        return cls(*open_checked(path, expected, verify, cache))

    @property
    def files(self) -> dict[str, int]:
        """The small files that are here, and the facts, with their sizes."""
        sizes = {name: place.num_bytes for name, place in self._files.items()}
        return {**sizes, FACTS_NAME: len(self.facts)}

    def read(self, name: str, offset: int, num_bytes: int) -> bytes:
        """Some bytes of a tensor, of a small file, or of the facts.

        Raises:
            ModelError: there is nothing by that name, it has not those bytes, or it changed.
        """
        if not 0 <= num_bytes <= MAX_PIECE_BYTES:
            raise ModelError(f"{name}: pieces are of up to {MAX_PIECE_BYTES} bytes: {num_bytes}")
        size = self._size(name)
        if not 0 <= offset <= offset + num_bytes <= size:
            raise ModelError(f"{name}: has {size} bytes, not {offset}:{offset + num_bytes}")
        if name == FACTS_NAME:
            return self.facts[offset : offset + num_bytes]
        return _read(self._tensors.get(name) or self._files[name], name, offset, num_bytes)

    def _size(self, name: str) -> int:
        if name == FACTS_NAME:
            return len(self.facts)
        place = self._tensors.get(name) or self._files.get(name)
        if place is None:
            raise ModelError(f"{name[:256]!r}: no such tensor or file is here")
        return place.num_bytes


def _read(place: _Place, name: str, offset: int, num_bytes: int) -> bytes:
    with place.file.open("rb", buffering=0) as stream:
        raw = os.pread(stream.fileno(), num_bytes, place.offset + offset)
    if len(raw) != num_bytes or _state(place.file) != place.state:
        raise BadCheckpoint(f"{place.file}: changed since it was checked; {name} is not read")
    return raw


def _state(file: Path) -> tuple[int, int, int]:
    facts = file.stat()
    return facts.st_size, facts.st_mtime_ns, facts.st_ino
