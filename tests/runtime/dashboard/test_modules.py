"""The page's pure modules, run in Node: what they are given decides what they say."""

import json
import shutil
import subprocess
from typing import Any

import pytest

from runtime.dashboard.files import PAGE

NODE = shutil.which("node")
PATIENCE_S = 30.0
pytestmark = pytest.mark.skipif(NODE is None, reason="no Node on this machine: run .ci/browser")


def run(module: str, expression: str, *arguments: Any) -> Any:
    """The value of an expression over a module `m` and the arguments `a`."""
    script = (
        f"const m = await import({json.dumps((PAGE / module).as_uri())});"
        f"const a = {json.dumps(arguments)};"
        f"process.stdout.write(JSON.stringify({expression}));"
    )
    assert NODE is not None
    done = subprocess.run(
        [NODE, "--input-type=module", "--no-warnings", "--eval", script],
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def apart(one: dict[str, float], two: dict[str, float]) -> bool:
    return (
        one["x"] + one["width"] <= two["x"]
        or two["x"] + two["width"] <= one["x"]
        or one["y"] + one["height"] <= two["y"]
        or two["y"] + two["height"] <= one["y"]
    )


def test_boxes_never_overlap_and_never_leave_the_drawing() -> None:
    cases = [(stages, width) for stages in range(13) for width in (300, 372, 560, 700, 1190, 2000)]
    found = run("layout.js", "a[0].map(([n, width]) => m.layout(n, width))", cases)
    for (num_stages, width), places in zip(cases, found, strict=True):
        boxes = [places["gateway"], *places["stages"]]
        assert len(boxes) == num_stages + 1
        assert len(places["hops"]) == num_stages
        for index, box in enumerate(boxes):
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width, (num_stages, width)
            assert box["y"] + box["height"] <= places["height"]
            assert all(apart(box, other) for other in boxes[:index]), (num_stages, width)


SWAP = {"pipeline": "0", "epoch": 2, "phase": "copy"}


def plan(*states: str, swap: dict[str, Any] | None = None, **changed: Any) -> dict[str, Any]:
    pipelines = [
        {"id": str(n), "state": s, "stages": [{"stage": 0, "node": "a", "pid": 1, "state": s}]}
        for n, s in enumerate(states)
    ]
    told = {"nodes": ["a"], "missing": [], "reason": None, "swap": swap, "pipelines": pipelines}
    return told | changed


VERDICTS = [
    (None, "none", "Connecting"),
    (plan("ready"), "ok", "Serving"),
    (plan("ready", swap=SWAP), "busy", "Serving, being changed"),
    (plan("loading", reason="pipeline 0 is loading"), "warn", "Starting"),
    (plan(reason="waiting for node b", missing=["waiting for node b"]), "warn", "Starting"),
    (plan("recovering", reason="pipeline 0 is recovering"), "bad", "Not serving"),
    (plan("lost", reason="pipeline 0 is lost"), "bad", "Not serving"),
    (plan("ready", "recovering"), "warn", "Serving by 1 of 2 pipelines, degraded"),
]


def test_the_verdict_says_whether_it_serves() -> None:
    found = run(
        "verdict.js", "a[0].map((plan) => m.verdict(plan))", [told for told, *_ in VERDICTS]
    )
    said = [(one["level"], one["headline"]) for one in found]
    assert said == [(level, headline) for _, level, headline in VERDICTS]


def test_a_lost_stage_and_what_is_done_about_it_are_named() -> None:
    told = plan("recovering", reason="pipeline 0 is recovering")
    told["pipelines"][0]["stages"].append({"stage": 1, "node": "b", "pid": 2, "state": "lost"})
    told["swap"] = {"pipeline": "0", "epoch": 3, "phase": "prepare"}
    found = run("verdict.js", "m.verdict(a[0])", told)
    assert found["lost"] == ["stage 1 of pipeline 0 on b"]
    assert found["doing"] == ["pipeline 0 to epoch 3: loading the layers that were lost"]


def state_event(at: float, state: str) -> dict[str, Any]:
    return {"kind": "pipeline_state", "at": at, "facts": {"pipeline": "0", "state": state}}


def test_an_outage_lasts_from_the_loss_to_the_recovery() -> None:
    states = ("loading", "ready", "recovering", "lost", "ready", "lost")
    events = [state_event(*pair) for pair in zip((1, 2, 5, 6, 9, 20), states, strict=True)]
    assert run("sentences.js", "m.outages(a[0])", events) == [
        {"pipeline": "0", "from": 5, "to": 9},
        {"pipeline": "0", "from": 20, "to": None},
    ]


def test_the_bands_of_epochs_fill_the_time_line_without_a_gap() -> None:
    marks = [{"kind": "epoch", "at": at, "epoch": epoch} for at, epoch in ((40, 2), (150, 3))]
    found = run("scale.js", "m.bands(a[0], 3, 200, 100)", marks)
    assert found == [
        {"from": 100, "to": 50, "epoch": 2},
        {"from": 50, "to": 0, "epoch": 3},
    ]
    assert run("scale.js", "m.bands([], 7, 200, 100)") == [{"from": 100, "to": 0, "epoch": 7}]


def test_events_are_the_same_however_their_text_is_cut() -> None:
    text = ': hello\n\nid: 3\nevent: state\ndata: {"a":\ndata: 1}\n\ndata: é\r\n\r\n: bye\n\n'
    cuts = [[text[at : at + n] for at in range(0, len(text), n)] for n in (1, 2, 3, 7, 1000)]
    script = """a[0].map((pieces) => {
      const parser = new m.EventParser();
      return pieces.flatMap((piece) => parser.push(piece));
    })"""
    assert run("sse.js", script, cuts) == [
        [
            {"name": "state", "data": '{"a":\n1}', "id": "3"},
            {"name": "message", "data": "é", "id": ""},
        ]
    ] * len(cuts)


def test_rates_come_from_what_counters_grew_by_and_a_new_process_begins_anew() -> None:
    def message(at: float, busy_s: float, num_steps: int, **more: Any) -> dict[str, Any]:
        stage = {"pipeline": "0", "stage": 0, "sent_bytes": 0}
        stage |= {"busy_s": busy_s, "num_steps": num_steps}
        pipeline = {"pipeline": "0", "num_steps": num_steps}
        load = {"at": at, "pipelines": [pipeline], "stages": [stage]}
        tokens = {"now": at, "seconds": [[int(at) - 1, 30]]}
        empty: dict[str, Any] = {"totals": {}, "events": [], "missed": 0}
        return {"at": at, "load": load, "tokens": tokens, **empty, **more}

    told = [message(10, 1.0, 100, life="1"), message(12, 2.0, 140), message(14, 0.5, 10)]
    script = """a[0].reduce(({ state, seen }, message) => {
      const next = m.next(state, message, 0);
      return { state: next, seen: [...seen, [next.rates, m.tokensPerS(next)]] };
    }, { state: m.EMPTY, seen: [] }).seen"""
    first, second, third = run("state.js", script, told)
    assert first == [None, 10]
    assert second[0]["pipelines"]["0"]["stepsPerS"] == 20
    assert second[0]["stages"]["0/0"] == {"busy": 0.5, "bytesPerS": 0, "stepS": 0.025}
    assert third[0]["pipelines"]["0"]["stepsPerS"] == 5


def test_numbers_are_written_as_people_read_them() -> None:
    script = "a[0].map((value) => m.compact(value))"
    assert run("format.js", script, [0, 7, 12.34, 1234, 56789, 1.2e6, None]) == [
        "0", "7", "12.3", "1234", "56.8k", "1.2M", "–",
    ]  # fmt: skip
    script = "a[0].map((value) => m.duration(value))"
    assert run("format.js", script, [0, 0.0004, 0.031, 2.44, 59.6, 185, 7440, 90000]) == [
        "0 ms", "0.4 ms", "31 ms", "2.4 s", "1 min 0 s", "3 min 5 s", "2 h 4 min", "1 d 1 h",
    ]  # fmt: skip


def test_an_event_of_an_unknown_kind_or_with_other_facts_is_shown_as_it_came() -> None:
    events = [
        {"kind": "moon_rose", "facts": {"over": "a", "n": [1]}},
        {"kind": "stage_placed", "facts": {"layers": None}},
    ]
    texts = [one["text"] for one in run("sentences.js", "a[0].map((e) => m.sentence(e))", events)]
    assert texts == ["moon_rose over=a n=[1]", "stage_placed layers=null"]
