"""Which pipeline a request goes to, on unequal pipelines: four policies on one queue model.

    python -m examples.papers.routing

Every pipeline reads one prompt or takes one decode step at a time, as long as its fitted times say,
and admits a prompt when the KV of its whole request fits. arXiv 2504.15303 reports +122.5 % and
+33.6 % throughput against round robin on its two clusters; the clusters here are made up, since
its profiles are not public, so the ratios say how the policies differ and no more.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

import numpy as np

from runtime.simulation.routing_policies import random_choice, round_robin, shortest_queue
from scheduling.batch_times import BatchTimes
from scheduling.routing import (
    USUAL,
    Choose,
    PipelineFit,
    PipelineLoad,
    UsualLengths,
    choose_pipeline,
)

NUM_REQUESTS = 600
MEAN_PROMPT, MEAN_OUTPUT = 800, 150
MAX_RUNNING = 1 << 20
"""The model of queues has no bound but KV."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a trial: when it comes and how long it is."""

    at_s: float
    prompt: int
    output: int


@dataclass(slots=True)
class Queue:
    """A pipeline at work: prompts that wait, and the answers it generates."""

    fit: PipelineFit
    waiting: deque[Request] = field(default_factory=deque)
    running: list[list[int]] = field(default_factory=list)  # output left, KV now, KV reserved
    busy: bool = False

    def load(self, name: str) -> PipelineLoad:
        """What a policy sees of it."""
        return PipelineLoad(
            pipeline=name,
            num_queued_tokens=sum(request.prompt for request in self.waiting),
            num_running=len(self.running) + len(self.waiting),
            num_resident_tokens=sum(kv for _, kv, _ in self.running)
            + sum(request.prompt for request in self.waiting),
        )

    def step_s(self) -> float | None:
        """Do the next piece of work; how long it takes, or None if there is none."""
        reserved = sum(kept for _, _, kept in self.running)
        if self.waiting:
            request = self.waiting[0]
            whole = request.prompt + request.output
            if reserved + whole <= self.fit.kv_tokens:
                self.waiting.popleft()
                self.running.append([request.output, request.prompt, whole])
                return self.fit.times.prefill_s(request.prompt, request.prompt**2)
        if not self.running:
            return None
        seconds = self.fit.times.decode_s(len(self.running), sum(kv for _, kv, _ in self.running))
        self.running = [[left - 1, kv + 1, kept] for left, kv, kept in self.running if left > 1]
        return seconds


def makespan_s(
    fits: Mapping[str, PipelineFit], requests: Sequence[Request], policy: Choose
) -> float:
    """Seconds from the first arrival until the last request is done."""
    usual = UsualLengths(MEAN_PROMPT, MEAN_OUTPUT)
    queues = {name: Queue(fit) for name, fit in fits.items()}
    events: list[tuple[float, int, str]] = []
    for number, request in enumerate(requests):
        heappush(events, (request.at_s, number, ""))
    now = requests[0].at_s
    while events:
        now, number, name = heappop(events)
        if not name:
            loads = [queue.load(key) for key, queue in queues.items()]
            chosen = policy(loads, num_prompt_tokens=requests[number].prompt, usual=usual)
            if chosen is None:
                raise RuntimeError("a policy chose no pipeline, though there are some")
            name = chosen
            queues[name].waiting.append(requests[number])
            if queues[name].busy:
                continue
        seconds = queues[name].step_s()
        queues[name].busy = seconds is not None
        if seconds is not None:
            heappush(events, (now + seconds, number, name))
    return now - requests[0].at_s


def make_requests(seed: int, *, per_s: float, number: int = NUM_REQUESTS) -> list[Request]:
    """Poisson arrivals of exponential lengths."""
    rng = np.random.default_rng(seed)
    at_s = np.cumsum(rng.exponential(1 / per_s, number))
    prompts = np.clip(rng.exponential(MEAN_PROMPT, number), 16, 4000).astype(int)
    outputs = np.clip(rng.exponential(MEAN_OUTPUT, number), 4, 800).astype(int)
    rows = zip(at_s, prompts, outputs, strict=True)
    return [Request(float(at), int(prompt), int(output)) for at, prompt, output in rows]


def make_fit(speed: float, kv_tokens: int) -> PipelineFit:
    """A pipeline `speed` times as fast as one that reads 2,500 tokens/s."""
    times = BatchTimes(
        prefill=(0.01 / speed, 4e-4 / speed, 2e-9 / speed),
        decode=(0.03 / speed, 2e-4 / speed, 2e-7 / speed),
    )
    return PipelineFit(times=times, kv_tokens=kv_tokens, max_running=MAX_RUNNING)


CLUSTERS = {
    "one fast, two slow": {
        "a": make_fit(6.0, 120_000),
        "b": make_fit(1.0, 12_000),
        "c": make_fit(1.0, 12_000),
    },
    "nearly alike": {
        "a": make_fit(1.6, 40_000),
        "b": make_fit(1.0, 30_000),
        "c": make_fit(1.0, 30_000),
    },
}


def policies(fits: Mapping[str, PipelineFit], seed: int) -> dict[str, Choose]:
    """All four, fresh."""
    rng = np.random.default_rng(seed)
    return {
        "round robin": round_robin(),
        "random": random_choice(lambda count: int(rng.integers(count))),
        "shortest queue": shortest_queue(),
        "predicted completion": by_fits(fits),
    }


def by_fits(fits: Mapping[str, PipelineFit]) -> Choose:
    """The service's own choice, by some fits."""

    def choose(
        loads: Sequence[PipelineLoad], *, num_prompt_tokens: int, usual: UsualLengths = USUAL
    ) -> str | None:
        known = [replace(load, fit=fits[load.pipeline]) for load in loads]
        return choose_pipeline(known, num_prompt_tokens=num_prompt_tokens, usual=usual)

    return choose


def skewed(fits: Mapping[str, PipelineFit], factor: float) -> dict[str, PipelineFit]:
    """Fits that take the first pipeline for `factor` times as slow as it is."""
    first = min(fits)
    times = fits[first].times
    (a0, a1, a2), (c0, c1, c2) = times.prefill, times.decode
    wrong = BatchTimes(
        prefill=(a0 * factor, a1 * factor, a2 * factor),
        decode=(c0 * factor, c1 * factor, c2 * factor),
    )
    return {**fits, first: replace(fits[first], times=wrong)}


def main() -> None:
    """Print requests per second of each policy, and against round robin."""
    requests = make_requests(0, per_s=20.0)
    for cluster, fits in CLUSTERS.items():
        print(f"{cluster}; published gains over round robin: +122.5 % and +33.6 %")
        rates = {
            name: len(requests) / makespan_s(fits, requests, policy)
            for name, policy in policies(fits, seed=1).items()
        }
        for factor in (0.8, 1.2):
            wrong = by_fits(skewed(fits, factor))
            name = f"predicted, fit {factor - 1:+.0%}"
            rates[name] = len(requests) / makespan_s(fits, requests, wrong)
        for name, rate in rates.items():
            print(f"  {name:22} {rate:6.2f} requests/s  {rate / rates['round robin'] - 1:+7.1%}")


if __name__ == "__main__":
    main()
