"""W3C Trace Context, as callers send it."""

import pytest

from runtime.telemetry.tracing.context import Parent, read_parent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("header", "is_sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", True),
    ],
)
def test_a_callers_span_is_read_with_its_wish_to_be_kept(header: str, is_sampled: bool) -> None:
    expected = Parent(
        trace_id=int(TRACE, 16), span_id=int(SPAN, 16), is_sampled=is_sampled, state="a=b"
    )
    assert read_parent({"traceparent": header, "tracestate": "a=b"}) == expected


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}x-{SPAN}-01",
    ],
)
def test_what_is_malformed_is_no_parent(header: str) -> None:
    assert read_parent({"traceparent": header}) is None


def test_a_state_that_is_too_long_is_let_go() -> None:
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a=" + "b" * 600}
    parent = read_parent(headers)
    assert parent is not None
    assert parent.state == ""
