"""Offers, demand and replicas; and a plan over them.

The one idea: what a replica does is a row of saturated throughputs, one for each type of request,
whatever it is made of; so any estimator or measurement can fill it in.

Source: arXiv 2502.00722 (ICML 2025), section 4.2.
"""

from dataclasses import dataclass

from scheduling.errors import InvalidCluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One replica of the model: what it takes and what it does when it is saturated.

    Attributes:
        name: for people.
        devices: how many of each type of device it takes, in the order of the offers.
        requests_per_s: for each type of request, its throughput; 0 where it cannot serve it.
    """

    name: str
    devices: tuple[int, ...]
    requests_per_s: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RentProblem:
    """Offers, demand, and what replicas there may be.

    Attributes:
        prices: dollars per hour of a device of each type.
        available: devices of each type.
        demand: requests of each type.
        budget_per_hour: the most that all devices may cost.
        configurations: replicas to choose from.
    """

    prices: tuple[float, ...]
    available: tuple[int, ...]
    demand: tuple[float, ...]
    budget_per_hour: float
    configurations: tuple[Configuration, ...]

    def __post_init__(self) -> None:
        if len(self.available) != len(self.prices):
            raise InvalidCluster(
                f"rent: expected {len(self.prices)} availabilities, as many as prices, got "
                f"{len(self.available)}"
            )
        sizes = (len(self.prices), len(self.demand))
        for configuration in self.configurations:
            got = (len(configuration.devices), len(configuration.requests_per_s))
            if got != sizes:
                raise InvalidCluster(
                    f"configuration {configuration.name!r}: expected {sizes[0]} types of device "
                    f"and {sizes[1]} of request, got {got}"
                )

    def price(self, configuration: Configuration) -> float:
        """Dollars per hour of one replica."""
        return sum(p * n for p, n in zip(self.prices, configuration.devices, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class RentPlan:
    """What is rented, which share of each type of request goes where, and how long it takes.

    Attributes:
        replicas: of each configuration.
        shares: for each configuration and type of request, the part of the requests it serves.
        makespan_s: seconds until all of the demand is served.
        cost_per_hour: dollars.
        bound_s: no plan takes less.

    Shapes: shares [C][W].
    """

    replicas: tuple[int, ...]
    shares: tuple[tuple[float, ...], ...]
    makespan_s: float
    cost_per_hour: float
    bound_s: float = 0.0

    @property
    def gap(self) -> float:
        """How much less than this the best could take, as a part of this."""
        return max(0.0, 1 - self.bound_s / self.makespan_s)
