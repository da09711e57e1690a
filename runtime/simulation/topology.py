"""How long anything takes between two processes of the cluster.

The one idea: a link is named by its two ends, and the nearest name counts: two nodes before two
sites, both before what is usual. It is a `Delay` of the memory wire; faults slow links down in it.
Processes are named `node-ID` or `ID/stage...`, as `world` names them; whatever else there is stands
at the first node's site.
"""

from runtime.simulation.cluster_file import Cluster
from runtime.simulation.line import Line, Lines
from scheduling.roofline import LinkRate, transfer_time_s

WITHIN_NODE = LinkRate(bytes_per_s=10e9, latency_s=20e-6)
WITHIN_SITE = LinkRate(bytes_per_s=1.25e9, latency_s=200e-6)
BETWEEN_SITES = LinkRate(bytes_per_s=125e6, latency_s=0.01)


class Topology:
    """The links of a cluster, as they are now."""

    def __init__(self, cluster: Cluster) -> None:
        self._sites = {node.id: node.site for node in cluster.nodes}
        self._home = cluster.nodes[0].site
        self._links = {
            frozenset(link.between): LinkRate(
                bytes_per_s=link.bytes_per_s, latency_s=link.latency_s
            )
            for link in cluster.links
        }
        self._shared = {frozenset(link.between) for link in cluster.links if link.shared}
        self._lines = Lines()
        self._slowed: dict[frozenset[str], float] = {}
        self._known: dict[tuple[str, str], LinkRate] = {}

    def delay_s(self, sender: str, receiver: str, num_bytes: int) -> float:
        """Seconds that a packet between two processes is under way."""
        link = self._known.get((sender, receiver)) or self.link(sender, receiver)
        return transfer_time_s(link, num_bytes)

    def link(self, sender: str, receiver: str) -> LinkRate:
        """What lies between two processes."""
        link = self._find(self.place(sender), self.place(receiver))
        self._known[sender, receiver] = link
        return link

    def line(self, sender: str, receiver: str) -> Line | None:
        """The line that two processes share with others; None where they have a link each."""
        one, other = self.place(sender), self.place(receiver)
        if (end := self._end(one, other)) not in self._shared:
            return None
        if end == frozenset((one, other)):
            return self._lines.between(one, other)
        return self._lines.between(self.site(one), self.site(other))

    def slow_down(self, one: str, other: str, factor: float) -> None:
        """Have everything between two nodes or sites take so many times as long; 1 undoes it."""
        self._slowed[frozenset((one, other))] = factor
        self._known.clear()

    def place(self, process: str) -> str:
        """The node where a process runs; empty for those of the control plane."""
        node = process.removeprefix("node-").partition("/")[0]
        return node if node in self._sites else ""

    def site(self, node: str) -> str:
        """The site of a node, or of the control plane."""
        return self._sites.get(node, self._home)

    def _find(self, one: str, other: str) -> LinkRate:
        ends = self._ends(one, other)
        link = self._links.get(self._end(one, other))
        if link is None:
            is_one_site = len(ends[1]) == 1
            link = WITHIN_NODE if one == other else WITHIN_SITE if is_one_site else BETWEEN_SITES
        factor = max((self._slowed.get(end, 1.0) for end in ends), default=1.0)
        return LinkRate(bytes_per_s=link.bytes_per_s / factor, latency_s=link.latency_s * factor)

    def _end(self, one: str, other: str) -> frozenset[str]:
        """By which of its ends the link between two nodes was described; empty if it was not."""
        ends = self._ends(one, other)
        return next((end for end in ends if end in self._links), frozenset())

    def _ends(self, one: str, other: str) -> tuple[frozenset[str], frozenset[str]]:
        return frozenset((one, other)), frozenset((self.site(one), self.site(other)))
