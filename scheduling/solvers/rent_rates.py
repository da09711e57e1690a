"""Saturated throughput of replicas, to fill the table that `rent` chooses from.

The one idea: a saturated replica reads prompts and decodes full batches in turn, so a request costs
its prompt's arithmetic and its share of every decode step of the largest batch that fits. Replicas
whose memory cannot hold the model and one request are left out, and TP stays inside a machine.

It is our own closed form: arXiv 2502.00722 profiles its machines and does not publish the table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scheduling.hardware import DeviceKind
from scheduling.roofline import ModelShape
from scheduling.solvers.rent_problem import Configuration

MEMORY_PART = 0.9
MAX_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A type of device to rent.

    Attributes:
        kind: what it is, with its price.
        per_machine: devices in one machine, the largest TP degree.
        link_bytes_per_s: between the devices of a machine.
    """

    kind: DeviceKind
    per_machine: int = 8
    link_bytes_per_s: float = 25e9


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestType:
    """Requests of one length."""

    prompt_tokens: int
    output_tokens: int


def replicas_of(
    shape: ModelShape,
    offers: Sequence[Offer],
    types: Sequence[RequestType],
    *,
    max_stages: int = 4,
) -> tuple[Configuration, ...]:
    """All replicas of one type of device that can serve some type of request.

    Args:
        shape: the model's.
        offers: types of device.
        types: of request.
        max_stages: the longest pipeline.
    """
    return tuple(_replicas(shape, offers, types, max_stages))


def _replicas(
    shape: ModelShape, offers: Sequence[Offer], types: Sequence[RequestType], max_stages: int
) -> Iterator[Configuration]:
    for index, offer in enumerate(offers):
        degree = 1
        while degree <= offer.per_machine:
            for stages in range(1, max_stages + 1):
                rates = tuple(saturated_rate(shape, offer, t, degree, stages) for t in types)
                if any(rates):
                    devices = [0] * len(offers)
                    devices[index] = degree * stages
                    name = f"{offer.kind.name} TP{degree} PP{stages}"
                    yield Configuration(name=name, devices=tuple(devices), requests_per_s=rates)
            degree *= 2


def saturated_rate(
    shape: ModelShape, offer: Offer, requests: RequestType, degree: int, stages: int
) -> float:
    """Requests per second of a replica of `stages` x `degree` devices; 0 if none fits."""
    rates = offer.kind.rates
    tokens = requests.prompt_tokens + requests.output_tokens
    weights = shape.num_parameters * shape.dtype_bytes
    free = MEMORY_PART * rates.memory_bytes * degree * stages - weights
    kv_bytes = shape.num_layers * shape.kv_bytes_per_token
    batch = min(MAX_BATCH * stages, int(free // (tokens * kv_bytes)))
    if batch < 1:
        return 0.0
    in_flight = min(stages, batch)
    microbatch = batch / in_flight
    layers = shape.num_layers / stages
    sent = 4 * (degree - 1) / degree * shape.token_bytes / offer.link_bytes_per_s * layers
    flops = 2 * shape.num_parameters / stages / (rates.flops_per_s * degree)
    prefill_s = requests.prompt_tokens * (flops + sent)
    context = microbatch * (requests.prompt_tokens + requests.output_tokens / 2)
    bytes_s = (weights + context * kv_bytes) / stages / (rates.bytes_per_s * degree)
    step_s = max(bytes_s, microbatch * flops) + microbatch * sent + layers * rates.layer_overhead_s
    idle = stages / in_flight  # a stage waits when there are fewer microbatches than stages
    return 1.0 / (prefill_s + requests.output_tokens * step_s * idle / microbatch)
