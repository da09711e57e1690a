"""The page in a browser, over a gateway that says what a test has written down."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.runtime.dashboard.hosted import Hosted, hosted, served, stage
from tests.runtime.gateway.guarded import secret
from tests.runtime.gateway.scripted import REPORT, says

expect = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'"
).expect

if TYPE_CHECKING:
    from playwright.sync_api import Page

HOSTILE = "<img src=x onerror=\"document.title='broken'\">"
PLANNER: dict[str, Any] = {
    "auto": False,
    "state": "a better plan was found",
    "is_stale": False,
    "current": {
        "tokens_per_s": 100.0,
        "measured_tokens_per_s": 80.0,
        "pipelines": [
            {
                "tokens_per_s": 100.0,
                "cycle_s": 0.02,
                "stages": [
                    {
                        "node": "a",
                        "device": "cpu",
                        "layers": [0, 12],
                        "step_s": 0.01,
                        "measured_step_s": 0.02,
                    }
                ],
            }
        ],
    },
    "proposed": {"tokens_per_s": 150.0, "pipelines": []},
    "plan": {"pipelines": [{"id": "0"}]},
    "gain": 0.5,
    "cost": {"load_bytes": 1000, "copy_bytes": 0, "seconds": 1.0, "pause_s": 0.1},
    "unmeasured": [],
}


@pytest.fixture(scope="module")
def service() -> Iterator[Hosted]:
    found = hosted()
    with found.running():
        yield found


@pytest.fixture(autouse=True)
def _as_at_first(service: Hosted) -> None:
    service.backend.served = served()
    service.backend.missing = None
    service.operator.killable = []
    service.operator.plan = {"pipelines": []}
    service.operator.report = REPORT
    service.operator.taken.clear()


def test_every_stage_is_shown_with_its_layers_and_device(service: Hosted, page: "Page") -> None:
    page.goto(service.url)
    stages = page.locator("article.stage")
    expect(stages).to_have_count(2)
    expect(stages.nth(0)).to_contain_text("layers 0:6")
    expect(stages.nth(1)).to_contain_text("layers 6:12")
    expect(stages.nth(1)).to_contain_text("b · cpu")
    expect(page.get_by_role("img", name="layers 0:6 on stage 0")).to_be_visible()
    expect(page.locator("#headline")).to_have_text("Serving")


def test_what_is_lost_and_what_is_done_about_it_come_first(service: Hosted, page: "Page") -> None:
    page.goto(service.url)
    expect(page.locator("#headline")).to_have_text("Serving")
    lost = served(stage(0, 0, 6, state="recovering"), stage(1, 6, 12, "b", state="lost"))
    lost["pipelines"][0]["state"] = "recovering"
    service.backend.missing = "pipeline 0 is recovering"
    service.backend.served = lost
    expect(page.locator("#headline")).to_have_text("Not serving")
    expect(page.locator("#troubles")).to_contain_text("stage 1 of pipeline 0 on b")
    expect(page.locator("#troubles")).to_contain_text("recovering")
    expect(page.locator("#lasting")).to_contain_text("for ")
    service.backend.missing = None
    service.backend.served = served()
    expect(page.locator("#headline")).to_have_text("Serving")


def test_names_from_the_service_are_text_and_never_markup(service: Hosted, page: "Page") -> None:
    hostile = served(stage(0, 0, 12, HOSTILE, state=HOSTILE), model=HOSTILE, nodes=[HOSTILE])
    hostile["pipelines"][0]["id"] = HOSTILE
    hostile["processes"] = [{"role": HOSTILE, "name": HOSTILE, "pid": 3}]
    hostile["missing"] = [f"waiting for {HOSTILE}"]
    service.backend.served = hostile
    service.backend.script = says(HOSTILE)
    service.operator.plan = {"planner": PLANNER | {"state": HOSTILE, "unmeasured": [HOSTILE]}}
    service.operator.running = [
        {
            "id": HOSTILE,
            "pipeline": HOSTILE,
            "prompt_tokens": 1,
            "delivered_tokens": 1,
            "recoveries": 0,
        }
    ]
    service.happened("node_joined", node=HOSTILE)
    service.happened(HOSTILE, fact=HOSTILE)
    service.happened("stage_placed", layers=HOSTILE)
    page.goto(service.url)
    expect(page.locator("article.stage .where")).to_contain_text(HOSTILE)
    expect(page.locator("#events")).to_contain_text(f"node {HOSTILE} joined")
    expect(page.locator("#planner")).to_contain_text(HOSTILE)
    expect(page.locator("#requests")).to_contain_text(HOSTILE)
    page.fill("#question", HOSTILE)
    page.click("#send")
    expect(page.locator("#talk .user .said")).to_have_text(HOSTILE)
    expect(page.locator("#talk .fault")).to_contain_text("onerror")  # the model of that name
    assert page.locator("img").count() == 0
    service.operator.running = []


def test_markup_that_a_model_writes_is_shown_as_it_is(service: Hosted, page: "Page") -> None:
    service.backend.script = says("<b>bold</b>", HOSTILE)
    page.goto(service.url)
    expect(page.locator("#model")).to_have_text("horse")
    page.fill("#question", "say something")
    page.press("#question", "Enter")
    expect(page.locator("#talk .assistant .said")).to_have_text(f"<b>bold</b>{HOSTILE}")
    expect(page.locator("#send")).to_have_text("Send")
    assert page.locator("#talk img, #talk b").count() == 0


def test_the_page_can_make_no_markup_of_text_even_if_it_wanted(
    service: Hosted, page: "Page"
) -> None:
    page.goto(service.url)
    refused = page.evaluate(
        "() => { try { document.body.innerHTML = '<p>x</p>'; return ''; } "
        "catch (error) { return error.name; } }"
    )
    assert refused == "TypeError"


def test_a_drain_is_asked_about_and_given_only_then(service: Hosted, page: "Page") -> None:
    page.goto(service.url)
    page.get_by_role("button", name="Drain node b").click()
    dialog = page.locator("#confirm")
    expect(dialog).to_contain_text("Drain node b?")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_be_hidden()
    page.get_by_role("button", name="Drain node a").click()
    page.fill("#drain-deadline", "7")
    dialog.get_by_role("button", name="Drain").click()
    expect(page.locator(".order")).to_have_attribute("data-state", "done")
    assert [order for order in service.operator.taken if order != "plan"] == [("a", 7)]


def test_an_order_that_is_not_done_says_why(service: Hosted, page: "Page") -> None:
    service.operator.report = replace(REPORT, done=False, reason="nobody has room for it")
    page.goto(service.url)
    page.get_by_role("button", name="Drain node a").click()
    page.locator("#confirm-yes").click()
    expect(page.locator(".order")).to_have_attribute("data-state", "refused")
    expect(page.locator(".order")).to_contain_text("nobody has room for it")
    page.get_by_role("button", name="Dismiss").click()
    expect(page.locator(".order")).to_have_count(0)


def test_the_proposed_plan_is_tried_dry_before_it_can_be_ordered(
    service: Hosted, page: "Page"
) -> None:
    service.operator.plan = {"planner": PLANNER}
    page.goto(service.url)
    expect(page.locator("#planner")).to_contain_text("80 tok/s")
    expect(page.locator("#planner")).to_contain_text("2.00×")
    page.get_by_role("button", name="Go to proposed plan").click()
    expect(page.locator(".moves")).to_contain_text("layers 5:7 from a to b")
    page.locator("#confirm-yes").click()
    expect(page.locator(".order")).to_have_attribute("data-state", "done")
    wishes = [order for order in service.operator.taken if order != "plan"]
    assert [wish.dry_run for wish in wishes] == [True, False]
    assert all(wish.plan == PLANNER["plan"] for wish in wishes)


def test_a_kill_is_offered_only_where_it_is_enabled(service: Hosted, page: "Page") -> None:
    page.goto(service.url)
    expect(page.locator("article.stage")).to_have_count(2)
    expect(page.get_by_role("button", name="Kill stage:1")).to_have_count(0)
    service.operator.killable = ["stage:1"]
    page.get_by_role("button", name="Kill stage:1").click()
    page.locator("#confirm-yes").click()
    expect(page.locator(".order")).to_have_attribute("data-state", "done")
    assert "stage:1" in service.operator.taken


def test_the_page_fits_a_phone_and_a_desk(service: Hosted, page: "Page") -> None:
    stages = [stage(n, n, n + 1, f"node-with-a-long-name-{n}") for n in range(9)]
    service.backend.served = served(*stages)
    page.goto(service.url)
    expect(page.locator("article.stage")).to_have_count(9)
    for width in (400, 768, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_everything_that_can_be_pressed_has_a_name_and_is_reached_by_tab(
    service: Hosted, page: "Page"
) -> None:
    page.goto(service.url)
    expect(page.locator("article.stage")).to_have_count(2)
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input, textarea, [role=img]')]
          .filter((one) => one.checkVisibility())
          .filter((one) => !(one.ariaLabel || one.textContent.trim() || one.labels?.length))
          .map((one) => one.outerHTML)"""
    )
    assert unnamed == []
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"


