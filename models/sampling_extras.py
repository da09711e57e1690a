"""What a request asks of its drawing beyond temperature and filters, as bytes on the way.

The one idea: most requests ask for nothing of this, so it travels beside a batch's arrays and is
empty for them. What is drawn next depends on the request's parameters and its tokens, so both are
in every step that needs them: no stage remembers a request, and one that is new draws the same.
Whoever carries the bytes reads only what must travel with them (`needs`).
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from models.errors import ShapeMismatch

Ids = npt.NDArray[np.int32]

_HEAD = struct.Struct("<3f2i4I")
_ROW = struct.Struct("<2Ii3I")
NO_LOGPROBS = -1


def _none() -> Ids:
    return np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingExtras:
    """The parameters, the same for all of a request's tokens.

    Attributes:
        presence_penalty: taken off the logit of every token generated before.
        frequency_penalty: taken off once for each time that it was.
        repetition_penalty: by which logits of tokens in prompt or answer are made less likely.
        num_logprobs: likeliest candidates to tell for each token, -1 to tell nothing.
        num_prompt_logprobs: the same for each token of the prompt.
        bias: (token id, what is added to its logit).
        allowed_ids: no other token is drawn; empty allows all.
        early_ids: tokens that must not end the sequence yet, where `suppress_eos` is set.
        grammar: what the answer's text must match, as llguidance writes it; empty allows all.
    """

    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    num_logprobs: int = NO_LOGPROBS
    num_prompt_logprobs: int = NO_LOGPROBS
    bias: tuple[tuple[int, float], ...] = ()
    allowed_ids: tuple[int, ...] = ()
    early_ids: tuple[int, ...] = ()
    grammar: str = ""

    def pack(self) -> bytes:
        """As bytes; a request that asks for nothing is none."""
        if self == _NOTHING:
            return b""
        grammar = self.grammar.encode()
        counts = len(self.bias), len(self.allowed_ids), len(self.early_ids), len(grammar)
        head = _HEAD.pack(
            self.presence_penalty,
            self.frequency_penalty,
            self.repetition_penalty,
            self.num_logprobs,
            self.num_prompt_logprobs,
            *counts,
        )
        ids = [token for token, _ in self.bias]
        values = np.asarray([value for _, value in self.bias], "<f4").tobytes()
        return head + _packed(ids) + values + _packed(self.allowed_ids + self.early_ids) + grammar

    @classmethod
    def unpack(cls, data: bytes) -> "SamplingExtras":
        """Read what `pack` wrote.

        Raises:
            ShapeMismatch: the bytes are truncated, oversized or no text.
        """
        return _unpack(data)


_NOTHING = SamplingExtras()


@lru_cache(maxsize=1024)
def _unpack(data: bytes) -> SamplingExtras:
    if not data:
        return _NOTHING
    if len(data) < _HEAD.size:
        raise ShapeMismatch(f"extras: expected at least {_HEAD.size} bytes, got {len(data)}")
    *numbers, num_bias, num_allowed, num_early, num_grammar = _HEAD.unpack_from(data)
    expected = _HEAD.size + 8 * num_bias + 4 * (num_allowed + num_early) + num_grammar
    if len(data) != expected:
        raise ShapeMismatch(f"extras: expected {expected} bytes, got {len(data)}")
    reader = _Reader(data, _HEAD.size)
    ids, values = reader.array(num_bias, "<i4"), reader.array(num_bias, "<f4")
    allowed, early = reader.array(num_allowed, "<i4"), reader.array(num_early, "<i4")
    try:
        grammar = reader.bytes(num_grammar).decode()
    except UnicodeDecodeError as error:
        raise ShapeMismatch(f"extras: the grammar is no text: {error}") from None
    return SamplingExtras(
        presence_penalty=numbers[0],
        frequency_penalty=numbers[1],
        repetition_penalty=numbers[2],
        num_logprobs=numbers[3],
        num_prompt_logprobs=numbers[4],
        bias=tuple(zip(ids.tolist(), values.tolist(), strict=True)),
        allowed_ids=tuple(allowed.tolist()),
        early_ids=tuple(early.tolist()),
        grammar=grammar,
    )


class Needs(NamedTuple):
    """Which tokens must travel with the parameters."""

    prompt: bool
    output: bool
    prompt_logprobs: bool


@lru_cache(maxsize=1024)
def needs(data: bytes) -> Needs:
    """What must travel with these parameters for a token to be drawn by them."""
    extras = _unpack(data)
    repeats = extras.repetition_penalty != 1
    counts = bool(extras.presence_penalty or extras.frequency_penalty)
    output = repeats or counts or bool(extras.grammar)
    return Needs(repeats, output, extras.num_prompt_logprobs >= 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowExtras:
    """One sequence's parameters and tokens in a step.

    Attributes:
        row: which sequence of the batch.
        num_prompt_tokens: of the sequence, in all.
        next_id: the prompt token after this step's last, -1 if there is none.
        parameters: packed `SamplingExtras`.
        prompt_ids: distinct tokens of the prompt, if they are needed.
        output_ids: generated tokens in order, if they are needed.
    """

    row: int
    parameters: bytes
    num_prompt_tokens: int = 0
    next_id: int = -1
    prompt_ids: Ids = field(default_factory=_none)
    output_ids: Ids = field(default_factory=_none)

    @property
    def wanted(self) -> SamplingExtras:
        """The parameters."""
        return _unpack(self.parameters)


def pack_rows(rows: Iterable[RowExtras]) -> bytes:
    """All rows of a step; none are no bytes."""
    return b"".join(map(_pack_row, rows))


def _pack_row(row: RowExtras) -> bytes:
    sizes = len(row.parameters), len(row.prompt_ids), len(row.output_ids)
    head = _ROW.pack(row.row, row.num_prompt_tokens, row.next_id, *sizes)
    return head + row.parameters + _packed(row.prompt_ids) + _packed(row.output_ids)


def unpack_rows(data: bytes, num_sequences: int) -> list[RowExtras]:
    """Read what `pack_rows` wrote.

    Raises:
        ShapeMismatch: the bytes are truncated, or name a sequence that is not in the batch.
    """
    rows, reader = [], _Reader(data)
    while reader.offset < len(data):
        row, num_prompt, next_id, *sizes = _ROW.unpack(reader.bytes(_ROW.size))
        if row >= num_sequences:
            raise ShapeMismatch(f"extras: row {row} of a batch of {num_sequences}")
        parameters = reader.bytes(sizes[0])
        _unpack(parameters)
        rows.append(
            RowExtras(
                row=row,
                parameters=parameters,
                num_prompt_tokens=num_prompt,
                next_id=next_id,
                prompt_ids=reader.array(sizes[1], "<i4"),
                output_ids=reader.array(sizes[2], "<i4"),
            )
        )
    return rows


class _Reader:
    """Takes pieces off bytes, and refuses to go beyond them."""

    def __init__(self, data: bytes, offset: int = 0) -> None:
        self._data, self.offset = data, offset

    def bytes(self, size: int) -> bytes:
        begin, self.offset = self.offset, self.offset + size
        if self.offset > len(self._data):
            raise ShapeMismatch(f"extras: truncated at {len(self._data)} bytes")
        return self._data[begin : self.offset]

    def array(self, count: int, dtype: str) -> npt.NDArray[Any]:
        return np.frombuffer(self.bytes(4 * count), dtype)


def _packed(ids: Sequence[int] | Ids) -> bytes:
    return np.asarray(ids, "<i4").tobytes()
