"""Weights that stay in a node's memory when the process that read them is gone.

The one idea: a layer is a file in a directory that lies in memory (under `/dev/shm`), so whoever
replaces a stage maps it instead of reading a disk, and processes that hold the same rows as they
are stored share one copy. A file appears whole, by a rename, and never changes again; it is for
one state of one checkpoint, written into its header, so a model that was exchanged in place is
never mistaken for the new one. The format is safetensors.

What the store holds it holds in addition to weights that a device keeps in a layout of its own.
It needs a POSIX system.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from models.checkpoint import layer_of
from models.errors import BadCheckpoint, ModelError
from models.tensor_file import StoredTensor, read_header

_log = logging.getLogger(__name__)
_ALIGNMENT = 64
_SUFFIX, _UNFINISHED = ".safetensors", ".unfinished"

Tensors = Mapping[str, StoredTensor]
Spend = Callable[[int], None]


class TensorStore:
    """Tensors of one model by part (a layer, or what is before or behind all layers)."""

    def __init__(self, directory: str | Path, model_hash: str, max_bytes: int) -> None:
        """Use a directory, made if it is not there, for at most so many bytes of all models.

        Raises:
            ModelError: the hash cannot be part of a file's name.
        """
        if not re.fullmatch(r"[0-9a-f]{8,128}", model_hash):
            raise ModelError(f"model hash {model_hash!r}: expected 8 to 128 hexadecimal digits")
        self._directory, self._hash, self._max_bytes = Path(directory), model_hash, max_bytes
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def num_bytes(self) -> int:
        """Bytes that all files of the directory take."""
        return sum(_size(file) for file in self._files())

    def attach(self, tensors: Tensors, spend: Spend) -> Tensors:
        """The same tensors, from memory where they are there or fit; from where they were if not.

        Args:
            tensors: those of a checkpoint.
            spend: told of bytes read from the checkpoint; may wait.
        """
        parts: dict[str, dict[str, StoredTensor]] = {}
        for name, tensor in tensors.items():
            parts.setdefault(_part_of(name), {})[name] = tensor
        attached = dict(tensors)
        for part, wanted in parts.items():
            found = self.get(part, wanted)
            if found is None and self.put(part, wanted, spend):
                found = self.get(part, wanted)
            attached |= found or {}
        return attached

    def get(self, part: str, wanted: Tensors) -> Tensors | None:
        """A part's tensors in memory; None if they are not there or of another checkpoint."""
        file = self._file(part)
        try:
            header, found = read_header(file)
        except FileNotFoundError:
            return None
        except BadCheckpoint as error:
            _log.warning("stored tensors garbled part=%s reason=%s", part, error)
            return None
        if json.loads(header).get("__metadata__") != {"source": _stamp(wanted)}:
            return None
        if found.keys() != wanted.keys() or any(not _alike(found[n], wanted[n]) for n in wanted):
            return None
        return {name: replace(tensor, is_shared=True) for name, tensor in found.items()}

    def put(self, part: str, tensors: Tensors, spend: Spend = lambda num_bytes: None) -> bool:
        """Copy a part's tensors into memory; False if they do not fit or another is doing it."""
        header, order = _layout(tensors)
        num_bytes = len(header) + sum(tensor.num_bytes for tensor in order)
        file = self._file(part)
        if self.num_bytes - _size(file) + num_bytes > self._max_bytes:
            return False
        unfinished = file.with_suffix(_UNFINISHED)
        with _alone(unfinished) as stream:
            if stream is None:
                return False
            try:
                _write(stream, header, order, spend)
                unfinished.rename(file)
            except OSError as error:  # the directory's file system is full, or not in memory
                unfinished.unlink(missing_ok=True)
                _log.warning("tensors not stored part=%s reason=%s", part, error)
                return False
        _log.info("tensors stored part=%s bytes=%d", part, num_bytes)
        return True

    def remove_all(self) -> None:
        """Remove every file of this model; who has it mapped keeps it until it is done."""
        for file in self._files():
            if file.name.startswith(f"{self._hash}-"):
                file.unlink(missing_ok=True)

    def _file(self, part: str) -> Path:
        return self._directory / f"{self._hash}-{part}{_SUFFIX}"

    def _files(self) -> list[Path]:
        return [f for f in self._directory.iterdir() if f.suffix in (_SUFFIX, _UNFINISHED)]


def _part_of(name: str) -> str:
    layer = layer_of(name)
    if layer is not None:
        return f"layer-{layer}"
    return "embedding" if name.endswith("embed_tokens.weight") else "tail"


def _stamp(tensors: Tensors) -> str:
    """Which files, in which state, these tensors come from."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted({tensor.file.resolve() for tensor in tensors.values()}):
        facts = file.stat()
        digest.update(f"{file}:{facts.st_size}:{facts.st_mtime_ns};".encode())
    return digest.hexdigest()


def _alike(one: StoredTensor, other: StoredTensor) -> bool:
    return (one.dtype, one.shape) == (other.dtype, other.shape)


def _layout(tensors: Tensors) -> tuple[bytes, list[StoredTensor]]:
    """A header, padded so that every tensor begins where its numbers may, and their order."""

    def width(name: str) -> int:
        return tensors[name].num_bytes // max(1, tensors[name].num_elements)

    names = sorted(tensors, key=lambda name: (-width(name), name))
    entries: dict[str, object] = {"__metadata__": {"source": _stamp(tensors)}}
    begin = 0
    for name in names:
        tensor = tensors[name]
        end = begin + tensor.num_bytes
        entries[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(entries).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text, [tensors[name] for name in names]


@contextmanager
def _alone(path: Path) -> Iterator[int | None]:
    """A descriptor of an empty file that no other process writes; None if one does.

    A lock and not a unique name: it ends with its process, so that one who dies while writing
    neither leaves memory behind for ever nor keeps others from writing.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        if not _is_at(descriptor, path):
            # Renamed between opening and locking: it is finished, and maybe mapped.
            yield None
            return
        os.ftruncate(descriptor, 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _write(descriptor: int, header: bytes, order: list[StoredTensor], spend: Spend) -> None:
    with open(descriptor, "wb", closefd=False) as stream:
        stream.write(header)
        for tensor in order:
            raw = bytearray(tensor.num_bytes)
            tensor.read_into(memoryview(raw), spend)
            stream.write(raw)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # renamed or removed meanwhile
        return 0
