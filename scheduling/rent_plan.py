"""What was rented as a cluster to plan on: machines of alike devices, and the catalogue's requests.

The one idea: renting counts devices and takes replicas as given; which pipelines serve best on what
was rented is the planner's to say, with its own objective and in its own form.
"""

from collections.abc import Iterator, Mapping

from scheduling.cluster import WITHIN_NODE, Cluster, Link, Node
from scheduling.goal import Goal, Limits
from scheduling.link_rate import LinkRate
from scheduling.model_shape import ModelShape
from scheduling.rent_catalogue import Catalogue
from scheduling.solvers.interface import Problem
from scheduling.workload import fixed, mixed


def rented_problem(
    found: Catalogue, num_devices: Mapping[str, int], shape: ModelShape, *, max_tp: int
) -> Problem:
    """The problem of serving a catalogue's requests on what was rented of it.

    Args:
        found: the catalogue.
        num_devices: how many were rented of each kind.
        shape: the model's.
        max_tp: devices that a stage may use, of one machine.
    """
    nodes = tuple(_machines(found, num_devices))
    rates = {offer.device: offer.link_bytes_per_s for offer in found.offers}
    links = tuple(
        Link(
            between=(node.id, node.id),
            rate=LinkRate(bytes_per_s=rates[node.devices[0]], latency_s=WITHIN_NODE.latency_s),
        )
        for node in nodes
    )
    longest = max(each.prompt_tokens + each.output_tokens for each in found.requests)
    loads = [
        (each.count, fixed(each.prompt_tokens, each.output_tokens))
        for each in found.requests
        if each.count
    ]
    return Problem(
        cluster=Cluster(nodes=nodes, links=links),
        shape=shape,
        workload=mixed(loads),
        goal=Goal(measure="throughput"),
        limits=Limits(max_tp=max_tp, max_model_len=longest),
    )


def _machines(found: Catalogue, num_devices: Mapping[str, int]) -> Iterator[Node]:
    """Full machines of each kind, and one of those that are left."""
    for offer in found.offers:
        left, number = num_devices[offer.device], 0
        while left:
            here = min(left, offer.per_machine)
            price = None if offer.price_per_hour is None else here * offer.price_per_hour
            devices = (offer.device,) * here
            yield Node(id=f"{offer.device}-{number}", devices=devices, price_per_hour=price)
            left, number = left - here, number + 1
