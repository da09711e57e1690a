"""Requests through pipelines of given phases, step by step: what each one waits and gets.

A seeded computation on the same roofline as the planner's: arrivals are Poisson, every step is made
up of what is there, passes the stages one after another, and takes what `StageTime` says for just
these sequences and chunks. KV memory admits prompts in order; where it runs out the youngest gives
way and is computed again; KV of a handed-off request occupies its line and both its ends. What a
plan's estimate leaves out is in here, that steps differ and requests come in lumps; actors are not.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from scheduling.goal import Limits
from scheduling.objective import Objective
from scheduling.phases.transfer import KvTransport, Line, line_rate, transfer_between
from scheduling.placement import Phase, PlacedPipeline, Placement
from scheduling.roofline import (
    LinkRate,
    ModelShape,
    StageTime,
    StepWork,
    all_reduce_time_s,
    tensor_parallel,
)
from scheduling.solvers.interface import Problem
from scheduling.stage_cost import GroupKind
from scheduling.workload import Workload

Choose = Callable[[int], tuple[int, int]]
"""The prefill and decode pipeline of the n-th request; the same one twice does both."""


@dataclass(slots=True)
class Request:
    """One request and when things happened to it; seconds."""

    prompt: int
    output: int
    arrived_s: float
    left: int = 0
    made: int = 0
    begun: int = 0
    first_s: float = 0.0
    done_s: float = 0.0
    takers: tuple[int, int] = (0, 0)

    @property
    def size(self) -> int:
        """Tokens it has, each with an entry of KV."""
        return self.prompt + self.made

    @property
    def ttft_s(self) -> float:
        """To the first token."""
        return self.first_s - self.arrived_s

    @property
    def tpot_s(self) -> float:
        """A token after it; 0 where there is none."""
        return (self.done_s - self.first_s) / (self.output - 1) if self.output > 1 else 0.0


def drawn_requests(workload: Workload, number: int, *, rate: float, seed: int) -> list[Request]:
    """Poisson arrivals with the workload's lengths, prompt and answer together."""
    rng, at_s, found = random.Random(seed), 0.0, []
    for _ in range(number):
        at_s += rng.expovariate(rate)
        pick = rng.randrange(len(workload.prompts))
        found.append(Request(workload.prompts[pick], workload.outputs[pick], at_s))
    return found


class _GroupTime:
    """A stage's time on a group of devices, what they tell each other included."""

    def __init__(self, time: StageTime, group: GroupKind, shape: ModelShape, layers: int) -> None:
        self._time, self._group, self._layers = time, group, layers
        self._token_bytes = shape.token_bytes

    def of(self, work: StepWork) -> float:
        """Seconds of a step."""
        num_bytes = work.num_tokens * self._token_bytes
        told_s = all_reduce_time_s(self._group.link, self._group.tp, num_bytes)
        return self._time.of(work) + 2 * self._layers * told_s


@dataclass(slots=True)
class _Step:
    """What is under way in a pipeline."""

    decoding: list[Request]
    chunks: list[tuple[Request, int]]


