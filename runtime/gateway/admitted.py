"""A request that was let in: it waits for its turn, has it, and is counted until it ends.

`entered` gives each HTTP request a backend of its own, which has the turn, counts what is used and
times it; nobody behind it knows. Who goes next is for `admission` to say.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from runtime.gateway.access import Caller
from runtime.gateway.admission import Admission
from runtime.gateway.backend import (
    GenerationError,
    GenerationRequest,
    NotReady,
    Overloaded,
    TokenBatch,
    TokenStream,
)
from runtime.gateway.punctuality import Reading, TooLate
from runtime.gateway.terms import Terms
from runtime.telemetry.request_metrics import RequestClock
from scheduling.fair_queue import OUTPUT_WEIGHT


@asynccontextmanager
async def entered(
    admission: Admission, caller: Caller, terms: Terms
) -> AsyncIterator["AdmittedBackend"]:
    """A backend for one HTTP request; what ended in it without a reason ended as the block."""
    backend = AdmittedBackend(admission, caller, terms)
    reason = "abort"
    try:
        yield backend
        reason = "stop"  # a stop string ends a sequence that could have gone on
    except Exception as error:
        reason = "error" if isinstance(error, GenerationError) else "abort"
        raise
    finally:
        for stream in backend.streams:
            stream.settle(reason)


class AdmittedBackend:
    """`Backend` for the sequences of one HTTP request."""

    def __init__(self, admission: Admission, caller: Caller, terms: Terms) -> None:
        self._admission = admission
        self._caller = caller
        self._terms = terms
        self.streams: list[AdmittedStream] = []

    def submit(self, request: GenerationRequest) -> "AdmittedStream":
        """Send a request on if there is room and nobody waits, else have it wait."""
        admission = self._admission
        admission.pump()  # there may be another pipeline since
        stream = AdmittedStream(admission, self._caller, self._terms, request)
        try:
            admission.check_targets(self._terms, len(request.token_ids))
            if not admission.queue and admission.has_room():
                stream.dispatch_now()
            else:
                admission.check_queue()
                stream.enqueue()
        except TooLate:
            admission.metrics.refused("slo_unattainable")
            raise
        except Overloaded:
            admission.metrics.refused("queue_full")
            raise
        except NotReady:
            admission.metrics.refused("not_ready")
            raise
        self.streams.append(stream)
        return stream

    def not_ready_reason(self) -> str | None:
        """As the backend says."""
        return self._admission.backend.not_ready_reason()

    def plan(self) -> dict[str, object]:
        """As the backend says."""
        return self._admission.backend.plan()

    async def status(self) -> dict[str, object]:
        """As the backend says."""
        return await self._admission.backend.status()


@dataclass(slots=True, eq=False)
class AdmittedStream:
    """One sequence's tokens, from before its turn to its end."""

    admission: Admission
    caller: Caller
    terms: Terms
    request: GenerationRequest
    _turn: asyncio.Future[None] | None = None
    _inner: TokenStream | None = None
    _holds_slot: bool = False
    _ended: bool = False
    _reading: Reading | None = None
    clock: RequestClock = field(init=False)

    def __post_init__(self) -> None:
        self.clock = self.admission.metrics.begin(len(self.request.token_ids))

    def __aiter__(self) -> "AdmittedStream":
        return self

    async def __anext__(self) -> TokenBatch:
        if self._inner is None:
            if self._turn is None:
                raise StopAsyncIteration
            await self._wait_turn(self._turn)
            self._dispatch()
        assert self._inner is not None
        try:
            batch = await anext(self._inner)
        except GenerationError:
            self._end("error")
            raise
        self._count(batch)
        return batch

    async def aclose(self) -> None:
        """Cancel what is not finished, and let the next one have its turn."""
        self._withdraw()
        try:
            if self._inner is not None:
                await self._inner.aclose()
        finally:
            self._let_go()

    # --- its turn

    def dispatch_now(self) -> None:
        """Go on without waiting; raises what the backend's `submit` does."""
        self._take_slot()
        self._dispatch()

    def enqueue(self) -> None:
        """Wait."""
        self._turn = asyncio.get_running_loop().create_future()
        self.admission.queue.push(self, self.caller.id, self.terms.priority)

    def grant(self) -> None:
        """Its turn has come: the place is its own until it ends."""
        self._take_slot()
        assert self._turn is not None
        self._turn.set_result(None)

    async def _wait_turn(self, turn: asyncio.Future[None]) -> None:
        try:
            async with asyncio.timeout(self.terms.queue_timeout_s):
                await asyncio.shield(turn)
        except TimeoutError:
            self._end("error")
            self._let_go()
            self.admission.metrics.refused("queue_timeout")
            waited = f"no place was free within {self.terms.queue_timeout_s:g} s"
            raise GenerationError(f"timeout: {waited}", kind="queue_timeout") from None

    def _dispatch(self) -> None:
        try:
            self._inner = self.admission.backend.submit(self.request)
        except Exception:
            self._ended = True  # refused: it never was
            self._let_go()
            raise
        num_tokens = len(self.request.token_ids)
        self._reading = self.admission.punctuality.dispatched(num_tokens)
        self.clock.dispatched()
        self._take_tokens(num_tokens)

    def _take_slot(self) -> None:
        self._holds_slot = True
        self.admission.num_dispatched += 1
        # At once, so that of several turns given together no two go by the same count.
        self._weigh(len(self.request.token_ids))

    def _withdraw(self) -> None:
        self.admission.queue.remove(self, self.caller.id, self.terms.priority)

    def _let_go(self) -> None:
        self._withdraw()
        if self._holds_slot:
            self._holds_slot = False
            self.admission.release()

    # --- its tokens

    def _count(self, batch: TokenBatch) -> None:
        if batch.note:
            self.clock.noted(batch.note)
        self.clock.token_batch(len(batch.token_ids))
        if self._reading is not None and batch.token_ids:
            self._reading.over(with_token=True)
        self._take_tokens(len(batch.token_ids))
        self._weigh(len(batch.token_ids) * OUTPUT_WEIGHT)
        if batch.finish_reason is not None:
            self._end(batch.finish_reason)
            self._let_go()

    def _take_tokens(self, num_tokens: int) -> None:
        if num_tokens:
            self.caller.meter.tokens.take(num_tokens, self.admission.metrics.clock())

    def _weigh(self, cost: float) -> None:
        if cost:
            self.admission.queue.charge(self.caller.id, cost, self.caller.weight)

    def settle(self, reason: str) -> None:
        """The HTTP request is over: so is this, for that reason if it had none of its own."""
        self._end(reason)

    def _end(self, reason: str) -> None:
        if self._ended:
            return
        self._ended = True
        self.clock.ended(reason)
        if self._reading is not None:
            self._reading.over(with_token=False)
        if reason != "abort":  # who leaves is not failed
            is_whole = reason != "error"
            self.admission.punctuality.ended(self.clock, self.terms.targets, is_whole=is_whole)
