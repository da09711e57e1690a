"""The ear of a process for orders to disturb its links; only where the launch allows that.

It only carries orders to the endpoint, which holds them and ends them by itself.
"""

import logging
import math
from collections.abc import Sequence

from actors.kernel.actor import Actor
from actors.kernel.ref import Ref
from actors.messages import (
    BeginDisturbance,
    Disturbances,
    DisturbLinks,
    DisturbRefused,
    GetDisturbances,
    MendLinks,
)
from transport.codec import Message
from transport.disturbance import Disturbance
from transport.faulty_endpoint import FaultyEndpoint
from transport.frame import Buffer

_log = logging.getLogger(__name__)

NAME = "faults"
MAX_ORDERS = 64
"""Disturbances of one process at a time, those that are about to begin among them."""
LEASE_S = 15.0
"""How long an order waits for its beginning."""


class BeginNow(Message, frozen=True, tag="begin_now"):
    """The time of an order has come: a note of the actor to itself, never on the wire."""

    order: DisturbLinks


class Forget(Message, frozen=True, tag="forget_order"):
    """Nobody said that an order is to begin: a note of the actor to itself."""

    order: DisturbLinks


class FaultActor(Actor):
    """Disturbs the links of its process as it is told."""

    def __init__(self, endpoint: FaultyEndpoint) -> None:
        self._endpoint = endpoint
        self._coming: dict[str, DisturbLinks] = {}

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        """Take orders, take them back, and tell what there is."""
        match message:
            case DisturbLinks():
                return self._on_order(message)
            case BeginDisturbance():
                if (order := self._coming.get(message.name)) is not None:
                    self.context.schedule(order.after_s, BeginNow(order))
            case Forget():
                if self._coming.get(message.order.name) is message.order:
                    del self._coming[message.order.name]
            case BeginNow():
                self._begin(message.order)
            case MendLinks():
                self._coming.pop(message.name, None)
                self._endpoint.mend(message.name)
            case GetDisturbances():
                return Disturbances(links=tuple(map(to_order, self._endpoint.disturbances)))
            case _:
                _log.warning("unexpected message type=%s", type(message).__name__)
        return None

    def _on_order(self, order: DisturbLinks) -> Message | None:
        if len(self._coming) + len(self._endpoint.disturbances) >= MAX_ORDERS:
            return DisturbRefused(reason=f"{MAX_ORDERS} disturbances are under way already")
        try:
            to_disturbance(order)
        except ValueError as error:
            return DisturbRefused(reason=str(error))
        self._coming[order.name] = order
        self.context.schedule(LEASE_S, Forget(order))
        return None

    def _begin(self, order: DisturbLinks) -> None:
        if self._coming.get(order.name) is order:  # else it was taken back meanwhile
            del self._coming[order.name]
            self._endpoint.disturb(to_disturbance(order))


def to_disturbance(order: DisturbLinks) -> Disturbance:
    """What an order asks of an endpoint; raises `ValueError` if that makes no sense."""
    return Disturbance(
        name=order.name,
        peers=frozenset(order.peers),
        for_s=order.for_s,
        is_cut=order.is_cut,
        latency_s=order.latency_s,
        bytes_per_s=order.bytes_per_s or math.inf,
    )


def to_order(disturbance: Disturbance) -> DisturbLinks:
    """The order that would begin a disturbance now."""
    rate = disturbance.bytes_per_s
    return DisturbLinks(
        name=disturbance.name,
        peers=tuple(sorted(disturbance.peers)),
        after_s=0.0,
        for_s=disturbance.for_s,
        is_cut=disturbance.is_cut,
        latency_s=disturbance.latency_s,
        bytes_per_s=rate if math.isfinite(rate) else 0.0,
    )
