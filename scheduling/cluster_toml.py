"""The cluster file: nodes, links, kinds and prices as TOML, checked and read into records.

The one idea: it is the file that `python -m runtime.simulate` takes, read for its facts about
devices; what only concerns a simulation is let through unread, what neither knows is refused with
its path. Planning adds, to a node: `price_per_hour`, `spot`, `notice_s`,
`interruptions_per_hour`, and `count` for so many nodes alike; to a device: `price_per_hour`.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from scheduling.cluster import Cluster, Link, Node
from scheduling.errors import InvalidCluster
from scheduling.hardware import CATALOGUE, DeviceKind
from scheduling.roofline import LinkRate
from scheduling.split import StageDevice

_MAX_DEVICES = 10_000
_SIMULATION_TABLES = ("pipelines", "times", "load", "planner")

Count = Annotated[int, Meta(ge=1, le=1 << 16)]
Rate = Annotated[float, Meta(ge=1, le=1e18)]
Positive = Annotated[float, Meta(ge=0, le=1e9)]
Id = Annotated[str, Meta(min_length=1, max_length=128, pattern="^[^/ ]+$")]


class _Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _Node(_Record, frozen=True, kw_only=True):
    id: Id
    devices: Annotated[tuple[str, ...], Meta(min_length=1, max_length=64)]
    site: Id = "site"
    count: Count = 1
    price_per_hour: Positive | None = None
    spot: bool = False
    notice_s: Positive = 0.0
    interruptions_per_hour: Positive = 0.0


class _Device(_Record, frozen=True, kw_only=True):
    memory_bytes: Annotated[int, Meta(ge=1, le=1 << 50)]
    flops_per_s: Rate
    bytes_per_s: Rate
    layer_overhead_s: Positive = 30e-6
    step_overhead_s: Positive = 0.0
    price_per_hour: Positive = 0.0


class _Link(_Record, frozen=True, kw_only=True):
    """`shared` concerns simulation alone: planning counts all that goes over a link anyway."""

    between: tuple[Id, Id]
    bytes_per_s: Rate
    latency_s: Positive
    shared: bool = False


class _File(_Record, frozen=True, kw_only=True):
    nodes: Annotated[tuple[_Node, ...], Meta(min_length=1, max_length=4096)]
    devices: dict[str, _Device] = {}
    links: tuple[_Link, ...] = ()
    model: dict[str, Any] = {}
    serving: dict[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFile:
    """What a cluster file says: the cluster, and model, batching and load if it names them."""

    cluster: Cluster
    model: Mapping[str, Any]
    serving: Mapping[str, Any]
    load: Mapping[str, Any] = field(default_factory=dict)


def parse_cluster(text: str) -> ClusterFile:
    """Read a cluster file's text.

    Raises:
        InvalidCluster: it is not TOML, says something unknown, or contradicts itself.
    """
    try:
        data = tomllib.loads(text)
        known = {key: value for key, value in data.items() if key not in _SIMULATION_TABLES}
        file = msgspec.convert(known, _File)
    except tomllib.TOMLDecodeError as error:
        raise InvalidCluster(f"not TOML: {error}") from None
    except RecursionError:
        raise InvalidCluster("not TOML of ours: nested too deep") from None
    except msgspec.ValidationError as error:
        raise InvalidCluster(str(error)) from None
    _check_links(file.links)
    num_devices = sum(len(node.devices) * node.count for node in file.nodes)
    if num_devices > _MAX_DEVICES:
        raise InvalidCluster(
            f"nodes: expected at most {_MAX_DEVICES} devices, got {num_devices}; split the cluster"
        )
    cluster = Cluster(
        nodes=tuple(node for found in file.nodes for node in _nodes(found)),
        links=tuple(_link(link) for link in file.links),
        kinds={**CATALOGUE, **{name: _kind(name, d) for name, d in file.devices.items()}},
    )
    return ClusterFile(
        cluster=cluster, model=file.model, serving=file.serving, load=data.get("load", {})
    )


def _check_links(links: tuple[_Link, ...]) -> None:
    """Refuse a link that is described twice: which of the two were meant nobody could tell."""
    seen: set[frozenset[str]] = set()
    for link in links:
        if frozenset(link.between) in seen:
            one, other = link.between
            raise InvalidCluster(f"links: two between {one!r} and {other!r}; describe each once")
        seen.add(frozenset(link.between))


def _nodes(found: _Node) -> Iterator[Node]:
    for number in range(found.count):
        yield Node(
            id=found.id if found.count == 1 else f"{found.id}-{number}",
            devices=found.devices,
            site=found.site,
            price_per_hour=found.price_per_hour,
            spot=found.spot,
            notice_s=found.notice_s,
            interruptions_per_hour=found.interruptions_per_hour,
        )


def _link(link: _Link) -> Link:
    rate = LinkRate(bytes_per_s=link.bytes_per_s, latency_s=link.latency_s)
    return Link(between=link.between, rate=rate)


def _kind(name: str, device: _Device) -> DeviceKind:
    rates = StageDevice(
        memory_bytes=device.memory_bytes,
        flops_per_s=device.flops_per_s,
        bytes_per_s=device.bytes_per_s,
        layer_overhead_s=device.layer_overhead_s,
        step_overhead_s=device.step_overhead_s,
    )
    return DeviceKind.measured(
        name, rates, price_per_hour=device.price_per_hour, source="the cluster file"
    )
