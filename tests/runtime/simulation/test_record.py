from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from actors.messages import PipelineStatus, PlanChanged, StageStatus
from runtime.simulation.record import BARS_PER_ROW, Place, Record


def plan(epoch: int, state: str, worker: str = "a/0", layers: tuple[int, int] = (0, 4)) -> Any:
    stage = StageStatus(
        stage=0,
        node="a",
        device="T4:0",
        worker=worker,
        pid=1,
        start=layers[0],
        end=layers[1],
        kv_blocks=1,
        weight_bytes=1,
        resident_bytes=1,
        state=state,
    )
    pipeline = PipelineStatus(
        pipeline="0",
        epoch=epoch,
        ref=None,
        state=state,
        max_running=1,
        max_waiting=1,
        stages=(stage,),
    )
    return PlanChanged(
        epoch=epoch, model="m", pipelines=(pipeline,), nodes=("a",), missing=(), failure=None
    )


@given(
    st.lists(st.tuples(st.floats(0, 0.5), st.floats(1e-4, 0.5)), min_size=1, max_size=200),
    st.floats(1e-3, 1e5),
)
def test_bars_cover_all_steps_and_lose_no_work(
    steps: list[tuple[float, float]], span_s: float
) -> None:
    record, now = Record(span_s), 0.0
    for gap_s, step_s in steps:
        now += gap_s
        record.on_step("w", now, now + step_s, 3)
        now += step_s
    row = record.rows["w"]
    assert (row.num_steps, row.num_tokens) == (len(steps), 3 * len(steps))
    assert abs(sum(bar.busy_s for bar in row.bars) - row.busy_s) < 1e-6
    assert row.bars[-1].end_s == now
    assert all(one.end_s <= other.start_s for one, other in pairwise(row.bars))


def test_an_hour_of_short_steps_is_a_few_thousand_bars() -> None:
    record = Record(3600.0)
    for number in range(36000):
        record.on_step("w", number * 0.1, number * 0.1 + 0.1, 1)
    assert BARS_PER_ROW / 2 < len(record.rows["w"].bars) <= BARS_PER_ROW + 1


def test_a_plan_is_marked_when_a_pipeline_has_another_epoch_or_state() -> None:
    record = Record(1.0)
    for at_s, told in enumerate([plan(1, "loading"), plan(1, "ready"), plan(1, "ready")]):
        record.on_plan(float(at_s), told)
    record.on_plan(3.0, plan(2, "ready"))
    assert [(mark.at_s, mark.text) for mark in record.marks] == [
        (0.0, "pipeline 0 epoch 1 loading"),
        (1.0, "pipeline 0 epoch 1 ready"),
        (3.0, "pipeline 0 epoch 2 ready"),
    ]


def test_a_worker_is_known_by_the_stage_it_hosted_last_and_has_a_row_though_it_did_nothing() -> (
    None
):
    record = Record(1.0)
    record.on_plan(0.0, plan(1, "ready"))
    record.on_plan(1.0, plan(2, "ready", worker="b/spare", layers=(0, 3)))
    assert record.places == {
        "a/0": Place("0.0", "T4:0", 0, 4),
        "b/spare": Place("0.0", "T4:0", 0, 3),
    }
    assert record.rows["b/spare"].num_steps == 0
