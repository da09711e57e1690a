"""In how many bits a request's KV should travel when it is handed from one pipeline to another.

The one idea: over a slow link fewer bytes are time saved, over a fast one the devices' encoding and
decoding are time lost, and the slower of the three sets the pace since pieces overlap. So each
encoding has a time per byte of KV, and the shortest within the error that is allowed wins; what
gains little is not worth any error, so no encoding at all wins near-ties.

It applies to hand-offs alone. Swaps, drains, moves and replays promise the same tokens as if they
had not been, and always copy exactly. It works on plain numbers and knows neither a tensor nor a
message. Quantising KV for this way only is ThunderServe's (MLSys 2025), who take 4 bits always.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

KvTransport: TypeAlias = Literal["auto", "none", "int8", "int4"]
"""What may be asked for."""
Encoding: TypeAlias = Literal["none", "int8", "int4"]
"""What is done."""

ERRORS: dict[Encoding, float] = {"none": 0.0, "int8": 1 / 510, "int4": 1 / 30}
"""The most by which a value may come back wrong, as a share of what its group spans."""
AUTO_MAX_ERROR = 0.005
"""What `auto` may cost: 8 bits are within it, 4 are not and must be asked for by name."""
AUTO_MIN_GAIN = 0.1
"""Share of the time that an encoding must save before `auto` takes it."""

ENCODE_PASSES = 14.0
"""Times that a device could have read the KV while it encodes it: measured on a CPU, float32.

A GPU has not been measured. Its operations are bound by memory as these are, so the same count of
readings at its own rate is the best guess; `python -m benchmarks.kv_transport` gives both.
"""
DECODE_PASSES = 8.0
"""The same, of decoding."""
GROUP = 32
"""The most values that share a scale; `models.kv_encoding` has the same."""
_SCALE_BYTES = 2
_CODE_BYTES: dict[Encoding, float] = {"int8": 1.0, "int4": 0.5}


@dataclass(frozen=True, slots=True, kw_only=True)
class KvHop:
    """One stage's way to one stage: its link, and the rates at which both devices read memory.

    Units: bytes per second, all greater than 0.
    """

    link_bytes_per_s: float
    sender_bytes_per_s: float
    receiver_bytes_per_s: float

    def __post_init__(self) -> None:
        for name in ("link_bytes_per_s", "sender_bytes_per_s", "receiver_bytes_per_s"):
            if not (rate := getattr(self, name)) > 0:
                raise ValueError(f"{name}: expected a rate above 0, got {rate}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KvLayout:
    """What of a KV cache fixes how much smaller an encoding makes it.

    `block_tokens` is P, `head_dim` D; `itemsize` is bytes of a number.
    """

    block_tokens: int
    head_dim: int
    itemsize: int

    def __post_init__(self) -> None:
        for name in ("block_tokens", "head_dim", "itemsize"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name}: expected 1 or more, got {value}")


def choose_encoding(
    setting: KvTransport,
    layout: KvLayout,
    hops: Sequence[KvHop],
    *,
    max_error: float = AUTO_MAX_ERROR,
) -> Encoding:
    """How the KV of a hand-off should travel between two pipelines.

    Args:
        setting: the configuration's; all but `auto` is simply done.
        layout: of the KV that travels.
        hops: every pair of stages between which some of it goes; nothing goes where there is none.
        max_error: for `auto`, the most by which a value may come back wrong, as a share of what
            its group spans.

    Raises:
        ValueError: there is no such setting.

    Example:
        >>> layout = KvLayout(block_tokens=16, head_dim=128, itemsize=2)
        >>> def over(link_bytes_per_s):
        ...     return [KvHop(link_bytes_per_s=link_bytes_per_s, sender_bytes_per_s=1e12,
        ...                   receiver_bytes_per_s=1e12)]
        >>> choose_encoding("auto", layout, over(0.6e9))
        'int8'
        >>> choose_encoding("auto", layout, over(4e11))
        'none'
    """
    if setting != "auto":
        if setting not in ERRORS:
            raise ValueError(
                f"KV transport: expected one of auto, {', '.join(ERRORS)}, got {setting!r}"
            )
        return setting
    allowed: list[Encoding] = [name for name, error in ERRORS.items() if error <= max_error]
    if not hops or "none" not in allowed:
        return "none"
    times = {name: transfer_s_per_byte(name, layout, hops) for name in allowed}
    best = min(allowed, key=lambda name: (times[name], ERRORS[name]))
    return best if times[best] <= (1 - AUTO_MIN_GAIN) * times["none"] else "none"


def transfer_s_per_byte(encoding: Encoding, layout: KvLayout, hops: Sequence[KvHop]) -> float:
    """Seconds for a byte of KV as it lies in the cache; the slowest of some ways sets the pace."""
    return max(_hop_s_per_byte(encoding, layout, hop) for hop in hops)


def wire_ratio(encoding: Encoding, layout: KvLayout) -> float:
    """Bytes on the way for a byte of KV as it lies in the cache.

    Example:
        >>> layout = KvLayout(block_tokens=16, head_dim=128, itemsize=2)
        >>> [round(wire_ratio(encoding, layout), 3) for encoding in ERRORS]
        [1.0, 0.594, 0.344]
    """
    if encoding == "none":
        return 1.0
    per_value = layout.itemsize + _SCALE_BYTES
    keys = -(-layout.block_tokens // GROUP) / layout.block_tokens
    values = -(-layout.head_dim // GROUP) / layout.head_dim
    return (_CODE_BYTES[encoding] + per_value * (keys + values) / 2) / layout.itemsize


def _hop_s_per_byte(encoding: Encoding, layout: KvLayout, hop: KvHop) -> float:
    encoding_passes, decoding_passes = 1.0, 1.0
    if encoding != "none":
        encoding_passes, decoding_passes = ENCODE_PASSES, DECODE_PASSES
    return max(
        wire_ratio(encoding, layout) / hop.link_bytes_per_s,
        encoding_passes / hop.sender_bytes_per_s,
        decoding_passes / hop.receiver_bytes_per_s,
    )
