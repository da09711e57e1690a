"""How fast an answer is to be: what a request, or its key, asks for."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from runtime.gateway.errors import ApiError, refused

MAX_TARGET_S = 3600.0
Target = Annotated[float, Meta(gt=0, le=MAX_TARGET_S)]


class Targets(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a request asks of its latency.

    Attributes:
        ttft: seconds to the first token, from when the request came.
        tpot: seconds from each token to the next, on the mean of one answer.
        refuse: whether it is to be refused where that is forecast to be missed.
    """

    ttft: Target | None = None
    tpot: Target | None = None
    refuse: bool = False


def are_targets(value: Any) -> bool:
    """Whether `read_targets` takes it."""
    try:
        read_targets(value)
    except ApiError:
        return False
    return True


def read_targets(value: Any) -> Targets:
    """Read the parameter `slo`.

    Raises:
        ApiError: 400, if it is not an object of bounded numbers.
    """
    try:
        return msgspec.convert(value, Targets)
    except msgspec.ValidationError:
        expected = (
            f'an object of "ttft" and "tpot" in seconds above 0 up to {MAX_TARGET_S:g}, '
            'and "refuse" as a boolean'
        )
        raise refused("slo", expected, value) from None
