"""The catalogue file: devices on offer, what requests there are, and replicas as TOML.

The one idea: what a replica does is either measured and said, in `[[replicas]]`, or estimated from
the model's numbers (`rent_rates`); both become one `RentProblem`. Unknown keys are refused with
their path.

    [[offers]]
    device = "4090"            # a known kind, or any name where [[replicas]] say all
    available = 16             # devices
    price_per_hour = 0.53      # the kind's usual price if not given

    [[requests]]
    prompt_tokens = 496
    output_tokens = 253
    count = 80

    [[replicas]]               # none: estimated, for --model
    name = "2 x 4090, TP"
    devices = { 4090 = 2 }
    requests_per_s = [2.4]     # one for each of [[requests]]; 0 where it cannot serve them
"""

import tomllib
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from scheduling.errors import InvalidCluster
from scheduling.hardware import CATALOGUE
from scheduling.roofline import ModelShape
from scheduling.solvers.rent_problem import Configuration, RentProblem
from scheduling.solvers.rent_rates import Offer, RequestType, replicas_of

Price = Annotated[float, Meta(ge=0, le=1e9)]
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Tokens = Annotated[int, Meta(ge=1, le=10**8)]


class _Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _Offer(_Record, frozen=True, kw_only=True):
    device: Name
    available: Annotated[int, Meta(ge=0, le=10**6)]
    price_per_hour: Price | None = None
    per_machine: Annotated[int, Meta(ge=1, le=64)] = 8
    link_bytes_per_s: Annotated[float, Meta(ge=1, le=1e18)] = 25e9


class _Requests(_Record, frozen=True, kw_only=True):
    prompt_tokens: Tokens
    output_tokens: Tokens
    count: Annotated[float, Meta(ge=0, le=1e12)]


class _Replica(_Record, frozen=True, kw_only=True):
    name: Name
    devices: dict[str, Annotated[int, Meta(ge=1, le=10**6)]]
    requests_per_s: tuple[Annotated[float, Meta(ge=0, le=1e12)], ...]


class Catalogue(_Record, frozen=True, kw_only=True):
    """A catalogue file as it was read."""

    offers: Annotated[tuple[_Offer, ...], Meta(min_length=1, max_length=256)]
    requests: Annotated[tuple[_Requests, ...], Meta(min_length=1, max_length=256)]
    replicas: Annotated[tuple[_Replica, ...], Meta(max_length=4096)] = ()


def parse_catalogue(text: str) -> Catalogue:
    """Read a catalogue file's text.

    Raises:
        InvalidCluster: it is not TOML, says something unknown, or contradicts itself.
    """
    try:
        found = msgspec.convert(tomllib.loads(text), Catalogue)
    except tomllib.TOMLDecodeError as error:
        raise InvalidCluster(f"not TOML: {error}") from None
    except RecursionError:
        raise InvalidCluster("not TOML of ours: nested too deep") from None
    except msgspec.ValidationError as error:
        raise InvalidCluster(str(error)) from None
    names = [offer.device for offer in found.offers]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InvalidCluster(f"offers: expected one of {twice[0]!r}, got {names.count(twice[0])}")
    for replica in found.replicas:
        unknown = set(replica.devices) - set(names)
        if unknown or not replica.devices:
            raise InvalidCluster(
                f"replica {replica.name!r}: expected devices of {', '.join(names)}, got "
                f"{', '.join(sorted(replica.devices)) or 'none'}"
            )
        if len(replica.requests_per_s) != len(found.requests):
            raise InvalidCluster(
                f"replica {replica.name!r}: expected {len(found.requests)} requests_per_s, one for "
                f"each of [[requests]], got {len(replica.requests_per_s)}"
            )
    return found


def rent_problem(
    found: Catalogue, shape: ModelShape | None, *, dollars_per_hour: float
) -> RentProblem:
    """What a catalogue asks for.

    Args:
        found: the catalogue.
        shape: of the model, for replicas that are estimated; None where the catalogue has its own.
        dollars_per_hour: the most that all devices may cost.

    Raises:
        InvalidCluster: replicas are to be estimated, but a device is of no known kind or no model
            is given; or the catalogue has replicas and a model is given as well.
    """
    if found.replicas and shape is not None:
        raise InvalidCluster(
            f"model: the catalogue says what its {len(found.replicas)} replicas do, for a model of "
            "its own; leave --model out, or [[replicas]]"
        )
    if not found.replicas and shape is None:
        raise InvalidCluster(
            "model: the catalogue has no [[replicas]] to choose from; give --model"
        )
    return RentProblem(
        prices=tuple(_price(offer) for offer in found.offers),
        available=tuple(offer.available for offer in found.offers),
        demand=tuple(float(each.count) for each in found.requests),
        budget_per_hour=dollars_per_hour,
        configurations=_written(found) if shape is None else _estimated(found, shape),
    )


def _written(found: Catalogue) -> tuple[Configuration, ...]:
    return tuple(
        Configuration(
            name=replica.name,
            devices=tuple(replica.devices.get(offer.device, 0) for offer in found.offers),
            requests_per_s=replica.requests_per_s,
        )
        for replica in found.replicas
    )


def _estimated(found: Catalogue, shape: ModelShape) -> tuple[Configuration, ...]:
    types = [
        RequestType(prompt_tokens=each.prompt_tokens, output_tokens=each.output_tokens)
        for each in found.requests
    ]
    offers = []
    for offer in found.offers:
        if offer.device not in CATALOGUE:
            raise InvalidCluster(
                f"offers: {offer.device!r} is not one of {', '.join(CATALOGUE)}; say what it does "
                "in [[replicas]]"
            )
        offers.append(
            Offer(
                kind=CATALOGUE[offer.device],
                per_machine=offer.per_machine,
                link_bytes_per_s=offer.link_bytes_per_s,
            )
        )
    return replicas_of(shape, offers, types)


def _price(offer: _Offer) -> float:
    if offer.price_per_hour is not None:
        return offer.price_per_hour
    kind = CATALOGUE.get(offer.device)
    if kind is None or not kind.price_per_hour:
        raise InvalidCluster(
            f"offers: {offer.device!r} has no usual price; give its price_per_hour"
        )
    return kind.price_per_hour
