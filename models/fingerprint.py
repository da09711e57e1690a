"""Which model a directory holds: a digest of every tensor, and one hash over all of them.

The one idea: a model's hash is the hash of a list (name, dtype, shape, digest), so that whoever
knows the hash can check the list, and with the list every tensor alone, wherever it came from
(Merkle, CRYPTO 1987). In which files the tensors lie does not matter.

What is guaranteed depends on how tensors are digested. `sample` reads three pieces of 4 KiB of
each: checkpoints of another training are told apart, since training changes nearly all numbers of a
tensor that it touches, but a single damaged number may go unseen; it costs milliseconds. `full`
reads every byte: any difference is seen. That is done once for each file and remembered until its
size, time or identity changes; who alters a file and puts all three back is not caught.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from models.errors import BadCheckpoint
from models.tensor_file import StoredTensor

_log = logging.getLogger(__name__)

Verify = Literal["sample", "full"]
SAMPLE_BYTES = 4096
_CHUNK_BYTES = 4 << 20
_DIGEST_BYTES = 16
MAX_TENSORS = 1 << 20


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """What a tensor must be: dtype by safetensors' name, shape, size in bytes, and digest."""

    dtype: str
    shape: tuple[int, ...]
    num_bytes: int
    digest: str


Facts = Mapping[str, TensorFacts]


def digest_of(tensor: StoredTensor, verify: Verify) -> str:
    """A tensor's digest, read from its file.

    Raises:
        BadCheckpoint: the file ends before the tensor does.
    """
    found = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    with tensor.file.open("rb", buffering=0) as stream:
        for begin, end in _ranges(tensor.num_bytes, verify):
            raw = os.pread(stream.fileno(), end - begin, tensor.offset + begin)
            if len(raw) != end - begin:
                raise BadCheckpoint(f"{tensor.file}: ends within a tensor, at {begin} bytes of it")
            found.update(raw)
    return found.hexdigest()


def facts_of(
    tensors: Mapping[str, StoredTensor], verify: Verify, cache: Path | None = None
) -> dict[str, TensorFacts]:
    """The facts of all tensors of a checkpoint.

    Args:
        tensors: those of the checkpoint's headers.
        verify: how much of them to read.
        cache: a directory that remembers full digests; None reads all of it every time.
    """
    by_file: dict[Path, dict[str, StoredTensor]] = {}
    for name, tensor in tensors.items():
        by_file.setdefault(tensor.file, {})[name] = tensor
    digests: dict[str, str] = {}
    for file, mine in by_file.items():
        digests |= _digests_in(file, mine, verify, cache)
    return {
        name: TensorFacts(t.dtype, t.shape, t.num_bytes, digests[name])
        for name, t in sorted(tensors.items())
    }


def model_hash(config: bytes, facts: Facts) -> str:
    """One hash for a model: of its config.json as it stands there, and its tensors' facts."""
    whole = hashlib.blake2b(config, digest_size=_DIGEST_BYTES)
    for name, fact in sorted(facts.items()):
        line = json.dumps([name, fact.dtype, list(fact.shape), fact.num_bytes, fact.digest])
        whole.update(line.encode() + b"\n")
    return whole.hexdigest()


def pack_facts(facts: Facts) -> bytes:
    """Facts as JSON, to travel or to be kept."""
    plain = {n: [f.dtype, list(f.shape), f.num_bytes, f.digest] for n, f in sorted(facts.items())}
    return json.dumps(plain, separators=(",", ":")).encode()


def unpack_facts(packed: bytes) -> dict[str, TensorFacts]:
    """Facts that `pack_facts` wrote, here or elsewhere.

    Raises:
        BadCheckpoint: they are not; nothing of them is to be trusted before `model_hash` agrees.
    """
    try:
        plain = json.loads(packed)
        if not isinstance(plain, dict) or len(plain) > MAX_TENSORS:
            raise ValueError(f"expected up to {MAX_TENSORS} tensors by name")
        return {name: _fact(*entry) for name, entry in plain.items()}
    except (ValueError, TypeError, RecursionError) as error:
        raise BadCheckpoint(f"facts of tensors: cannot be read: {error}") from None


def _fact(dtype: Any, shape: Any, num_bytes: Any, digest: Any) -> TensorFacts:
    texts, numbers = (dtype, digest), (num_bytes, *shape)
    if not all(isinstance(text, str) and len(text) <= 128 for text in texts):
        raise ValueError("dtype and digest: expected short texts")
    if not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers):
        raise ValueError("shape and size: expected whole numbers, none below 0")
    return TensorFacts(dtype, tuple(shape), num_bytes, digest)


def _ranges(num_bytes: int, verify: Verify) -> Iterable[tuple[int, int]]:
    if verify == "full" or num_bytes <= 3 * SAMPLE_BYTES:
        return [(b, min(b + _CHUNK_BYTES, num_bytes)) for b in range(0, num_bytes, _CHUNK_BYTES)]
    begins = (0, num_bytes // 2 - SAMPLE_BYTES // 2, num_bytes - SAMPLE_BYTES)
    return [(begin, begin + SAMPLE_BYTES) for begin in begins]


def _digests_in(
    file: Path, tensors: Mapping[str, StoredTensor], verify: Verify, cache: Path | None
) -> dict[str, str]:
    def read() -> dict[str, str]:
        return {name: digest_of(tensor, verify) for name, tensor in tensors.items()}

    return read() if verify == "sample" or cache is None else _remembered(file, cache, read)


def _remembered(file: Path, cache: Path, read: Callable[[], dict[str, str]]) -> dict[str, str]:
    """Digests of a whole file, from the cache if the file is what it was."""
    state = _state(file)
    place = cache / f"{hashlib.blake2b(state[0].encode(), digest_size=16).hexdigest()}.json"
    try:
        kept = json.loads(place.read_bytes())
        if kept["state"] == state and all(isinstance(d, str) for d in kept["digests"].values()):
            return dict(kept["digests"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass  # not there, or of no use: it is written anew
    digests = read()
    if _state(file) != state:
        raise BadCheckpoint(f"{file}: changed while it was read; try again when it is complete")
    _keep(place, json.dumps({"state": state, "digests": digests}))
    return digests


def _state(file: Path) -> list[Any]:
    facts = file.stat()
    return [str(file.resolve()), facts.st_size, facts.st_mtime_ns, facts.st_ino]


def _keep(place: Path, text: str) -> None:
    """Write a file of the cache, whole or not at all; a cache that cannot be written is no harm."""
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=place.parent, delete=False) as stream:
            stream.write(text)
        Path(stream.name).replace(place)
    except OSError as error:
        _log.warning("digests not remembered directory=%s reason=%s", place.parent, error)
