"""Maximum flows of one cluster's placements, thousands a second.

The one idea: a search needs order more than digits, so that flows are on integers, in units of a
thousandth of a token per second, or coarser where the whole flow would not fit 31 bits.
`scheduling.helix.flow.max_flow` gives the exact one.
"""

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_flow

from scheduling.helix.flow import FlowCluster, Ranges

_FINEST = 1e-3
_MOST = 2**30


class FlowScorer:
    """Maximum flows on integers, for placements of one cluster."""

    def __init__(self, cluster: FlowCluster, *, partial: bool) -> None:
        """Take a cluster, and whether a node may serve a part of what it holds."""
        self.cluster = cluster
        most = sum(max(rates, default=0.0) for rates in cluster.rates)
        self.unit = max(_FINEST, most / _MOST)
        self._partial = partial
        self._links = self._integers(cluster.links)
        self._entries = self._integers(cluster.entries)
        self._exits = self._integers(cluster.exits)
        width = max((len(rates) for rates in cluster.rates), default=0)
        self._rates = np.zeros((len(cluster.names), width + 1), dtype=np.int32)
        for node, rates in enumerate(cluster.rates):
            self._rates[node, 1 : len(rates) + 1] = self._integers(np.array(rates))

    def score(self, ranges: Ranges) -> float:
        """Tokens per second, to a unit."""
        count = len(ranges)
        held = np.array(ranges)
        start, end = held[:, 0], held[:, 1]
        active = end > start
        follows = start[np.newaxis] == end[:, np.newaxis]
        if self._partial:
            follows = start[np.newaxis] <= end[:, np.newaxis]
        follows &= end[:, np.newaxis] < end[np.newaxis]
        follows &= active[:, np.newaxis] & active[np.newaxis]
        matrix = np.zeros((2 * count + 2, 2 * count + 2), dtype=np.int32)
        matrix[np.arange(count), np.arange(count) + count] = self._rates[
            np.arange(count), end - start
        ]
        matrix[count : 2 * count, :count] = np.where(follows, self._links, 0)
        matrix[2 * count, :count] = np.where(active & (start == 0), self._entries, 0)
        whole = active & (end == self.cluster.num_layers)
        matrix[count : 2 * count, -1] = np.where(whole, self._exits, 0)
        graph = csr_matrix(matrix)
        return float(maximum_flow(graph, 2 * count, 2 * count + 1).flow_value) * self.unit

    def _integers(self, rates: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
        return np.minimum(np.floor(rates / self.unit), _MOST).astype(np.int32)
