"""Carries watches to the actors that are watched, and the one `Down` of each back to its watcher.

A `Down` comes also if the actor is gone already, was never there or is out of reach. Watching a
name watches the actor that has it at the time: its end is told even if it is started again.
"""

import asyncio

from actors.kernel.envelope import Envelope, Key
from actors.kernel.errors import ActorStopped
from actors.kernel.links import Links
from actors.kernel.post import Post
from actors.kernel.ref import ANY, Ref
from actors.kernel.registry import Registry
from actors.kernel.supervision import Down, DownReason
from actors.kernel.watches import OpenWatch, Watches
from actors.kernel.wire import WIRE, Gone, Unwatch, Watch, clip
from transport.endpoint import Endpoint, Lane
from transport.errors import SendQueueFull, TransportError
from transport.frame import Frame

RETRY_S = 0.05
"""How soon the news of an end is sent again that a full queue did not take."""


class Watching:
    """Both ends of every watch that concerns this process."""

    def __init__(self, endpoint: Endpoint, links: Links, registry: Registry, post: Post) -> None:
        self.watches = Watches(self._deliver)
        self._endpoint = endpoint
        self._links = links
        self._registry = registry
        self._post = post

    # --- the watcher's end

    def watch(self, watcher: Ref, ref: Ref) -> None:
        """Have an actor of this process told, once, when another is gone.

        Raises:
            ActorStopped: the watcher itself is not there.
        """
        watch = self.watches.open(self._registry.find(watcher).ref, ref)
        if watch is None:
            return
        if self._registry.is_here(ref):
            self._watch_here(watch)
            return
        frame = Frame(WIRE.encode(Watch(ref.name, ref.generation, watch.id)))
        try:
            self._links.send(ref, frame, Lane.CONTROL, watch)
        except TransportError as error:
            watch.fail(error)

    def _watch_here(self, watch: OpenWatch) -> None:
        try:
            self._registry.find(watch.ref).obligations.add_watcher((None, watch.id))
        except ActorStopped:
            watch.end(*self._registry.last_words(watch.ref))

    def unwatch(self, watcher: Ref, ref: Ref) -> None:
        """Have nobody told after all."""
        watch = self.watches.close(self._registry.find(watcher).ref, ref)
        if watch is not None:
            self._withdraw(watch)

    def forget(self, watcher: Ref) -> None:
        """A watcher is gone itself."""
        for watch in self.watches.of(watcher):
            self.watches.close(watcher, watch.ref)
            self._withdraw(watch)

    def _withdraw(self, watch: OpenWatch) -> None:
        ref = watch.ref
        try:
            if self._registry.is_here(ref):
                self._registry.find(ref).obligations.drop_watcher((None, watch.id))
            else:
                frame = Frame(WIRE.encode(Unwatch(ref.name, watch.id)))
                self._links.send(ref, frame, Lane.CONTROL, watch)
        except (ActorStopped, TransportError):
            return  # whoever is gone tells nobody

    def _deliver(self, watcher: Ref, down: Down) -> None:
        self._post.deliver(watcher, Envelope(down, None, (), Lane.CONTROL), always=True)

    # --- the watched end

    def watched_from(self, watch: Key, name: str, generation: int) -> None:
        """Another process watches an actor of ours."""
        try:
            self._registry.find_here(name, generation).obligations.add_watcher(watch)
        except ActorStopped:
            ref = self._registry.ref(name, generation)
            self.tell_gone(watch, *self._registry.last_words(ref))

    def unwatched_from(self, watch: Key, name: str) -> None:
        """Another process watches no more."""
        try:
            self._registry.find_here(name, ANY).obligations.drop_watcher(watch)
        except ActorStopped:
            return

    def tell_gone(self, watch: Key, reason: DownReason, text: str) -> None:
        """Tell whoever opened a watch that the watched actor is gone."""
        peer, id_ = watch
        if peer is None:
            self.watches.end(None, id_, reason, text)
            return
        frame = Frame(WIRE.encode(Gone(id_, reason, clip(text))))
        try:
            self._endpoint.send_nowait(peer, frame, Lane.CONTROL)
        except SendQueueFull:
            loop = asyncio.get_running_loop()
            loop.call_later(RETRY_S, self.tell_gone, watch, reason, text)
        except TransportError:
            return  # the watcher's own process tells it that ours is out of reach
