"""What a shard would take beside one that is there, told before anything is loaded.

The one idea: a swap that cannot fit is refused with numbers, and the numbers stand in the headers
of the checkpoint. Nothing is read but those; no device is asked.
"""

from dataclasses import dataclass

from models import layout
from models.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Bytes that loading would add to a device: those of weights, and those of KV."""

    weight_bytes: int
    kv_bytes: int

    @property
    def num_bytes(self) -> int:
        """All of them."""
        return self.weight_bytes + self.kv_bytes


def gained_bytes(
    checkpoint: Checkpoint,
    start: int,
    end: int,
    *,
    num_blocks: int,
    block_tokens: int,
    itemsize: int,
    held: tuple[int, int] | None = None,
    keeps_kv: bool = True,
) -> Gain:
    """Bytes that layers `[start, end)` would add beside a held shard of the same model and dtype.

    Layouts that a device prefers may pad weights by some percent more.

    Args:
        checkpoint: the model.
        start: first layer; 0 takes the embedding, unless it is held.
        end: layer after the last; the model's number of layers takes norm and head, likewise.
        num_blocks: N of the new shard.
        block_tokens: P.
        itemsize: bytes of one number on the device.
        held: layers `[a, b)` that are there; None if nothing is.
        keeps_kv: whether the held shard's blocks are as many and as large, so that KV is shared.

    Raises:
        ShapeMismatch: one of the two is not a range of the model's layers.
    """
    config = checkpoint.config
    whole = (0, config.num_layers)
    layout.check_part((start, end), whole)
    if held is not None:
        layout.check_part(held, whole)
    first, last = held or (start, start)
    gained = [layer for layer in range(start, end) if not first <= layer < last]
    weights = sum(checkpoint.layer_bytes(layer, itemsize) for layer in gained)
    if start == 0 and (held is None or first > 0):
        weights += checkpoint.embedding_bytes(itemsize)
    if end == config.num_layers and (held is None or last < end):
        weights += checkpoint.head_bytes(itemsize)
    num_fresh = len(gained) if keeps_kv else end - start
    kv = config.kv_bytes_per_token(num_fresh, itemsize) * num_blocks * block_tokens
    return Gain(weight_bytes=weights, kv_bytes=kv)
