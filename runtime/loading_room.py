"""Whether what a stage is to load fits, told before a byte of it is read; and its tensor store.

The one idea: the store gives way. Weights that stay in shared memory save time later; if there is
no room for them beside what must be loaded, what is there is used and nothing is added.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from actors.messages import AssignStage
from models.checkpoint import Checkpoint, layer_of
from models.dtypes import compute_dtype
from models.errors import ModelError
from models.gain import gained_bytes
from models.tensor_store import TensorStore

if TYPE_CHECKING:
    from models.shard import TorchShard

_log = logging.getLogger(__name__)

HOST = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Bytes that a load adds: weights and KV on the device, and what it leaves in the store.

    `as_is_bytes` are in both: a CPU uses them as they lie in the store.
    """

    weight_bytes: int
    kv_bytes: int
    stored_bytes: int
    as_is_bytes: int


def need_of(
    assignment: AssignStage,
    checkpoint: Checkpoint,
    device: str,
    held: "TorchShard | None",
    store: TensorStore | None,
) -> Need:
    """What an assignment takes beside what is held."""
    from models.device import torch_device

    start, end = assignment.start, assignment.end
    kind = compute_dtype(assignment.dtype, torch_device(device))
    kin = held if held is not None and held.origin.content_hash == assignment.model_hash else None
    sizes = (assignment.num_blocks, assignment.block_tokens)
    gain = gained_bytes(
        checkpoint,
        start,
        end,
        num_blocks=assignment.num_blocks,
        block_tokens=assignment.block_tokens,
        itemsize=kind.itemsize,
        held=None if kin is None else kin.layers,
        keeps_kv=kin is not None and (kin.num_blocks, kin.block_tokens) == sizes,
    )
    wanted = {name: checkpoint.tensors[name] for name in checkpoint.names(start, end)}
    if kin is not None:
        first, last = kin.layers
        wanted = {n: t for n, t in wanted.items() if not first <= _layer(n) < last}
    brings_embedding = start == 0 and (kin is None or kin.layers[0] > 0)
    is_as_is = device == HOST and store is not None and brings_embedding
    own, computed = checkpoint.embedding_bytes(), checkpoint.embedding_bytes(kind.itemsize)
    return Need(
        weight_bytes=gain.weight_bytes,
        kv_bytes=gain.kv_bytes,
        stored_bytes=0 if store is None else store.missing_bytes(wanted),
        as_is_bytes=own if is_as_is and own == computed else 0,
    )


def _layer(name: str) -> int:
    layer = layer_of(name)
    return -1 if layer is None else layer


def store_for(
    assignment: AssignStage,
    checkpoint: Checkpoint,
    device: str,
    held: "TorchShard | None",
    directory: Path | None,
) -> TensorStore | None:
    """Check that a load fits, and give the store that it is to use.

    Raises:
        ModelError: it does not fit; says with which numbers.
    """
    from models.device import free_bytes

    bound = assignment.weights.store_bytes
    store = TensorStore(directory, assignment.model_hash, bound) if directory and bound else None
    need, free, host_free = (
        need_of(assignment, checkpoint, device, held, store),
        free_bytes(device),
        free_bytes(HOST),
    )
    needed = need.weight_bytes + need.kv_bytes
    here_already = 0 if need.stored_bytes else need.as_is_bytes
    if needed - here_already > free:
        raise ModelError(
            f"layers {assignment.start}:{assignment.end} do not fit on {device}: they add "
            f"{need.weight_bytes / 1e6:.1f} MB of weights and {need.kv_bytes / 1e6:.1f} MB of KV, "
            f"and {free / 1e6:.1f} MB are free; give it fewer layers, or take fewer KV blocks with "
            f"kv.num_blocks or kv.memory_fraction"
        )
    beside = needed - need.as_is_bytes if device == HOST else 0
    if store is None or directory is None or beside + need.stored_bytes <= host_free:
        return store
    _log.warning(
        "tensor store takes no more needed_bytes=%d free_bytes=%d",
        beside + need.stored_bytes,
        host_free,
    )
    return TensorStore(directory, assignment.model_hash, store.num_bytes)
