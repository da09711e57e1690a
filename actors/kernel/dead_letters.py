"""Messages that nobody handled, counted by the reason why."""

import enum
import logging
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

_log = logging.getLogger(__name__)


class DeadLetter(enum.StrEnum):
    """Why a message was not handled."""

    STOPPED = "stopped"  # no such actor, or not any more
    MAILBOX_FULL = "mailbox_full"
    DRAINING = "draining"
    UNREACHABLE = "unreachable"  # its process is gone or was never there
    QUEUE_FULL = "queue_full"  # its process takes no more for now
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    EXPIRED = "expired"  # its deadline passed while it waited
    CANCELLED = "cancelled"  # whoever asked does not wait any more
    LATE_REPLY = "late_reply"


class DeadLetters:
    """Counts since the system started."""

    def __init__(self) -> None:
        self._counts: Counter[DeadLetter] = Counter()

    def bury(self, reason: DeadLetter, detail: object = "") -> None:
        """Count one message."""
        self._counts[reason] += 1
        _log.debug("dead letter reason=%s detail=%s", reason, detail)

    def counts(self) -> Mapping[DeadLetter, int]:
        """The counts as they are now, of the reasons there were."""
        return MappingProxyType(dict(self._counts))