@dataclass(slots=True)
class _Pipeline:
    """One pipeline's stages, queues and KV memory."""

    phase: Phase
    times: list["_GroupTime"]
    hops: list[LinkRate]
    kv_tokens: float
    token_bytes: float
    limits: Limits
    is_chunked: bool
    free_s: list[float] = field(default_factory=list)
    waiting: deque[Request] = field(default_factory=deque)
    prompts: deque[Request] = field(default_factory=deque)
    ready: deque[Request] = field(default_factory=deque)
    held: float = 0.0
    running: dict[int, Request] = field(default_factory=dict)
    num_decoding: int = 0
    in_flight: int = 0

    def admitted(self) -> Iterator[Request]:
        """Let requests in, in order, as long as their KV fits."""
        while self.waiting:
            request = self.waiting[0]
            if request.prompt + request.output > self.kv_tokens:
                raise ValueError(
                    f"queue: a request of {request.prompt + request.output} tokens does not fit "
                    f"{self.kv_tokens:.0f}; cut the workload's lengths"
                )
            full = self.held + request.size + len(self.running) > self.kv_tokens
            if full or len(self.running) >= self.limits.max_running:
                return
            self.held += request.size
            self.running[id(request)] = request
            yield self.waiting.popleft()

    def release(self, request: Request) -> None:
        """A request leaves."""
        self.held -= request.size
        del self.running[id(request)]

    def give_way(self) -> None:
        """While KV memory has run out, the youngest that waits for its turn is put off."""
        while self.held > self.kv_tokens and self.ready:
            youngest = max(self.ready, key=lambda request: request.arrived_s)
            self.ready.remove(youngest)
            self.num_decoding -= 1
            self.release(youngest)
            self.waiting.appendleft(youngest)

    def form(self) -> _Step | None:
        """The next step: its share of the sequences, then prompts in order.

        Where prompts are not chunked, whole prompts go first and by themselves.
        """
        if not self.is_chunked and self.prompts:
            return _Step([], self._whole_prompts())
        share = -(-self.num_decoding // len(self.times))
        decoding = [self.ready.popleft() for _ in range(min(share, len(self.ready)))]
        room, chunks = self.limits.max_step_tokens - len(decoding), []
        while room > 0 and self.prompts:
            request = self.prompts.popleft()
            chunk = min(room, request.left)
            request.left -= chunk
            room -= chunk
            chunks.append((request, chunk))
        return _Step(decoding, chunks) if decoding or chunks else None

    def _whole_prompts(self) -> list[tuple[Request, int]]:
        room, chunks = self.limits.max_step_tokens, list[tuple[Request, int]]()
        while self.prompts and (not chunks or self.prompts[0].left <= room):
            request = self.prompts.popleft()
            room -= request.left
            chunks.append((request, request.left))
            request.left = 0
        return chunks

    def pass_through(self, step: _Step, at_s: float) -> float:
        """When the step leaves the last stage; stages are taken in turn."""
        work = _work(step)
        for stage, time in enumerate(self.times):
            at_s = max(at_s, self.free_s[stage])
            at_s += time.of(work)
            self.free_s[stage] = at_s
            if stage < len(self.hops):
                hop = self.hops[stage]
                at_s += hop.latency_s + work.num_tokens * self.token_bytes / hop.bytes_per_s
        return at_s


def _work(step: _Step) -> StepWork:
    context = float(sum(r.prompt + r.made for r in step.decoding))
    pairs, drawn = context, float(len(step.decoding))
    for request, chunk in step.chunks:
        before = request.begun - request.left - chunk
        pairs += chunk * (before + (chunk + 1) / 2)
        context += before
        drawn += request.left == 0
    tokens = len(step.decoding) + sum(chunk for _, chunk in step.chunks)
    return StepWork(num_tokens=tokens, num_pairs=pairs, num_context=context, num_drawn=drawn)


class PhaseQueue:
    """Pipelines of a placement, with their phases, and the lines between them."""

    def __init__(
        self,
        problem: Problem,
        placement: Placement,
        *,
        transport: KvTransport | None = None,
        is_chunked: bool = True,
    ) -> None:
        """Of a placement whose layers fit; KV travels as it is unless it is said how.

        Without chunks a prompt is one step, in which nobody decodes.
        """
        self._is_chunked = is_chunked
        self._placement, self._problem = placement, problem
        self._transport = transport or KvTransport()
        self._pipelines = [self._pipeline(pipeline) for pipeline in placement.pipelines]
        self._line_free: dict[Line, float] = {}
        self._transfers = {
            (i, j): transfer_between(one, other, problem.cluster, problem.shape, self._transport)
            for i, one in enumerate(placement.pipelines)
            for j, other in enumerate(placement.pipelines)
            if i != j and one.phase == "prefill" and other.phase == "decode"
        }
        self._rates = {
            line: line_rate(problem.cluster, line)
            for transfer in self._transfers.values()
            for line in transfer.line_bytes
        }
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._count = 0

    def run(self, requests: Sequence[Request], choose: Choose) -> Iterator[int]:
        """Serve all; yields how many are done, now and then. Each request holds its own times."""
        self._done = 0
        for number, request in enumerate(requests):
            request.takers = choose(number)
            self._at(request.arrived_s, _Arrival(self, request))
        while self._events:
            at_s, _, happen = heapq.heappop(self._events)
            before = self._done
            happen(at_s)
            if self._done != before:
                yield self._done

    def enter(self, request: Request, number: int, at_s: float) -> None:
        """A request comes to a pipeline, new or with its KV."""
        self._pipelines[number].waiting.append(request)
        self._go(number, at_s)

    def _at(self, at_s: float, happen: Callable[[float], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (at_s, self._count, happen))

    def _go(self, number: int, at_s: float) -> None:
        """Begin steps while there are sequences for them; one for each stage at most."""
        pipeline = self._pipelines[number]
        for request in pipeline.admitted():
            if self._is_handed_off(request, number):
                self._at(self._sent(request, at_s), _HandOff(self, request))
            else:
                request.left = request.begun = request.size
                pipeline.prompts.append(request)
        while pipeline.in_flight < len(pipeline.times):
            step = pipeline.form()
            if step is None:
                return
            pipeline.in_flight += 1
            self._at(pipeline.pass_through(step, at_s), _StepEnd(self, number, step))

    def end_step(self, number: int, step: _Step, at_s: float) -> None:
        """Tokens of a step are here."""
        pipeline = self._pipelines[number]
        pipeline.in_flight -= 1
        for request in step.decoding:
            self._token(number, request, at_s)
        pipeline.give_way()
        for request, _ in reversed(step.chunks):
            if request.left > 0:
                pipeline.prompts.appendleft(request)
            else:
                self._prefilled(number, request, at_s)
        self._go(number, at_s)

    def _token(self, number: int, request: Request, at_s: float) -> None:
        pipeline = self._pipelines[number]
        request.made += 1
        pipeline.held += 1
        if request.made < request.output:
            pipeline.ready.append(request)
            return
        request.done_s = at_s
        pipeline.release(request)
        pipeline.num_decoding -= 1
        self._done += 1

    def _prefilled(self, number: int, request: Request, at_s: float) -> None:
        pipeline = self._pipelines[number]
        request.first_s = request.first_s or at_s
        if number == request.takers[1] or request.output == 1:
            pipeline.num_decoding += 1
            self._token(number, request, at_s)
            return
        request.made += 1
        pipeline.held += 1
        self.enter(request, request.takers[1], at_s)

    def _is_handed_off(self, request: Request, number: int) -> bool:
        """Whether its KV is to come from a giver; one that was put off is computed again."""
        giver, taker = request.takers
        return giver != number == taker and id(request) in self._pipelines[giver].running

    def _sent(self, request: Request, at_s: float) -> float:
        """When a request's KV is at its taker: its lines carry one after another."""
        transfer = self._transfers[request.takers]
        end_s = at_s
        for line, num_bytes in transfer.line_bytes.items():
            begin_s = max(at_s, self._line_free.get(line, 0.0))
            self._line_free[line] = begin_s + num_bytes * request.prompt / self._rates[line]
            end_s = max(end_s, self._line_free[line])
        alone_s = at_s + transfer.token_s * request.prompt
        return max(end_s, alone_s) + transfer.latency_s

    def hand_off(self, request: Request, at_s: float) -> None:
        """KV has arrived: the giver's memory is free again, and the taker decodes."""
        giver, taker = request.takers
        self._pipelines[giver].release(request)
        self._pipelines[taker].num_decoding += 1
        self._pipelines[taker].ready.append(request)
        self._go(giver, at_s)
        self._go(taker, at_s)

    def _pipeline(self, placed: PlacedPipeline) -> _Pipeline:
        objective, problem = Objective.of(self._problem), self._problem
        row = objective.row(placed.groups, placed.phase)
        layers = tuple(stage.end - stage.start for stage in placed.stages)
        found = objective.forecaster.forecast(row, layers)
        if found is None:
            raise ValueError(f"queue: layers {layers} do not fit {placed.groups}")
        times = []
        for stage, group in zip(placed.stages, row.groups, strict=True):
            kind = problem.cluster.kinds[group.kind]
            device = tensor_parallel(kind.rates, group.tp)
            time = StageTime(device, problem.shape, (stage.start, stage.end))
            times.append(_GroupTime(time, group, problem.shape, stage.end - stage.start))
        return _Pipeline(
            phase=placed.phase,
            times=times,
            hops=list(row.hops),
            kv_tokens=float(found.kv_tokens),
            token_bytes=float(problem.shape.token_bytes),
            limits=problem.limits,
            is_chunked=self._is_chunked,
            free_s=[0.0] * len(times),
        )


@dataclass(frozen=True, slots=True)
class _Arrival:
    queue: PhaseQueue
    request: Request

    def __call__(self, at_s: float) -> None:
        self.queue.enter(self.request, self.request.takers[0], at_s)


@dataclass(frozen=True, slots=True)
class _StepEnd:
    queue: PhaseQueue
    number: int
    step: _Step

    def __call__(self, at_s: float) -> None:
        self.queue.end_step(self.number, self.step, at_s)


@dataclass(frozen=True, slots=True)
class _HandOff:
    queue: PhaseQueue
    request: Request

    def __call__(self, at_s: float) -> None:
        self.queue.hand_off(self.request, at_s)


def attainment(requests: Sequence[Request], ttft_s: float, tpot_s: float) -> float:
    """Part of the requests that kept both latencies."""
    kept = [r.ttft_s <= ttft_s and r.tpot_s <= tpot_s * (1 + 1e-9) for r in requests]
    return float(np.mean(kept))
