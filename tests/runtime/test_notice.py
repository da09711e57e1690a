"""Notices are read as each cloud writes them, and nothing else is taken for one."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from runtime import notice
from runtime.errors import ConfigError
from runtime.notice import NoticeSource, parse_source, seconds_left, wait_notice

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "body", "left_s"),
    [
        ("aws", b'{"action": "terminate", "time": "2026-01-01T12:02:00Z"}', 120.0),
        ("aws", b'{"action": "stop", "time": "2026-01-01T11:59:00Z"}', 0.0),
        ("aws", b'{"action": "terminate", "time": "soon"}', 120.0),
        ("aws", b'{"action": "none"}', None),
        ("aws", b"<html>", None),
        ("gcp", b"TRUE\n", 30.0),
        ("gcp", b"FALSE", None),
        ("azure", b'{"DocumentIncarnation": 1, "Events": []}', None),
        (
            "azure",
            b'{"Events": [{"EventType": "Reboot", "NotBefore": ""}, {"EventType": "Preempt", '
            b'"NotBefore": "Thu, 01 Jan 2026 12:00:25 GMT"}]}',
            25.0,
        ),
        ("azure", b'{"Events": [{"EventType": "Preempt"}]}', 30.0),
        ("azure", b'["Preempt"]', None),
    ],
)
def test_each_cloud_says_it_in_its_own_words(kind: str, body: bytes, left_s: float | None) -> None:
    assert seconds_left(kind, body, NOW) == left_s


@given(st.sampled_from(["aws", "gcp", "azure"]), st.binary())
def test_whatever_else_comes_is_no_notice_and_no_fault(kind: str, body: bytes) -> None:
    if b"true" not in body.lower():
        assert seconds_left(kind, body, NOW) is None


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("aws", NoticeSource("aws", notice.AWS_URL)),
        ("gcp=http://127.0.0.1:1/x", NoticeSource("gcp", "http://127.0.0.1:1/x")),
        ("file=/run/notice", NoticeSource("file", "/run/notice")),
    ],
)
def test_a_source_is_read_as_it_is_written(text: str, source: NoticeSource) -> None:
    assert parse_source(text) == source


@pytest.mark.parametrize("text", ["", "file", "file=", "oracle", "=x"])
def test_what_is_no_source_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="notice: expected aws, gcp, azure"):
        parse_source(text)


@pytest.mark.parametrize(
    ("content", "left_s"), [("", 30.0), ("12.5\n", 12.5), ("-3", 0.0), ("maintenance", 30.0)]
)
async def test_a_file_that_appears_is_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, left_s: float
) -> None:
    monkeypatch.setattr(notice, "LOOK_S", 0.01)
    path = tmp_path / "notice"
    path.write_text(content)
    assert await wait_notice(NoticeSource("file", str(path))) == left_s


async def test_a_cloud_is_asked_until_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notice, "LOOK_S", 0.01)
    answers = [
        web.Response(status=404),
        web.Response(status=500),
        web.Response(text='{"Events": []}'),
        web.Response(text='{"Events": [{"EventType": "Preempt"}]}'),
    ]
    heads: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        heads.append(request.headers.get("Metadata"))
        return answers.pop(0)

    app = web.Application()
    app.add_routes([web.get("/events", answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        source = NoticeSource("azure", f"http://127.0.0.1:{port}/events")
        assert await wait_notice(source) == 30.0
    finally:
        await runner.cleanup()
    assert heads == ["true"] * 4
