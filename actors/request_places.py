"""Where each of a router's requests is: at a pipeline, held until one takes it, or over.

The one idea: a request is in one place at a time, and only here does it change places, so that what
pipelines have of requests (`loads`) is right whatever happened. While nobody can take them,
requests are held, the oldest first in line. It never knows why a request changes places.
"""

from collections.abc import Iterable, Mapping, Sequence

from actors.kernel.actor import Context
from actors.kernel.ref import Ref
from actors.messages import Cancel, HandOffTo, PipelineStatus, Taker
from actors.pipeline_choice import PipelineChoice, share_of
from actors.reach import Reach
from actors.stream import Stream
from scheduling.pipeline_loads import PipelineLoads
from transport.codec import Message
from transport.endpoint import Lane


class HeldTooLong(Message, frozen=True, tag="held_too_long"):
    """Does this attempt's successor still wait? The router's note to itself, never on the wire."""

    request: str
    attempt: int


class RequestPlaces:
    """Requests under way; none is held for longer than `max_wait_s` at a time."""

    context: Context
    """The router's, set when it starts."""

    def __init__(self, reach: Reach, choice: PipelineChoice, max_wait_s: float) -> None:
        self._reach, self._choice, self._max_wait_s = reach, choice, max_wait_s
        self._streams: dict[str, Stream] = {}
        self._at_pipelines: dict[str, Stream] = {}  # by the name that a pipeline knows it by
        self._held: dict[str, Stream] = {}
        self.loads = PipelineLoads()  # what each pipeline has of `_at_pipelines`

    # --- who is where

    @property
    def streams(self) -> Sequence[Stream]:
        """Every request that is under way."""
        return tuple(self._streams.values())

    @property
    def num_held(self) -> int:
        """Requests that wait for a pipeline."""
        return len(self._held)

    def named(self, request: str) -> Stream | None:
        """A request under way, by the name that its reader gave it."""
        return self._streams.get(request)

    def at_pipeline(self, wire_name: str) -> Stream | None:
        """A request that a pipeline has, by the name of the attempt; an older one is nobody's."""
        return self._at_pipelines.get(wire_name)

    def at_actor(self, ref: Ref) -> list[Stream]:
        """The requests that a pipeline's actor has."""
        return [stream for stream in self._at_pipelines.values() if stream.ref == ref]

    def busy(self) -> set[Ref | None]:
        """The actors that have any."""
        return {stream.ref for stream in self._at_pipelines.values()}

    # --- to a pipeline

    def begin(self, stream: Stream) -> None:
        """It was sent or is held, and is under way from now on."""
        self._streams[stream.request] = stream

    def send(self, stream: Stream) -> bool:
        """Give a stream to a pipeline; False if all are full."""
        open_now = {status.pipeline: status for status in self._reach.open_pipelines()}
        found = self._choice.pairing(stream, tuple(open_now.values()), self.loads)
        if found is None:
            return False
        ref = open_now[found.pipeline].ref
        assert ref is not None
        takers = self._takers(found.pipeline, found.takers, open_now)
        stream.goes_on_at = found.takers[0] if found.takers else ""
        self.context.tell(ref, stream.next_attempt(found.pipeline, ref, takers))
        self._at_pipelines[stream.wire_name] = stream
        self.recount(stream)
        return True

    def hand_on(self, requests: Iterable[Stream] | None = None) -> None:
        """Have requests of pipelines that serve prefill alone by now go on where others go on.

        All that pipelines have, unless it is said which.
        """
        open_now = {status.pipeline: status for status in self._reach.open_pipelines()}
        for stream in self._at_pipelines.values() if requests is None else requests:
            here = open_now.get(stream.pipeline)
            is_new = here is not None and here.ref == stream.ref and not stream.takers
            if here is None or not is_new or here.serves != "prefill":
                continue
            names = self._choice.takers(stream, tuple(open_now.values()), self.loads)
            takers = self._takers(stream.pipeline, names, open_now)
            if takers and stream.ref is not None:
                stream.may_go_to(takers)
                stream.goes_on_at = names[0]
                self.recount(stream)
                self.context.tell(stream.ref, HandOffTo(stream.wire_name, takers))

    def _takers(
        self, giver: str, names: Sequence[str], open_now: Mapping[str, PipelineStatus]
    ) -> tuple[Taker, ...]:
        """Pipelines that may go on with a request, as whoever has it is told."""
        return tuple(
            self._choice.taker(giver, name, ref)
            for name in names
            if (ref := open_now[name].ref) is not None
        )

    def recount(self, stream: Stream) -> None:
        """What its pipelines have of a stream has changed."""
        if self._at_pipelines.get(stream.wire_name) is stream:
            self.loads.put(stream.wire_name, share_of(stream))

    # --- held

    def hold(self, stream: Stream) -> None:
        """Have it wait for a pipeline."""
        self._held[stream.request] = stream
        stream.held_since = self.context.loop_time()
        note = HeldTooLong(stream.request, stream.attempt)
        self.context.schedule(self._max_wait_s, note)

    def send_held(self) -> None:
        """Give away whoever waits, the oldest first, as long as there is room."""
        for stream in list(self._held.values()):
            if not self.send(stream):
                return
            del self._held[stream.request]
            if not stream.delivered:
                stream.held_s += self.context.loop_time() - stream.held_since

    def on_held_too_long(self, note: HeldTooLong) -> None:
        """A request's time to wait is over: if nobody took it, it ends."""
        stream = self._held.get(note.request)
        if stream is not None and stream.attempt == note.attempt:
            missing = self._reach.not_ready_reason() or "every pipeline is full"
            waited = f"no pipeline took it for {self._max_wait_s:g} s"
            self.fail(stream, "no_capacity", f"{waited}: {missing}")

    # --- nowhere

    def leave(self, stream: Stream) -> None:
        """Nobody has it any more, and it does not wait to be sent either."""
        self._held.pop(stream.request, None)
        if self._at_pipelines.get(stream.wire_name) is stream:
            del self._at_pipelines[stream.wire_name]
            self.loads.drop(stream.wire_name)
        stream.leave()

    def forget(self, stream: Stream) -> None:
        """It is over."""
        self._streams.pop(stream.request, None)
        self.leave(stream)

    def fail(self, stream: Stream, kind: str, reason: str) -> None:
        """It is over, and its reader is told why."""
        self.forget(stream)
        stream.fail(kind, reason)

    def cancel(self, stream: Stream) -> None:
        """Tell whoever has it that nobody reads it any more."""
        if stream.ref is not None:
            self.cancel_at(stream.ref, stream.wire_name)

    def cancel_at(self, ref: Ref, wire_name: str) -> None:
        """Tell one that may have a request that nobody reads it there."""
        self.context.tell(ref, Cancel(request=wire_name), lane=Lane.CONTROL)
