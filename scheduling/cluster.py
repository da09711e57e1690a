"""What there is to serve on: nodes with devices, the links between them, what they cost.

The one idea: a link is named by its two ends, and the nearest name counts: two nodes before two
sites, both before what is usual (the same rule as the simulated wire's). It knows facts only, never
a model or a load.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp

from scheduling.errors import InvalidCluster
from scheduling.hardware import CATALOGUE, DeviceKind
from scheduling.roofline import LinkRate

WITHIN_NODE = LinkRate(bytes_per_s=10e9, latency_s=20e-6)
WITHIN_SITE = LinkRate(bytes_per_s=1.25e9, latency_s=200e-6)
BETWEEN_SITES = LinkRate(bytes_per_s=125e6, latency_s=0.01)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine.

    Attributes:
        id: its name, unique among nodes and sites.
        devices: the names of its devices' kinds, in order.
        site: where it stands.
        price_per_hour: dollars for all of it; None takes the sum of its devices' usual prices.
        spot: whether it can be taken back.
        notice_s: how long before that it says so.
        interruptions_per_hour: how often that happens; what a spot market's history says.
    """

    id: str
    devices: tuple[str, ...]
    site: str = "site"
    price_per_hour: float | None = None
    spot: bool = False
    notice_s: float = 0.0
    interruptions_per_hour: float = 0.0

    def availability(self, recovery_s: float) -> float:
        """Part of the time in which what runs here is not recovering from this node's loss.

        A loss that is announced `notice_s` ahead costs only what recovery takes beyond that.
        """
        lost_s = max(0.0, recovery_s - self.notice_s)
        return exp(-self.interruptions_per_hour * lost_s / 3600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What lies between two sites or two nodes; of one with itself, what is inside it."""

    between: tuple[str, str]
    rate: LinkRate


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """All nodes and links; contradictions are refused when it is made.

    Raises:
        InvalidCluster: two nodes of a name, or a kind or a link's end that nobody described.
    """

    nodes: tuple[Node, ...]
    links: tuple[Link, ...] = ()
    kinds: Mapping[str, DeviceKind] = field(default_factory=lambda: CATALOGUE)
    _rates: dict[frozenset[str], LinkRate] = field(init=False, repr=False, compare=False)
    _sites: dict[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self)
        rates = {frozenset(link.between): link.rate for link in self.links}
        object.__setattr__(self, "_rates", rates)
        object.__setattr__(self, "_sites", {node.id: node.site for node in self.nodes})

    @property
    def num_devices(self) -> int:
        """Devices of all nodes."""
        return sum(len(node.devices) for node in self.nodes)

    @property
    def memory_bytes(self) -> int:
        """Memory of all devices."""
        return sum(self.kinds[kind].memory_bytes for node in self.nodes for kind in node.devices)

    def node(self, name: str) -> Node:
        """The node of that name.

        Raises:
            InvalidCluster: there is none.
        """
        found = next((node for node in self.nodes if node.id == name), None)
        if found is None:
            known = ", ".join(node.id for node in self.nodes)
            raise InvalidCluster(f"node {name!r}: not in this cluster; here are: {known}")
        return found

    def price_per_hour(self, node: Node) -> float:
        """Dollars an hour for a node."""
        if node.price_per_hour is not None:
            return node.price_per_hour
        return sum(self.kinds[kind].price_per_hour for kind in node.devices)

    def link(self, one: str, other: str) -> LinkRate:
        """What lies between two nodes, or inside one."""
        sites = frozenset((self._sites[one], self._sites[other]))
        for ends in (frozenset((one, other)), sites):
            if ends in self._rates and not (one == other and ends is sites):
                return self._rates[ends]
        return WITHIN_NODE if one == other else WITHIN_SITE if len(sites) == 1 else BETWEEN_SITES

    def shared_link(self, one: str, other: str) -> frozenset[str] | None:
        """The one line that all traffic between two nodes' sites shares; None inside a site."""
        if frozenset((one, other)) in self._rates:
            return None
        sites = frozenset((self._sites[one], self._sites[other]))
        return sites if len(sites) == 2 else None


def _check(cluster: Cluster) -> None:
    if not cluster.nodes:
        raise InvalidCluster("nodes: expected one or more, got none")
    names = Counter(node.id for node in cluster.nodes)
    sites = {node.site for node in cluster.nodes}
    for name, count in names.items():
        if count > 1 or name in sites:
            raise InvalidCluster(f"nodes: {name!r} names two nodes, or a node and a site")
    for node in cluster.nodes:
        _check_node(node, cluster.kinds)
    for link in cluster.links:
        for end in link.between:
            if end not in names and end not in sites:
                known = ", ".join([*names, *sorted(sites)])
                raise InvalidCluster(f"links: {end!r} is no node and no site; here are: {known}")


def _check_node(node: Node, kinds: Mapping[str, DeviceKind]) -> None:
    if not node.devices:
        raise InvalidCluster(f"node {node.id!r}: expected one or more devices, got none")
    for kind in node.devices:
        if kind not in kinds:
            known = ", ".join(kinds)
            raise InvalidCluster(f"node {node.id!r}: device {kind!r} is not one of {known}")