def test_nothing_moves_where_motion_is_not_wanted(service: Hosted, page: "Page") -> None:
    page.emulate_media(reduced_motion="reduce")
    page.goto(service.url)
    expect(page.locator("article.stage")).to_have_count(2)
    running = "document.getAnimations().filter((one) => one.playState === 'running').length"
    assert page.evaluate(running) == 0


def test_without_its_service_the_page_says_so_and_comes_back_by_itself(page: "Page") -> None:
    service = hosted()
    with service.running():
        page.goto(service.url)
        service.happened("node_joined", node="early")
        expect(page.locator("#events")).to_contain_text("node early joined")
    expect(page.locator("#headline")).to_have_text("Disconnected")
    expect(page.locator("#connection")).to_have_text("disconnected")
    expect(page).to_have_title("Disconnected · horse")  # who looks at another tab sees it too
    expect(page.locator("article.stage")).to_have_count(2)  # the last that is known stays
    with service.running():
        expect(page.locator("#headline")).to_have_text("Serving")
        service.happened("node_joined", node="late")
        expect(page.locator("#events")).to_contain_text("node late joined")
        expect(page.locator("#events")).not_to_contain_text("node early joined")


def test_a_service_with_keys_asks_for_one_and_keeps_it_for_the_tab_only(page: "Page") -> None:
    service = hosted(needs_key=True)
    with service.running():
        page.goto(service.url)
        expect(page.locator("#lock")).to_be_visible()
        page.keyboard.press("Escape")  # whoever puts it off can come back to it
        expect(page.locator("#headline")).to_have_text("Locked")
        page.get_by_role("button", name="Give key").click()
        page.fill("#key", "rk-of-somebody-else")
        page.press("#key", "Enter")
        expect(page.locator("#lock-reason")).to_contain_text("not known here")
        page.fill("#key", secret("operator"))
        page.press("#key", "Enter")
        expect(page.locator("#headline")).to_have_text("Serving")
        assert page.evaluate("JSON.stringify(localStorage) + document.cookie") == "{}"
        page.fill("#question", "Hi")
        page.press("#question", "Enter")  # the operator's key may not do this
        expect(page.locator("#lock-scope")).to_have_text("serve")
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Forget key").click()
        expect(page.locator("#headline")).to_have_text("Locked")
        assert page.evaluate("sessionStorage.length") == 0
