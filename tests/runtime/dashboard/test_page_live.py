"""The page over one real service: what is done to it is seen as it happens."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.support.services import Client, service

expect = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'"
).expect

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PATIENCE_MS = 60_000
"""A stage that was lost is loaded again meanwhile, on a machine that others use too."""


@pytest.fixture(scope="module")
def demo(browser: "Browser") -> Iterator[Client]:
    """Started only where there is a browser to look at it."""
    options = ("--model", "demo", "--layers", "0:6,6:12", "--set", "admin.kill=true")
    with service(*options) as (client, _):
        yield client


def test_a_chat_streams_while_the_service_is_seen_at_work(demo: Client, page: "Page") -> None:
    page.goto(demo.url)
    stages = page.locator("article.stage")
    expect(stages).to_have_count(2)
    expect(stages.nth(0)).to_contain_text("layers 0:6")
    expect(stages.nth(1)).to_contain_text("layers 6:12")
    expect(page.locator("#headline")).to_have_text("Serving")
    page.fill("#question", "What is a list?")
    page.press("#question", "Enter")
    expect(page.locator("#talk .assistant .said")).not_to_be_empty(timeout=PATIENCE_MS)
    expect(page.locator("#send")).to_have_text("Send", timeout=PATIENCE_MS)
    expect(page.locator("#chat-rate")).to_contain_text("tok/s")
    expect(page.locator("#talk .fault")).to_have_count(0)
    figure = page.locator(".tile", has_text="tokens/s").locator(".figure")
    expect(figure).not_to_have_text("0")


def test_a_swap_is_tried_ordered_and_seen_phase_by_phase(demo: Client, page: "Page") -> None:
    page.goto(demo.url)
    page.get_by_role("button", name="Swap layers").click()
    page.fill("#swap-input", "0:99,99:12")
    page.get_by_role("button", name="Show what would move").click()
    expect(page.locator(".moves")).to_contain_text("99")  # refused in the service's own words
    expect(page.locator("#confirm-yes")).to_be_disabled()
    page.fill("#swap-input", "0:4,4:12")
    page.get_by_role("button", name="Show what would move").click()
    expect(page.locator(".moves")).to_contain_text("layers 4:6")
    page.locator("#confirm-yes").click()
    stages = page.locator("article.stage")
    expect(stages.nth(0)).to_contain_text("layers 0:4", timeout=PATIENCE_MS)
    expect(stages.nth(1)).to_contain_text("layers 4:12")
    expect(page.locator(".order")).to_have_attribute("data-state", "done", timeout=PATIENCE_MS)
    expect(page.locator(".order")).to_contain_text("prepare")
    events = page.locator("#events")
    for phase in ("prepare", "copy", "pause"):
        expect(events).to_contain_text(re.compile(rf"pipeline 0 to epoch \d+: {phase}"))
    expect(page.locator(".marks .mark.epoch").first).to_be_visible()
    expect(page.locator(".chart .band")).to_have_count(2)


def test_a_killed_stage_is_seen_lost_and_recovered(demo: Client, page: "Page") -> None:
    page.goto(demo.url)
    pid = page.locator("article.stage").nth(1).locator(".facts")
    expect(pid).to_contain_text("pid")
    before = pid.text_content() or ""
    page.get_by_role("button", name="Kill stage:1").click()
    page.locator("#confirm-yes").click()
    events = page.locator("#events")
    expect(events).to_contain_text("kill of stage:1 ordered")
    expect(events).to_contain_text(re.compile("is (lost|recovering)"), timeout=PATIENCE_MS)
    expect(events).to_contain_text("after a recovery", timeout=PATIENCE_MS)
    expect(page.locator("#headline")).to_have_text("Serving", timeout=PATIENCE_MS)
    expect(pid).not_to_have_text(before)
    expect(page.locator(".marks .mark.loss").first).to_be_visible()
    expect(page.locator(".outage")).to_have_count(1)


def test_a_drain_asks_first_and_does_nothing_until_then(demo: Client, page: "Page") -> None:
    page.goto(demo.url)
    page.get_by_role("button", name="Drain node local").click()
    expect(page.locator("#confirm")).to_contain_text("Drain node local?")
    page.keyboard.press("Escape")
    expect(page.locator("#confirm")).to_be_hidden()
    kinds = [event["kind"] for event in demo.get("/admin/events")[1]["events"]]
    assert "drain_ordered" not in kinds
    assert demo.get("/health")[0] == 200
