"""One safetensors file: what its header says, and one tensor's bytes.

The one idea: a tensor is read straight into memory of its own, not through a map of the file, so
that loading never holds more than what is kept and the one tensor under way.
"""

import json
import math
import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol

from models.errors import BadCheckpoint

MAX_HEADER_BYTES = 100 << 20
# Read at once: small beside a second's worth at any rate that somebody would ask for.
_CHUNK_BYTES = 4 << 20
_ALIGNMENT = 64
_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "I8": 1}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor's bytes are, its dtype by safetensors' name, and its shape.

    With `is_shared` the file lies in memory and never changes, so that it is mapped, not read.
    """

    file: Path
    offset: int
    num_bytes: int
    dtype: str
    shape: tuple[int, ...]
    is_shared: bool = False

    @property
    def num_elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    def read_into(
        self, target: memoryview, spend: Callable[[int], None] = lambda num_bytes: None
    ) -> None:
        """Fill `num_bytes` of memory with the tensor's bytes.

        Args:
            target: the memory.
            spend: told the size of every chunk that was read; may wait before the next.

        Raises:
            BadCheckpoint: the file ends before the tensor does.
        """
        with self.file.open("rb", buffering=0) as stream:
            stream.seek(self.offset)
            done = 0
            while done < self.num_bytes:
                count = stream.readinto(target[done : done + _CHUNK_BYTES])
                if not count:
                    raise BadCheckpoint(f"{self.file}: ends within a tensor, at {done} bytes of it")
                done += count
                spend(count)


def copy_tensor(stored: StoredTensor, target: IO[bytes], spend: Callable[[int], None]) -> None:
    """Write a tensor's bytes to a file, chunk by chunk, telling `spend` the size of each.

    Raises:
        BadCheckpoint: the file ends before the tensor does.
    """
    buffer = memoryview(bytearray(min(_CHUNK_BYTES, stored.num_bytes)))
    for begin in range(0, stored.num_bytes, _CHUNK_BYTES):
        num_bytes = min(_CHUNK_BYTES, stored.num_bytes - begin)
        part = replace(stored, offset=stored.offset + begin, num_bytes=num_bytes)
        part.read_into(buffer[:num_bytes], spend)
        target.write(buffer[:num_bytes])


class Described(Protocol):
    """What must be known of a tensor to give it a place in a file."""

    @property
    def dtype(self) -> str:
        """Its dtype, by safetensors' name."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...

    @property
    def num_bytes(self) -> int:
        """Its size."""
        ...


def make_header(
    tensors: Mapping[str, Described], metadata: Mapping[str, str]
) -> tuple[bytes, list[str]]:
    """A header, padded so that every tensor begins where its numbers may, and their order.

    Raises:
        BadCheckpoint: a tensor has a dtype that we cannot read.
    """

    def width(name: str) -> int:
        try:
            return _ITEM_BYTES[tensors[name].dtype]
        except KeyError:
            known = ", ".join(_ITEM_BYTES)
            raise BadCheckpoint(
                f"{name}: dtype: expected one of {known}, got {tensors[name].dtype!r}"
            ) from None

    names = sorted(tensors, key=lambda name: (-width(name), name))
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
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
    return struct.pack("<Q", len(text)) + text, names


def map_tensor(stored: StoredTensor) -> tuple[mmap.mmap, int]:
    """Map a tensor's bytes, private to who writes into them: the map, and where they begin in it.

    Raises:
        BadCheckpoint: the file is gone or ends before the tensor does.
    """
    begin = stored.offset - stored.offset % mmap.ALLOCATIONGRANULARITY
    length = stored.offset + stored.num_bytes - begin
    try:
        with stored.file.open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), length, access=mmap.ACCESS_COPY, offset=begin)
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{stored.file}: cannot be mapped: {error}") from error
    return mapped, stored.offset - begin


def read_header(file: Path) -> tuple[bytes, dict[str, StoredTensor]]:
    """A file's header as it stands there, and the tensors it names.

    Raises:
        BadCheckpoint: the header is garbled or does not fit the file.
    """
    text = _header_text(file)
    try:
        header = json.loads(text)
    except ValueError as error:
        raise BadCheckpoint(f"{file}: expected a JSON header, got {error}") from error
    if not isinstance(header, dict):
        raise BadCheckpoint(f"{file}: expected a JSON object as header")
    header.pop("__metadata__", None)
    first, size = 8 + len(text), file.stat().st_size
    return text, {name: _stored(file, first, size, name, e) for name, e in header.items()}


def _header_text(file: Path) -> bytes:
    with file.open("rb") as stream:
        prefix = stream.read(8)
        size = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= size <= MAX_HEADER_BYTES:
            raise BadCheckpoint(f"{file}: expected a safetensors header, got one of {size} bytes")
        return stream.read(size)


def _stored(file: Path, first: int, size: int, name: str, entry: Any) -> StoredTensor:
    try:
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        fits = begin >= 0 and begin + math.prod(shape) * _ITEM_BYTES[dtype] == end
    except (KeyError, TypeError, ValueError) as error:
        raise BadCheckpoint(f"{file}: {name}: no tensor we can read: {entry}") from error
    if not fits:
        raise BadCheckpoint(f"{file}: {name}: {dtype} {shape} does not fit offsets {begin}:{end}")
    if first + end > size:
        raise BadCheckpoint(f"{file}: expected {first + end} bytes or more, got {size}")
    return StoredTensor(file, first + begin, end - begin, dtype, shape)
