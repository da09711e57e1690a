"""Weights that stay in a node's memory when the process that read them is gone.

The one idea: a layer is a file in a directory that lies in memory (under `/dev/shm`), so whoever
replaces a stage maps it instead of reading a disk, and processes that hold the same rows as they
are stored share one copy. A file appears whole, by a rename, and never changes again; it is for
one state of one checkpoint, written into its header, so a model that was exchanged in place is
never mistaken for the new one. The format is safetensors.

Who uses a part holds a shared lock on its file, which ends with its process. A part that nobody
holds may go when another needs the room, the one longest unused first.

On a CPU, embedding, norms and biases are used as they lie here, pages and all, if they are computed
in the dtype they are stored in. Matrices are not: the layout that makes products fast is private
to each process, and what the store holds of those it holds in addition. It needs a POSIX system.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from models.checkpoint import part_of
from models.errors import BadCheckpoint, ModelError
from models.tensor_file import StoredTensor, copy_tensor, make_header, read_header

_log = logging.getLogger(__name__)
_SUFFIX, _UNFINISHED = ".safetensors", ".unfinished"

Tensors = Mapping[str, StoredTensor]
Spend = Callable[[int], None]


class Hold:
    """Parts that somebody uses: they stay in the store until `close`, or the process's end."""

    def __init__(self, descriptors: Iterable[int] = ()) -> None:
        self._descriptors = list(descriptors)

    def add(self, descriptor: int) -> None:
        """Let go of one more, a lock's, at the end."""
        self._descriptors.append(descriptor)

    def close(self) -> None:
        """Let go of them; a second time does nothing."""
        while self._descriptors:
            os.close(self._descriptors.pop())


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
        return stored_bytes(self._directory)

    def missing_bytes(self, tensors: Tensors) -> int:
        """What `attach` would add: the parts that are not here, as far as there is room."""
        missing = sum(
            sum(tensor.num_bytes for tensor in wanted.values())
            for part, wanted in _parts(tensors).items()
            if self.get(part, wanted) is None
        )
        return max(0, min(missing, self._max_bytes - self.num_bytes))

    def attach(self, tensors: Tensors, spend: Spend) -> tuple[Tensors, Hold]:
        """The same tensors, from memory where they are there or fit; from where they were if not.

        Those from memory are there until the hold beside them is closed.

        Args:
            tensors: those of a checkpoint.
            spend: told of bytes read from the checkpoint; may wait.
        """
        attached, hold, num_found, parts = dict(tensors), Hold(), 0, _parts(tensors)
        try:
            for part, wanted in parts.items():
                found = self._held_part(part, wanted, hold)
                num_found += found is not None
                if found is None and self.put(part, wanted, spend):
                    found = self._held_part(part, wanted, hold)
                attached |= found or {}
        except BaseException:
            hold.close()
            raise
        _log.info("tensors attached parts=%d of=%d", num_found, len(parts))
        return attached, hold

    def _held_part(self, part: str, wanted: Tensors, hold: Hold) -> Tensors | None:
        lock = _locked(self._file(part), fcntl.LOCK_SH)
        if lock is None:
            return None
        found = self.get(part, wanted)
        if found is None or not _is_at(lock, self._file(part)):
            os.close(lock)
            return None
        hold.add(lock)
        return found

    def hold(self, parts: Iterable[str]) -> Hold:
        """Keep those of the parts that are here until the hold is closed."""
        held = (_locked(self._file(part), fcntl.LOCK_SH) for part in parts)
        return Hold(descriptor for descriptor in held if descriptor is not None)

    def get(self, part: str, wanted: Tensors) -> Tensors | None:
        """A part's tensors in memory; None if they are not there or of another checkpoint."""
        file = self._file(part)
        try:
            header, found = read_header(file)
            os.utime(file)  # used now: others go before it
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
        header, order = make_header(tensors, {"source": _stamp(tensors)})
        num_bytes = len(header) + sum(tensor.num_bytes for tensor in tensors.values())
        file = self._file(part)
        if not self._make_room(num_bytes - _size(file), keep=file):
            return False
        unfinished = file.with_suffix(_UNFINISHED)
        with _alone(unfinished) as stream:
            if stream is None:
                return False
            try:
                _write(stream, header, [tensors[name] for name in order], spend)
                unfinished.rename(file)
            except OSError as error:  # the directory's file system is full, or not in memory
                unfinished.unlink(missing_ok=True)
                _log.warning("tensors not stored part=%s reason=%s", part, error)
                return False
        _log.info("tensors stored part=%s bytes=%d", part, num_bytes)
        return True

    def _make_room(self, num_bytes: int, keep: Path) -> bool:
        """Evict parts that nobody holds until so many more bytes fit; False if they do not.

        Nothing goes if that would not be enough.
        """
        excess = self.num_bytes + num_bytes - self._max_bytes
        if excess <= 0:
            return True
        chosen: list[tuple[Path, int]] = []
        try:
            for file in sorted(self._files(), key=_used_at):
                if file != keep and excess > 0 and (lock := _locked(file, fcntl.LOCK_EX)):
                    chosen.append((file, lock))
                    excess -= _size(file)
            for file, _ in chosen if excess <= 0 else ():
                file.unlink(missing_ok=True)
                _log.info("stored tensors evicted file=%s", file.name)
        finally:
            Hold(lock for _, lock in chosen).close()
        return excess <= 0

    def _file(self, part: str) -> Path:
        return self._directory / f"{self._hash}-{part}{_SUFFIX}"

    def _files(self) -> list[Path]:
        return _files_of(self._directory)


def stored_bytes(directory: Path) -> int:
    """Bytes that the stored tensors of all models take in a directory; 0 if it is not there."""
    return sum(_size(file) for file in _files_of(directory))


def _files_of(directory: Path) -> list[Path]:
    try:
        return [f for f in directory.iterdir() if f.suffix in (_SUFFIX, _UNFINISHED)]
    except FileNotFoundError:
        return []


def _parts(tensors: Tensors) -> dict[str, dict[str, StoredTensor]]:
    parts: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in tensors.items():
        parts.setdefault(part_of(name), {})[name] = tensor
    return parts


def _stamp(tensors: Tensors) -> str:
    """Which files, in which state, these tensors come from."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted({tensor.file.resolve() for tensor in tensors.values()}):
        facts = file.stat()
        digest.update(f"{file}:{facts.st_size}:{facts.st_mtime_ns};".encode())
    return digest.hexdigest()


def _alike(one: StoredTensor, other: StoredTensor) -> bool:
    return (one.dtype, one.shape) == (other.dtype, other.shape)


def _locked(file: Path, kind: int) -> int | None:
    """A descriptor of a file with a lock; None if it is gone or another's lock is in the way.

    Whoever evicts has the only lock while it unlinks, so who gets one later must look again.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    if not _is_at(descriptor, file):
        os.close(descriptor)
        return None
    return descriptor


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
            copy_tensor(tensor, stream, spend)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # renamed or removed meanwhile
        return 0


def _used_at(file: Path) -> float:
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
