"""What a request says of its turn: how long it may wait, how urgent it is, how fast it should be.

These are no parameters of the generation, and are taken out of the body before those are read.
"""

from dataclasses import dataclass
from typing import Any

from runtime.gateway.access import Caller
from runtime.gateway.errors import ApiError, refused
from runtime.gateway.keys import MAX_PRIORITY
from runtime.gateway.targets import Targets, read_targets


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The turn of one request; `queue_timeout_s` in seconds, a lesser `priority` goes first."""

    queue_timeout_s: float
    priority: int
    targets: Targets | None = None


def take_terms(body: dict[str, Any], caller: Caller, max_queue_s: float) -> Terms:
    """Take `timeout`, `priority` and `slo` out of a body.

    Raises:
        ApiError: 400 where one is out of bounds, 403 where the key may not be so urgent.
    """
    timeout, priority, slo = (body.pop(name, None) for name in ("timeout", "priority", "slo"))
    return Terms(
        queue_timeout_s=max_queue_s if timeout is None else _timeout(timeout, max_queue_s),
        priority=caller.priority if priority is None else _priority(priority, caller),
        targets=caller.targets if slo is None else read_targets(slo),
    )


def _timeout(value: Any, max_queue_s: float) -> float:
    if type(value) not in (int, float) or not 0 < value <= max_queue_s:
        raise refused("timeout", f"seconds above 0 up to {max_queue_s:g}", value)
    return float(value)


def _priority(value: Any, caller: Caller) -> int:
    if type(value) is not int or not -MAX_PRIORITY <= value <= MAX_PRIORITY:
        raise refused("priority", f"a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}", value)
    if value < caller.priority and not caller.may_be_urgent:
        message = f"priority: key {caller.id} may ask for {caller.priority} or more, got {value}"
        raise ApiError(
            403, message, param="priority", code="insufficient_scope", kind="permission_error"
        )
    return value
