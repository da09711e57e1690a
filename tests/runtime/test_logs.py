import logging
import sys

import pytest

from actors.kernel.errors import ActorError
from actors.node import NodeRefused
from models.errors import BadCheckpoint
from runtime.errors import ConfigError
from runtime.logs import without_expected_traceback
from transport.errors import PeerGone


def record_of(error: Exception) -> logging.LogRecord:
    """A record as `exc_info=True` makes it, formatted as ours are."""
    try:
        raise error
    except type(error):
        return logging.LogRecord(
            "actors", logging.ERROR, __file__, 1, "actor failed error=%s", (error,), sys.exc_info()
        )


@pytest.mark.parametrize(
    "error",
    [
        NodeRefused("a node of that name is here"),
        ConnectionError("the coordinator was lost"),
        ActorError("gone"),
        PeerGone("gone"),
        BadCheckpoint("cut short"),
        ConfigError("no"),
    ],
)
def test_a_fault_of_the_world_is_logged_as_one_line(error: Exception) -> None:
    record = record_of(error)
    assert without_expected_traceback(record)
    assert logging.Formatter().format(record) == f"actor failed error={error}"


@pytest.mark.parametrize("error", [KeyError("x"), AssertionError(), OSError("disk"), ValueError()])
def test_a_bug_of_ours_keeps_its_traceback(error: Exception) -> None:
    record = record_of(error)
    assert without_expected_traceback(record)
    assert "Traceback" in logging.Formatter().format(record)


def test_a_record_without_an_exception_passes_as_it_is() -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "node joined", (), None)
    assert without_expected_traceback(record)
    assert record.getMessage() == "node joined"
