"""How a process of ours logs: one line per change, a traceback only where the fault is ours.

A node that is refused, a peer that died, a model that cannot be read: these are told to the
operator in one sentence. What nobody planned for keeps its traceback.
"""

import logging

from actors.kernel.errors import ActorError
from actors.node import NodeRefused
from models.errors import ModelError
from runtime.errors import RemudaError
from scheduling.errors import SchedulingError
from transport.errors import TransportError

EXPECTED = (
    ActorError,
    ConnectionError,
    ModelError,
    NodeRefused,
    RemudaError,
    SchedulingError,
    TransportError,
)
QUIET = ("actors.kernel.switchboard",)
"""Loggers whose news somebody else tells better: a lost peer is a lost node, stage or router."""


def configure_logging() -> None:
    """Log to standard error, which a parent reads line by line."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(without_expected_traceback)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def without_expected_traceback(record: logging.LogRecord) -> bool:
    """Take the traceback of an expected fault off a record; every record passes."""
    if record.exc_info and isinstance(record.exc_info[1], EXPECTED):
        record.exc_info = record.exc_text = None
    return True
