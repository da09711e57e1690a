"""How a process of ours logs: one line per change, a traceback only where the fault is ours.

A node that is refused, a peer that died, a model that cannot be read: these are told to the
operator in one sentence. What nobody planned for keeps its traceback.
"""

import json
import logging
import os
import re
from datetime import UTC, datetime

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
_KEY = re.compile(r"(?:^|(?<=\s))([a-z][a-z0-9_]*)=")
QUIET = ("actors.kernel.switchboard",)
"""Loggers whose news somebody else tells better: a lost peer is a lost node, stage or router."""


FORMAT_ENV = "REMUDA_LOG_FORMAT"
"""How the format reaches every process: the launcher sets it, its children inherit it."""


def configure_logging(process: str = "", format_name: str | None = None) -> None:
    """Log to standard error, which a parent reads line by line.

    Args:
        process: whose lines they are, which only JSON tells.
        format_name: `text` or `json`; None for what the environment says, else text.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    is_json = (format_name or os.environ.get(FORMAT_ENV)) == "json"
    for handler in logging.getLogger().handlers:
        handler.addFilter(without_expected_traceback)
        if is_json:
            handler.setFormatter(JsonFormatter(process))
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


class JsonFormatter(logging.Formatter):
    """One JSON object a line; the `key=value` words of a message are fields beside it as well.

    Fields: `at` (UTC, ISO 8601), `level`, `logger`, `process`, `event` (the words before the
    first key), `fields` (texts, as they were written), `message`, and perhaps `traceback`.
    """

    def __init__(self, process: str = "") -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        message = record.getMessage()
        event, fields = split_message(message)
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": self._process,
            "event": event,
            "fields": fields,
            "message": message,
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def split_message(message: str) -> tuple[str, dict[str, str]]:
    """The event of a message and its fields; what follows a key up to the next one is its value.

    Example:
        >>> split_message("node lost node=a reason=it is gone")
        ('node lost', {'node': 'a', 'reason': 'it is gone'})
    """
    keys = list(_KEY.finditer(message))
    if not keys:
        return message.strip(), {}
    ends = [key.start() for key in keys[1:]] + [len(message)]
    fields = {k[1]: message[k.end() : end].strip() for k, end in zip(keys, ends, strict=True)}
    return message[: keys[0].start()].strip(), fields


def without_expected_traceback(record: logging.LogRecord) -> bool:
    """Take the traceback of an expected fault off a record; every record passes."""
    if record.exc_info and isinstance(record.exc_info[1], EXPECTED):
        record.exc_info = record.exc_text = None
    return True
