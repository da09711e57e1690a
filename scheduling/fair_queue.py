"""Who goes next where many wait: priority classes first, then a fair share for every client.

The one idea: a counter per client of the tokens it was served; of those who wait, the client that
had the least goes next. A client that comes back from having nothing to do starts level with the
least of those who wait, so that an idle time is no credit. It never knows a clock or a request.

Source: Sheng et al., Fairness in Serving Large Language Models (OSDI 2024), algorithm 2 (the
virtual token counter); priorities as in vLLM, where the lesser number goes first.
"""

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

_T = TypeVar("_T")

OUTPUT_WEIGHT = 2.0
"""What a generated token weighs beside a prompt token, as in the paper."""
MAX_REMEMBERED = 4096
"""Clients whose counters are kept while they wait for nothing."""


class FairQueue(Generic[_T]):
    """Waiting items of many clients.

    Complexity: `push`, `remove` and `charge` are O(1) but for the items of one client; `pop` is
    O(clients that wait).

    Example:
        >>> queue: FairQueue[str] = FairQueue()
        >>> for item in ("a1", "a2", "a3"): queue.push(item, "a")
        >>> queue.push("b1", "b")
        >>> first = queue.pop()
        >>> queue.charge("a", 10)
        >>> (first, queue.pop(), queue.pop())
        ('a1', 'b1', 'a2')
    """

    def __init__(self) -> None:
        self._waiting: dict[int, dict[str, deque[_T]]] = {}
        self._served: dict[str, float] = {}
        self._num_items = 0

    def __len__(self) -> int:
        return self._num_items

    def push(self, item: _T, client: str, priority: int = 0) -> None:
        """Have an item wait behind the same client's earlier ones of its priority."""
        if not self._waits(client):
            self._level(client)
        self._waiting.setdefault(priority, {}).setdefault(client, deque()).append(item)
        self._num_items += 1

    def num_before(self, priority: int) -> int:
        """Items that go before a new one of this priority, at most."""
        urgent = (clients for other, clients in self._waiting.items() if other <= priority)
        return sum(len(items) for clients in urgent for items in clients.values())

    def pop(self) -> _T | None:
        """Take whoever goes next, or None if nobody waits.

        Ties go to the client whose item of this priority came first.
        """
        if not self._waiting:
            return None
        priority = min(self._waiting)
        clients = self._waiting[priority]
        client = min(clients, key=lambda name: self._served.get(name, 0.0))
        item = clients[client].popleft()
        self._drop_empty(priority, client)
        return item

    def remove(self, item: _T, client: str, priority: int = 0) -> bool:
        """Take out an item that waits no more; False if it did not wait."""
        queue = self._waiting.get(priority, {}).get(client)
        if queue is None or item not in queue:
            return False
        queue.remove(item)
        self._drop_empty(priority, client)
        return True

    def charge(self, client: str, cost: float, weight: float = 1.0) -> None:
        """Count what a client was served, in prompt tokens' worth over its weight.

        Args:
            client: who.
            cost: prompt tokens, and `OUTPUT_WEIGHT` for each generated one.
            weight: the client's share beside the others'; twice the weight, twice the tokens.
        """
        self._served[client] = self._served.get(client, 0.0) + cost / weight
        if len(self._served) > MAX_REMEMBERED:
            self._forget_one()

    def served(self, client: str) -> float:
        """What a client is counted to have been served."""
        return self._served.get(client, 0.0)

    def _waits(self, client: str) -> bool:
        return any(client in clients for clients in self._waiting.values())

    def _level(self, client: str) -> None:
        """Lift a client that had nothing to do to the least of those who wait."""
        others = set(self._clients())
        if others:
            least = min(self._served.get(name, 0.0) for name in others)
            self._served[client] = max(self._served.get(client, 0.0), least)

    def _clients(self) -> Iterator[str]:
        for clients in self._waiting.values():
            yield from clients

    def _drop_empty(self, priority: int, client: str) -> None:
        self._num_items -= 1
        if not self._waiting[priority][client]:
            del self._waiting[priority][client]
        if not self._waiting[priority]:
            del self._waiting[priority]

    def _forget_one(self) -> None:
        """Of clients that wait for nothing, the one that was counted first."""
        waiting = set(self._clients())
        gone = next((name for name in self._served if name not in waiting), None)
        if gone is not None:
            del self._served[gone]
