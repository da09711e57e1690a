"""Notices that this machine is about to be taken away: a file, or what a cloud tells its machines.

Each source is looked at every few seconds. The first notice gives the seconds that are left; what
is done about it is the caller's. Shapes: AWS `spot/instance-action` (404 until there is one, then
JSON with `time`, two minutes ahead), Google Compute Engine `instance/preempted` (TRUE, thirty
seconds ahead), Azure scheduled events (JSON, an event of type Preempt with `NotBefore`, thirty
seconds ahead). A source that cannot be reached gives no notice: it is looked at again.
"""

import asyncio
import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp

from runtime.errors import ConfigError

_log = logging.getLogger(__name__)

LOOK_S = 2.0
ANSWER_TIMEOUT_S = 2.0
MAX_ANSWER_BYTES = 1 << 16
AWS_URL = "http://169.254.169.254/latest/meta-data/spot/instance-action"
GCP_URL = "http://metadata.google.internal/computeMetadata/v1/instance/preempted"
AZURE_URL = "http://169.254.169.254/metadata/scheduledevents?api-version=2020-07-01"
USUAL_S = {"aws": 120.0, "gcp": 30.0, "azure": 30.0, "file": 30.0}
_URLS = {"aws": AWS_URL, "gcp": GCP_URL, "azure": AZURE_URL}
_HEADERS = {
    "aws": {},
    "gcp": {"Metadata-Flavor": "Google"},
    "azure": {"Metadata": "true"},
}


@dataclass(frozen=True, slots=True)
class NoticeSource:
    """Where notices come from: `kind` is file, aws, gcp or azure; `where` a path or a URL."""

    kind: str
    where: str


def parse_source(text: str) -> NoticeSource:
    """Read a source as an operator writes it: `aws`, `gcp`, `azure=URL`, `file=PATH`.

    Raises:
        ConfigError: it is none of these.
    """
    kind, _, where = text.partition("=")
    if kind not in USUAL_S or (kind == "file" and not where):
        raise ConfigError(f"notice: expected aws, gcp, azure (or KIND=URL) or file=PATH: {text!r}")
    return NoticeSource(kind, where or _URLS[kind])


async def wait_notice(source: NoticeSource) -> float:
    """Wait until a notice comes; the seconds that are left then."""
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S), headers=_HEADERS.get(source.kind)
    ) as session:
        while True:
            left_s = _of_file(source) if source.kind == "file" else await _ask(session, source)
            if left_s is not None:
                _log.warning("notice kind=%s left_s=%.0f", source.kind, left_s)
                return left_s
            await asyncio.sleep(LOOK_S)


def _of_file(source: NoticeSource) -> float | None:
    """A file that is there is a notice; a number in it is the seconds that are left."""
    try:
        text = Path(source.where).read_text(encoding="utf-8")[:64].strip()
    except OSError:
        return None
    try:
        return max(0.0, float(text)) if text else USUAL_S["file"]
    except ValueError:
        return USUAL_S["file"]


async def _ask(session: aiohttp.ClientSession, source: NoticeSource) -> float | None:
    try:
        async with session.get(source.where) as answer:
            if answer.status != 200:
                return None
            body = await answer.content.read(MAX_ANSWER_BYTES)
    except (aiohttp.ClientError, TimeoutError) as error:
        _log.debug("no answer kind=%s error=%s", source.kind, error)
        return None
    return seconds_left(source.kind, body, datetime.now(UTC))


def seconds_left(kind: str, body: bytes, now: datetime) -> float | None:
    """What an answer of a cloud says is left, in seconds; None if there is no notice in it."""
    text = body.decode("utf-8", errors="replace")
    if kind == "gcp":
        return USUAL_S["gcp"] if text.strip().upper() == "TRUE" else None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    when = _aws_time(found) if kind == "aws" else _azure_time(found)
    if when is None:
        return None
    at = _parsed(when)
    return USUAL_S[kind] if at is None else max(0.0, (at - now).total_seconds())


def _aws_time(found: Any) -> str | None:
    if not isinstance(found, dict) or found.get("action") not in {"terminate", "stop", "hibernate"}:
        return None
    return str(found.get("time", ""))


def _azure_time(found: Any) -> str | None:
    events = found.get("Events") if isinstance(found, dict) else None
    for event in events if isinstance(events, list) else ():
        if isinstance(event, dict) and event.get("EventType") in {"Preempt", "Terminate"}:
            return str(event.get("NotBefore", ""))
    return None


def _parsed(text: str) -> datetime | None:
    """A time in ISO 8601 (AWS) or as in a mail's head (Azure); None if it is neither."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        try:
            at = parsedate_to_datetime(text)
        except ValueError:
            return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
