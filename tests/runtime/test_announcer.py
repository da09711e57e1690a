import io
import json

import pytest
from rich.console import Console

from actors.messages import PipelineStatus, PlanChanged, StageStatus
from runtime.announcer import Announcer

JOIN = "python -m runtime.launch --join 127.0.0.1:7 --token T"


class Shown:
    """An announcer and what it has written."""

    def __init__(self, *, is_terminal: bool = False) -> None:
        self._output = io.StringIO()
        console = Console(
            file=self._output, soft_wrap=True, highlight=False, force_terminal=is_terminal
        )
        self.announcer = Announcer(console)

    def lines(self) -> list[str]:
        """What was written since the last call."""
        text = self._output.getvalue()
        self._output.seek(0)
        self._output.truncate()
        return text.splitlines()


def plan(*missing: str) -> PlanChanged:
    stages = tuple(
        StageStatus(
            stage=stage,
            node="a",
            device="cpu",
            worker=f"a/stage-0.{stage}",
            pid=1,
            start=stage,
            end=stage + 1,
            kv_blocks=1,
            weight_bytes=1,
            resident_bytes=1,
            state="ready",
        )
        for stage in range(2)
    )
    pipeline = PipelineStatus(
        pipeline="0",
        epoch=1,
        ref=None,
        state="ready",
        max_running=1,
        max_waiting=1,
        stages=stages,
    )
    return PlanChanged(
        epoch=1, model="demo", pipelines=(pipeline,), nodes=(), missing=missing, failure=None
    )


@pytest.fixture
def shown() -> Shown:
    """That of a launcher with an endpoint, which plays node `a`."""
    shown = Shown()
    shown.announcer.join_line, shown.announcer.own_node = JOIN, "a"
    return shown


def test_nodes_that_a_file_names_are_asked_for_by_name_but_for_our_own(shown: Shown) -> None:
    shown.announcer.show_plan(plan("waiting for node a", "waiting for node b b"))
    assert shown.lines() == [
        "waiting for node a; waiting for node b b",
        f"  join with: {JOIN} --node-id 'b b'",
    ]


def test_a_hint_comes_once_while_its_node_is_waited_for_and_again_after_a_loss(
    shown: Shown,
) -> None:
    shown.announcer.show_plan(plan("waiting for 2 more nodes"))
    assert shown.lines() == ["waiting for 2 more nodes", f"  join with: {JOIN}"]
    shown.announcer.show_plan(plan("waiting for 1 more node"))
    assert shown.lines() == ["waiting for 1 more node"]
    shown.announcer.show_plan(plan("pipeline 0 is loading"))
    assert shown.lines() == ["pipeline 0 is loading"]
    shown.announcer.show_plan(plan("waiting for 1 more node"))
    assert shown.lines() == ["waiting for 1 more node", f"  join with: {JOIN}"]


def test_the_same_news_is_told_once(shown: Shown) -> None:
    for _ in range(3):
        shown.announcer.show_plan(plan("pipeline 0 is loading"))
    assert shown.lines() == ["pipeline 0 is loading"]


def test_the_ready_line_says_where_and_what_with_a_request_to_paste(shown: Shown) -> None:
    shown.announcer.show_plan(plan("pipeline 0 is loading"))
    shown.announcer.show_plan(plan())
    shown.announcer.ready("http://127.0.0.1:8000", "http://127.0.0.1:8001", plan())
    _, ready, attempt, see, join, stop = shown.lines()
    assert ready == "ready http://127.0.0.1:8000 model=demo pipelines=1 stages=2"
    assert "curl -N http://127.0.0.1:8000/v1/chat/completions" in attempt
    assert json.loads(attempt[attempt.index("'{") + 1 : -1])["model"] == "demo"
    assert see == "  see   http://127.0.0.1:8001/dashboard"
    assert join == f"  join  {JOIN}"
    assert stop == "  stop  Ctrl-C"


def test_a_service_that_recovers_is_ready_again(shown: Shown) -> None:
    shown.announcer.ready("http://127.0.0.1:8000", "http://127.0.0.1:8001", plan())
    shown.lines()
    for _ in range(2):
        shown.announcer.show_plan(plan("pipeline 0 is lost"))
        shown.announcer.show_plan(plan())
        assert shown.lines() == ["pipeline 0 is lost", "ready again"]


def test_a_joined_launcher_hints_at_nothing_and_says_when_the_service_is_ready() -> None:
    shown = Shown()
    shown.announcer.show_plan(plan("waiting for 1 more node"))
    shown.announcer.show_plan(plan())
    shown.announcer.show_plan(plan("pipeline 0 is lost"))
    shown.announcer.show_plan(plan())
    assert shown.lines() == [
        "waiting for 1 more node",
        "the service is ready: model=demo pipelines=1 stages=2",
        "pipeline 0 is lost",
        "ready again",
    ]


@pytest.mark.parametrize(
    ("ended", "how"),
    [
        ("killed by signal 9; its last line: INFO ready", "killed by signal 9"),
        ("killed by signal 9", "killed by signal 9"),
        ("killed by signal 11; its last line: x", "killed by signal 11; its last line: x"),
        ("exit status 1; its last line: error: no", "exit status 1; its last line: error: no"),
    ],
)
def test_a_process_that_lives_again_is_told_with_how_it_ended(
    shown: Shown, ended: str, how: str
) -> None:
    shown.announcer.say_started_again("gateway", ended)
    assert shown.lines() == [f"gateway ended ({how}); started again"]


def test_lines_of_other_processes_bear_their_name_until_muted(shown: Shown) -> None:
    shown.announcer.show_line("node", "a [bold]line[/bold] :smile:")
    shown.announcer.mute()
    shown.announcer.show_line("node", "another")
    shown.announcer.say("our own")
    assert shown.lines() == ["node | a [bold]line[/bold] :smile:", "our own"]


def test_a_progress_bar_is_drawn_only_where_somebody_looks() -> None:
    quiet, watched = Shown(), Shown(is_terminal=True)
    for shown in (quiet, watched):
        shown.announcer.show_progress(0, 0)
        shown.announcer.show_progress(1, 2)
        shown.announcer.show_progress(2, 2)
        shown.announcer.close()
    assert quiet.lines() == []
    assert "loading weights" in "\n".join(watched.lines())


def test_a_line_of_json_stays_json_and_says_whose_it_is() -> None:
    shown = Shown()
    line = '{"at": "2026-01-01", "message": "[bold] | {\\"at\\": 1}"}'
    shown.announcer.show_line("gateway", line)
    shown.announcer.show_line("node", f"local/stage-0.0 | {line}")
    found = [json.loads(text) for text in shown.lines()]
    assert [entry.pop("source") for entry in found] == ["gateway", "node/local/stage-0.0"]
    assert found == [json.loads(line)] * 2
