import json
import logging
import sys
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.kernel.errors import ActorError
from actors.node import NodeRefused
from models.errors import BadCheckpoint
from runtime.errors import ConfigError
from runtime.logs import (
    FORMAT_ENV,
    JsonFormatter,
    configure_logging,
    split_message,
    without_expected_traceback,
)
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


def json_line(message: str, *arguments: object, exc_info: Any = None) -> dict[str, Any]:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, message, arguments, exc_info)
    text = JsonFormatter("gateway").format(record)
    assert "\n" not in text
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_line_of_json_has_the_fields_of_its_message() -> None:
    line = json_line("swap committed epoch=%d pause_s=%g reason=%s", 12, 0.031, "all is = well")
    assert line["event"] == "swap committed"
    assert line["fields"] == {"epoch": "12", "pause_s": "0.031", "reason": "all is = well"}
    assert (line["level"], line["logger"], line["process"]) == ("INFO", "x", "gateway")
    assert line["message"] == "swap committed epoch=12 pause_s=0.031 reason=all is = well"
    assert datetime.fromisoformat(line["at"]).utcoffset() == timedelta(0)


def test_a_message_of_several_lines_stays_one_line_of_json() -> None:
    assert json_line("a\nb reason=c\nd")["message"] == "a\nb reason=c\nd"


def test_a_traceback_stands_in_the_line() -> None:
    try:
        raise KeyError("x")
    except KeyError:
        line = json_line("bug", exc_info=sys.exc_info())
    assert "KeyError: 'x'" in line["traceback"]


@given(st.text())
def test_any_message_can_be_split(message: str) -> None:
    event, fields = split_message(message)
    assert all(f"{key}=" in message for key in fields)
    assert event in message


@pytest.mark.parametrize(("said", "is_json"), [("json", True), ("text", False), (None, False)])
def test_the_environment_says_the_format(
    said: str | None, is_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FORMAT_ENV, raising=False)
    if said is not None:
        monkeypatch.setenv(FORMAT_ENV, said)
    handler = logging.StreamHandler()
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    configure_logging("gateway")
    assert isinstance(handler.formatter, JsonFormatter) is is_json
