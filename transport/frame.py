"""One frame: a small head that is decoded, and large buffers that are only carried.

The head is MessagePack; the buffers (hidden states, KV blocks, weights) travel beside it as they
are, so that a tensor's bytes are never copied into a message.
"""

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Contiguous bytes; a sent buffer must not change until the frame is delivered."""


class Frame(msgspec.Struct, frozen=True):
    """A head and its buffers, the unit that an endpoint sends and receives."""

    head: bytes
    buffers: Sequence[Buffer] = ()

    @property
    def num_bytes(self) -> int:
        """Size of the head and all buffers, in bytes."""
        num_bytes = len(self.head)
        for buffer in self.buffers:
            num_bytes += buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)
        return num_bytes
