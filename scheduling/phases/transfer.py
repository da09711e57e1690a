"""What handing a request's KV cache from one pipeline to another takes.

The one idea: the layers that a prefill stage holds go to the decode stages that hold the same ones,
all pairs of nodes side by side; each pair of nodes carries its share of the bytes of a token. The
slowest pair decides the time, and each line's bytes bound how many requests a second may go there.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from scheduling.cluster import Cluster
from scheduling.placement import PlacedPipeline
from scheduling.roofline import ModelShape

Line = frozenset[str]
"""Two sites, two nodes, or one node: what all that goes between them shares."""

_SCALE_PART = 1 / 32
"""Scales and zero points: two 16-bit numbers for 64 values of 16 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvTransport:
    """In what form KV entries travel.

    Attributes:
        ratio: bytes on the wire for each byte that an entry has.
        codec_bytes_per_s: rate at which a pipeline packs and unpacks, together, in bytes of
            entries as they are; infinite where nothing is packed.
        overlaps: whether entries travel while the prompt's later ones are computed. Then only what
            is left when prefill ends is waited for.
    """

    ratio: float = 1.0
    codec_bytes_per_s: float = inf
    overlaps: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ValueError(f"transport: expected a ratio above 0, up to 1, got {self.ratio}")
        if not self.codec_bytes_per_s > 0:
            raise ValueError(
                f"transport: expected codec_bytes_per_s above 0, got {self.codec_bytes_per_s}"
            )

    @classmethod
    def of_bits(
        cls, bits: int, *, dtype_bytes: int = 2, codec_bytes_per_s: float = 100e9
    ) -> "KvTransport":
        """Entries packed to 4 or 8 bits with their scales, or sent as they are (16).

        Raises:
            ValueError: other bits, or no fewer than an entry has.
        """
        if bits not in (4, 8, 16):
            raise ValueError(f"transport: expected 4, 8 or 16 bits, got {bits}")
        whole = 8 * dtype_bytes
        if bits >= whole:
            return cls()
        return cls(ratio=bits / whole + _SCALE_PART, codec_bytes_per_s=codec_bytes_per_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """From one pipeline to another.

    Attributes:
        latency_s: what it takes whatever the prompt.
        token_s: seconds for each token of KV, over the slowest pair of nodes, packing included.
        line_bytes: bytes of a token over each line.
    """

    latency_s: float
    token_s: float
    line_bytes: dict[Line, float]


def transfer_between(
    one: PlacedPipeline,
    other: PlacedPipeline,
    cluster: Cluster,
    shape: ModelShape,
    transport: KvTransport,
) -> Transfer:
    """What the way of KV from a prefill pipeline to a decode pipeline takes."""
    token_bytes = float(shape.kv_bytes_per_token)  # of one layer
    latency_s, slowest_s = 0.0, 0.0
    lines: dict[Line, float] = defaultdict(float)
    shares: dict[tuple[str, str], int] = defaultdict(int)
    for ends, num_layers in _shared_layers(one, other):
        shares[ends] += num_layers
    for (source, target), num_layers in shares.items():
        link = cluster.link(source, target)
        num_bytes = num_layers * token_bytes * transport.ratio
        latency_s = max(latency_s, link.latency_s)
        slowest_s = max(slowest_s, num_bytes / link.bytes_per_s)
        lines[line_between(cluster, source, target)] += num_bytes
    codec_s = shape.num_layers * token_bytes / transport.codec_bytes_per_s
    return Transfer(latency_s=latency_s, token_s=slowest_s + codec_s, line_bytes=dict(lines))


def line_between(cluster: Cluster, one: str, other: str) -> Line:
    """The line that carries all between two nodes."""
    return cluster.shared_link(one, other) or frozenset((one, other))


def line_rate(cluster: Cluster, line: Line) -> float:
    """Bytes a second of a line."""
    named = {frozenset(link.between): link.rate for link in cluster.links}
    if line in named:
        return named[line].bytes_per_s
    ends = [
        next(node.id for node in cluster.nodes if name in (node.id, node.site))
        for name in sorted(line)
    ]
    return cluster.link(ends[0], ends[-1]).bytes_per_s


def _shared_layers(
    one: PlacedPipeline, other: PlacedPipeline
) -> Iterable[tuple[tuple[str, str], int]]:
    for giver in one.stages:
        for taker in other.stages:
            count = min(giver.end, taker.end) - max(giver.start, taker.start)
            if count > 0:
                yield (giver.group.node, taker.group.node), count
