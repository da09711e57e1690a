"""Who on this process watches whom, until the one `Down` that every watch leads to."""

from collections.abc import Callable

from actors.kernel.ref import Ref
from actors.kernel.supervision import Down, DownReason
from transport.endpoint import Peer


class OpenWatch:
    """One actor of this process watching one actor anywhere.

    `peer` is set once the watch was sent to another process.
    """

    __slots__ = ("_on_down", "id", "peer", "ref", "watcher")

    def __init__(
        self, id_: int, watcher: Ref, ref: Ref, on_down: "Callable[[OpenWatch, Down], None]"
    ) -> None:
        self.id = id_
        self.watcher = watcher
        self.ref = ref
        self.peer: Peer | None = None
        self._on_down = on_down

    @property
    def is_over(self) -> bool:
        """Never: one taken back while its process was dialled is followed by its `Unwatch`."""
        return False

    def end(self, reason: DownReason, text: str) -> None:
        """Tell the watcher that the watched actor is gone."""
        self._on_down(self, Down(self.ref, reason, text))

    def fail(self, error: Exception) -> None:
        """End the watch: its process is out of reach."""
        self.end(DownReason.NO_CONNECTION, str(error))


class Watches:
    """All watches of this process's actors; watching twice is watching once."""

    def __init__(self, deliver: Callable[[Ref, Down], None]) -> None:
        self._deliver = deliver
        self._by_id: dict[int, OpenWatch] = {}
        self._by_pair: dict[tuple[Ref, Ref], OpenWatch] = {}
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def open(self, watcher: Ref, ref: Ref) -> OpenWatch | None:
        """Begin a watch; None if it was begun already."""
        if (watcher, ref) in self._by_pair:
            return None
        self._last_id += 1
        watch = OpenWatch(self._last_id, watcher, ref, self._end)
        self._by_id[watch.id] = self._by_pair[watcher, ref] = watch
        return watch

    def close(self, watcher: Ref, ref: Ref) -> OpenWatch | None:
        """End a watch without a `Down`; None if there is none."""
        watch = self._by_pair.get((watcher, ref))
        if watch is not None:
            self._forget(watch)
        return watch

    def of(self, watcher: Ref) -> list[OpenWatch]:
        """All that one actor watches."""
        return [watch for watch in self._by_id.values() if watch.watcher == watcher]

    def end(self, peer: Peer | None, id_: int, reason: DownReason, text: str) -> None:
        """A watched actor is gone, says its process; unknown watches ended before."""
        watch = self._by_id.get(id_)
        if watch is not None and watch.peer == peer:
            watch.end(reason, text)

    def lose_peer(self, peer: Peer, error: Exception) -> None:
        """A process is gone, and with it every actor that was watched there."""
        for watch in [watch for watch in self._by_id.values() if watch.peer == peer]:
            watch.fail(error)

    def _end(self, watch: OpenWatch, down: Down) -> None:
        if watch.id in self._by_id:
            self._forget(watch)
            self._deliver(watch.watcher, down)

    def _forget(self, watch: OpenWatch) -> None:
        del self._by_id[watch.id]
        del self._by_pair[watch.watcher, watch.ref]
