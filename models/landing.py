"""A model's directory that is filled from elsewhere, part by part, each checked before it counts.

The one idea: what a model's tensors are is known before the first of them comes, since the list of
their facts is checked against the model's hash. A part (a layer, or what is before or behind all
layers) is a safetensors file that appears whole, by a rename, once the digest of each of its
tensors is right; so what is there can be loaded, and given on, as from any checkpoint. Several
processes may fill one directory: whose part comes second replaces the same bytes.
"""

import fcntl
import itertools
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from models.checkpoint import FACTS_NAME, Checkpoint, belongs, part_of
from models.config import ModelConfig
from models.errors import ModelError
from models.fingerprint import TensorFacts, Verify, digest_of, model_hash, unpack_facts
from models.tensor_file import StoredTensor, make_header, read_header
from models.weight_source import CONFIG_NAME, SMALL_FILES

PIECE_BYTES = 1 << 21
_UNFINISHED = ".unfinished"
_NUMBERS = itertools.count()


@dataclass(frozen=True, slots=True)
class WantedPiece:
    """Bytes `[offset, offset + num_bytes)` of a tensor."""

    name: str
    offset: int
    num_bytes: int


class Landing:
    """A directory for one model; all methods block."""

    def __init__(self, directory: Path, expected: str, verify: Verify) -> None:
        """Use a directory, made if it is not there, for the model with this hash."""
        self.directory, self._expected, self._verify = directory, expected, verify
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sweep()

    @property
    def is_described(self) -> bool:
        """Whether it is known here what the model's tensors are."""
        return (self.directory / FACTS_NAME).exists()

    def describe(self, files: Mapping[str, bytes]) -> None:
        """Take the small files and the facts of the model.

        Raises:
            ModelError: they are not those of the model with this hash, or not among the known.
        """
        unknown = [name for name in files if name not in (*SMALL_FILES, FACTS_NAME)]
        if unknown:
            raise ModelError(f"{unknown[0]!r} is no file of a model that could come from elsewhere")
        lacking = [name for name in (CONFIG_NAME, FACTS_NAME) if name not in files]
        if lacking:
            raise ModelError(f"{lacking[0]} did not come with the model")
        found = model_hash(files[CONFIG_NAME], unpack_facts(files[FACTS_NAME]))
        if found != self._expected:
            raise ModelError(f"what came is the model {found}, expected {self._expected}")
        for name in sorted(files, key=lambda name: name == FACTS_NAME):  # the facts make it count
            unfinished = self.directory / f"{name}.{os.getpid()}{_UNFINISHED}"
            unfinished.write_bytes(files[name])
            unfinished.replace(self.directory / name)

    def missing(self, start: int, end: int) -> dict[str, dict[str, TensorFacts]]:
        """The parts that layers `[start, end)` need and that are not here, by name.

        Raises:
            ModelError: what was described here is not a model that we run.
        """
        facts = unpack_facts((self.directory / FACTS_NAME).read_bytes())
        config = ModelConfig.from_directory(self.directory)
        here = Checkpoint.open(self.directory).tensors
        lacking = (n for n in facts if n not in here and belongs(config, n, start, end))
        parts: dict[str, dict[str, TensorFacts]] = {part_of(name): {} for name in lacking}
        for name, fact in facts.items():
            if part_of(name) in parts:
                parts[part_of(name)][name] = fact
        return parts

    def check_room(self, parts: Mapping[str, Mapping[str, TensorFacts]]) -> None:
        """Raise `ModelError`, with numbers, if the file system has no room for these parts."""
        needed = sum(fact.num_bytes for facts in parts.values() for fact in facts.values())
        free = shutil.disk_usage(self.directory).free
        if needed > free:
            raise ModelError(
                f"{self.directory}: weights of {needed / 1e6:.1f} MB are to come from another "
                f"node, and {free / 1e6:.1f} MB are free; free some, or set TMPDIR to another place"
            )

    def begin(self, part: str, facts: Mapping[str, TensorFacts]) -> "LandingPart":
        """Make room for one part."""
        return LandingPart(self.directory / f"{part}.safetensors", facts, self._verify)

    def _sweep(self) -> None:
        """Remove what processes that are gone left unfinished."""
        for file in self.directory.glob(f"*.safetensors.*{_UNFINISHED}"):
            with suppress(FileNotFoundError, BlockingIOError), file.open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink()


class LandingPart:
    """A part under way; use it as a context manager, which removes what was not finished."""

    def __init__(self, file: Path, facts: Mapping[str, TensorFacts], verify: Verify) -> None:
        self.name = file.stem
        self._file, self._facts, self._verify = file, facts, verify
        unique = f"{file.name}.{os.getpid()}.{next(_NUMBERS)}{_UNFINISHED}"
        self._unfinished = file.with_name(unique)
        self._missing = dict.fromkeys(_pieces(facts))
        self._stream: IO[bytes] = self._unfinished.open("w+b", buffering=0)
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._tensors = self._laid_out()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "LandingPart":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def missing(self) -> list[WantedPiece]:
        """The pieces that have not come."""
        return list(self._missing)

    def write(self, name: str, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put a piece in its place.

        Raises:
            ModelError: no such piece is missing: another tensor, place or size.
        """
        piece = WantedPiece(name, offset, len(data))
        if piece not in self._missing:
            raise ModelError(f"{name[:256]!r}: {len(data)} bytes at {offset} are not awaited")
        os.pwrite(self._stream.fileno(), data, self._tensors[name].offset + offset)
        del self._missing[piece]

    def finish(self) -> None:
        """Check every tensor, and let the part be there.

        Raises:
            ModelError: pieces are missing, or came wrong; those are missing again.
        """
        wrong = [] if self._missing else [n for n in self._facts if not self._is_right(n)]
        for name in wrong:
            self._missing |= dict.fromkeys(_pieces({name: self._facts[name]}))
        if self._missing:
            first = next(iter(self._missing)).name
            what = "came with other bytes than the model has" if wrong else "has not come whole"
            raise ModelError(f"{self._file.name}: {first} {what}; {len(self._missing)} pieces lack")
        self._unfinished.replace(self._file)

    def close(self) -> None:
        """Let go of it; what was not finished is gone."""
        if not self._stream.closed:
            self._stream.close()
            self._unfinished.unlink(missing_ok=True)

    def _laid_out(self) -> dict[str, StoredTensor]:
        header, order = make_header(self._facts, {})
        self._stream.write(header)
        end = len(header) + sum(self._facts[name].num_bytes for name in order)
        self._stream.truncate(end)
        return read_header(self._unfinished)[1]

    def _is_right(self, name: str) -> bool:
        return digest_of(self._tensors[name], self._verify) == self._facts[name].digest


def _pieces(facts: Mapping[str, TensorFacts]) -> Iterator[WantedPiece]:
    for name, fact in facts.items():
        for offset in range(0, fact.num_bytes, PIECE_BYTES):
            yield WantedPiece(name, offset, min(PIECE_BYTES, fact.num_bytes - offset))
