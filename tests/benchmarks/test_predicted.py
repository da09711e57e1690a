"""Predicted against measured: what is fitted to what, and when a prediction counts as good."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks import predicted
from benchmarks.emulated_cluster import ranges
from benchmarks.load import Target
from benchmarks.predicted import Found, measure, predict, table_of, verdicts
from benchmarks.predicted_combinations import (
    Combination,
    Measured,
    Round,
    Row,
    Scene,
    choices,
    mean_error,
)
from benchmarks.steady_load import Seen, SteadyLoad, keep_steady, seen
from benchmarks.streams import Stream
from scheduling.roofline import StageTime
from scheduling.split import StageDevice
from scheduling.steps_file import ToldStage, ToldSteps
from tests.scheduling.test_calibration import SHAPE, step

SCENE = Scene((0.2, 0.1), ((4, 8), (8, 4)), (4, 8))
LOAD = SteadyLoad(streams=0, prompt=16, new=24, warm_s=0.0, window_s=1.0)


def device(speed: float) -> StageDevice:
    return StageDevice(memory_bytes=10**10, flops_per_s=1e11 * speed, bytes_per_s=1e10 * speed)


def told(combination: Combination) -> ToldSteps:
    """The steps of stages whose devices do exactly what the roofline says."""
    stages = []
    for number, (layers, speed) in enumerate(
        zip(ranges(combination.split), combination.speeds, strict=True)
    ):
        rates, steps = device(speed), []
        for tokens in (1, 2, 4, 8, 16, 64, 256, 512):
            work = step(tokens, layers=layers).work
            seconds = StageTime(rates, SHAPE, layers).of(work)
            context = int(work.num_context)
            steps.append((tokens, tokens * context, context, int(work.num_drawn), seconds))
        stages.append(
            ToldStage(
                node=f"node-{number}",
                device="cpu",
                layers=layers,
                steps=tuple(steps),
                name=f"c at {speed:g}",
                memory_bytes=rates.memory_bytes,
                flops_per_s=2 * rates.flops_per_s,  # what was measured at the start is off
                bytes_per_s=2 * rates.bytes_per_s,
            )
        )
    return ToldSteps(SHAPE, tuple(stages))


def found(scene: Scene = SCENE) -> Found:
    return {
        combination: Measured([Round(Seen(tokens_per_s=10.0, tpot_s=0.1), told(combination), 0.0)])
        for combination in scene.combinations()
    }


def row(split: tuple[int, ...], guess: float, real: float, batch: int = 4) -> Row:
    return Row(
        combination=Combination((0.2, 0.1), split, batch),
        is_held_out=batch == 4,
        predicted=Seen(tokens_per_s=guess, tpot_s=1.0),
        measured=Seen(tokens_per_s=real, tpot_s=1.0),
    )


def test_every_other_combination_is_held_out() -> None:
    fitted = [c for c in SCENE.combinations() if SCENE.calibrates(c)]
    assert [(c.split, c.batch) for c in fitted] == [((4, 8), 4), ((8, 4), 8)]


def test_held_out_combinations_are_predicted_by_the_rates_of_the_others() -> None:
    rows = predict([SCENE], found(), LOAD)
    assert [row.is_held_out for row in rows] == [False, True, True, False]
    by = {(row.combination.split, row.combination.batch): row.predicted for row in rows}
    # the device of half the speed is the slower stage with a third of the layers more
    assert by[(8, 4), 4].tokens_per_s > by[(4, 8), 4].tokens_per_s
    assert by[(8, 4), 8].tokens_per_s > by[(8, 4), 4].tokens_per_s
    one = by[(4, 8), 4]
    assert one.tokens_per_s == pytest.approx(4 / one.tpot_s, rel=0.05)


def test_what_no_rate_was_fitted_to_changes_no_prediction() -> None:
    known = found()
    before = predict([SCENE], known, LOAD)
    for combination in SCENE.combinations():
        if not SCENE.calibrates(combination):
            (only,) = known[combination].rounds
            stages = tuple(replace_steps(stage) for stage in only.steps.stages)
            known[combination].rounds = [replace(only, steps=ToldSteps(SHAPE, stages))]
    after = predict([SCENE], known, LOAD)
    assert [row.predicted for row in after] == [row.predicted for row in before]


def replace_steps(stage: ToldStage) -> ToldStage:
    fields: dict[str, Any] = {name: getattr(stage, name) for name in stage.__struct_fields__}
    slower = tuple((*each[:4], each[4] * 9) for each in stage.steps)
    return ToldStage(**{**fields, "steps": slower})


def test_the_median_of_the_calmer_half_of_the_rounds_counts() -> None:
    nothing = ToldSteps(SHAPE, ())
    rounds = [(9.0, 0.1), (1.0, 1.9), (10.0, 0.3), (2.0, 1.5), (8.0, 0.2)]
    measured = Measured(
        [Round(Seen(tokens_per_s=n, tpot_s=1 / n), nothing, foreign) for n, foreign in rounds]
    )
    assert (measured.tokens_per_s, measured.tpot_s) == (9.0, 1 / 9.0)
    assert measured.foreign_cores == 0.3


@pytest.mark.parametrize(("real", "word"), [(100.0, "ok"), (80.0, "MISSED")])
def test_the_mean_error_of_held_out_ones_is_held_against_its_bound(real: float, word: str) -> None:
    rows = [row((4, 8), 100.0, real), row((4, 8), 100.0, 1000.0, batch=8)]
    assert verdicts(rows)[0].endswith(f"(at most 15%: {word})")
    assert mean_error(rows[:1]) == pytest.approx(abs(100 / real - 1))


def test_choosing_by_prediction_costs_what_the_best_measured_split_gives_more() -> None:
    rows = [row((4, 8), 90.0, 100.0), row((8, 4), 95.0, 96.0), row((8, 4), 50.0, 50.0, batch=8)]
    (choice,) = choices(rows)  # there is nothing to choose with 8 streams
    assert (choice.chosen.split, choice.best.split) == ((8, 4), (4, 8))
    assert choice.loss == pytest.approx(0.04)
    assert "4.0% below the best measured (at most 5%: ok)" in verdicts(rows)[1]


def test_the_table_tells_predicted_measured_and_error() -> None:
    table = table_of([row((4, 8), 110.0, 100.0)])
    cells = [next(iter(column.cells)) for column in table.columns]
    assert cells == [
        "0.2:0.1",
        "4:8",
        "4",
        "110.0",
        "100.0",
        "+10.0%",
        "1000",
        "1000",
        "0.00",
        "yes",
    ]


def test_combinations_are_measured_in_turn_over_one_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[tuple[int, ...]] = []

    @contextmanager
    def cluster(
        model: str, speeds: Sequence[float], layers: Sequence[int], max_running: int
    ) -> Iterator[str]:
        assert (model, tuple(speeds), tuple(layers)) == ("m", (0.2, 0.1), (4, 8))
        assert max_running >= max(SCENE.batches)
        yield "http://there"

    async def steady(
        target: Target, load: SteadyLoad, at_end: Callable[[], ToldSteps]
    ) -> tuple[Seen, ToldSteps]:
        return Seen(tokens_per_s=float(load.streams), tpot_s=1.0), at_end()

    answers = {
        "/v1/models": {"data": [{"id": "x"}]},
        "/admin/steps": {"shape": asdict(SHAPE), "stages": []},
        "/admin/plan": {
            "planner": {"links": [{"between": ["a", "b"], "latency_s": 0.1, "bytes_per_s": 5.0}]}
        },
    }
    monkeypatch.setattr(predicted, "emulated_cluster", cluster)
    monkeypatch.setattr(predicted, "keep_steady", steady)
    monkeypatch.setattr(predicted, "give_layers", lambda url, split: given.append(split))
    monkeypatch.setattr(
        predicted, "get_json", lambda url: answers[url.removeprefix("http://there")]
    )
    all_found = measure(SCENE, LOAD, 2, "m")
    assert given == [(4, 8), (4, 8), (8, 4), (8, 4)] * 2
    assert {c.batch: m.tokens_per_s for c, m in all_found.items()} == {4: 4.0, 8: 8.0}
    assert all(len(m.rounds) == 2 and m.links[0][:2] == ("a", "b") for m in all_found.values())


def test_only_tokens_within_the_window_count_and_only_whole_streams_tell_of_a_token() -> None:
    whole = Stream(times=[0.0, 1.0, 2.0], text=["a b", " c", " d"], is_whole=True)
    cut = Stream(times=[1.5, 9.0], text=["a", " b"])
    assert seen([whole, cut], 0.5, 2.5) == Seen(tokens_per_s=3 / 2, tpot_s=2 / 3)
    with pytest.raises(RuntimeError, match=r"no stream ended within 0\.2 s"):
        seen([whole], 0.0, 0.2)


async def test_so_many_streams_are_under_way_until_the_window_is_over() -> None:
    live, most, asked = 0, 0, []
    all_four, enough = asyncio.Barrier(4), threading.Event()

    async def complete(request: web.Request) -> web.StreamResponse:
        nonlocal live, most
        asked.append((await request.json())["max_tokens"])
        live += 1
        most = max(most, live)
        if len(asked) <= 4:
            async with asyncio.timeout(60):
                await all_four.wait()
        elif len(asked) == 20:
            enough.set()
        answer = web.StreamResponse()
        with suppress(ConnectionResetError):  # the window is over
            await answer.prepare(request)
            for word in ("a", " b"):
                event = json.dumps({"choices": [{"text": word}]})
                await answer.write(f"data: {event}\n\n".encode())
            await answer.write(b"data: [DONE]\n\n")
        live -= 1
        return answer

    app = web.Application()
    app.router.add_post("/v1/completions", complete)
    async with TestServer(app) as server:
        target = Target(url=str(server.make_url("")).rstrip("/"), model="x", new=8)
        load = replace(LOAD, streams=4, window_s=0.01)
        what, is_enough = await keep_steady(
            target, load, lambda: enough.wait(60), clock=lambda: 0.0
        )
    assert is_enough
    assert most == 4
    assert what.tokens_per_s >= 2 * 15 / load.window_s
    assert sorted(asked[:4]) == [6, 12, 18, 24]  # spread at first
    assert set(asked[4:]) == {24}
