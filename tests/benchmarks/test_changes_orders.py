"""What is ordered of a service, and what is read from its answers, against one that is played."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from benchmarks.machine import MachineTime
from benchmarks.orders import (
    MAX_WINDOWS,
    as_layers,
    layers_of,
    moved_by_one,
    order_layers,
    pid_of_stage,
    read_change,
    wait_quiet,
    wait_recovered,
)


def phase(name: str, seconds: float, num_bytes: int = 0) -> dict[str, Any]:
    return {"name": name, "seconds": seconds, "bytes": num_bytes}


PHASES = [
    phase("prepare", 3.0, 70),
    phase("copy", 2.0, 50),
    phase("pause", 0.25),
    phase("delta", 0.5, 5),
    phase("commit", 0.125),
    phase("release", 9.0),
]
STATUS = {
    "pipelines": [
        {
            "epoch": 4,
            "state": "ready",
            "last_change": None,
            "stages": [{"layers": [0, 7], "pid": 11}, {"layers": [7, 12], "pid": 12}],
        }
    ]
}


def pipeline(state: str, change_epoch: int | None) -> dict[str, Any]:
    told = {"epoch": change_epoch, "phases": PHASES, "noticed_s": 0.5, "recomputed": 0.4}
    return {"state": state, "last_change": None if change_epoch is None else told}


def test_the_pause_is_what_no_step_is_sent_in_and_not_what_goes_on_beside_steps() -> None:
    change = read_change({"phases": PHASES, "preempted": 2})
    assert change.pause_s == 0.875
    assert change.seconds("copy") == 2.0
    assert change.seconds("rebuild") == 0.0
    assert change.num_preempted == 2
    rebuilt = read_change({"phases": [*PHASES, phase("rebuild", 1.0)]})
    assert rebuilt.pause_s == 1.875


def test_a_split_moves_by_one_layer_and_covers_the_same_layers() -> None:
    assert moved_by_one([(0, 7), (7, 12)]) == "0:6,6:12"
    assert moved_by_one([(0, 4), (4, 8), (8, 12)]) == "0:3,3:8,8:12"
    assert as_layers([(0, 7), (7, 12)]) == "0:7,7:12"


@pytest.mark.parametrize("layers", [[], [(0, 12)], [(0, 1), (1, 12)]])
def test_a_split_that_has_no_layer_to_give_is_refused(layers: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="two stages"):
        moved_by_one(layers)


def test_stages_are_read_from_the_status_of_the_only_pipeline() -> None:
    assert layers_of(STATUS) == [(0, 7), (7, 12)]
    assert pid_of_stage(STATUS, 1) == 12
    with pytest.raises(ValueError, match="values to unpack"):
        layers_of({"pipelines": [*STATUS["pipelines"], *STATUS["pipelines"]]})


@asynccontextmanager
async def served(*routes: web.RouteDef) -> AsyncIterator[str]:
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        [(host, port, *_)] = runner.addresses
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def test_an_order_gives_its_phases_and_a_refusal_its_reason() -> None:
    async def plan(request: web.Request) -> web.Response:
        done = (await request.json()) == {"layers": "0:6,6:12"}
        told = {"done": done, "reason": "no such layer", "phases": PHASES if done else []}
        return web.json_response(told, status=200 if done else 409)

    async with served(web.post("/admin/plan", plan)) as url:
        assert (await order_layers(url, "0:6,6:12")).pause_s == 0.875
        with pytest.raises(RuntimeError, match="no such layer"):
            await order_layers(url, "0:99")


@pytest.mark.parametrize(
    "told",
    [
        [("ready", None), ("recovering", None), ("recovering", 5), ("ready", 5)],
        [("ready", 4), ("ready", 5)],
    ],
    ids=["seen on the way", "over between two looks"],
)
async def test_a_recovery_is_over_when_the_pipeline_is_ready_at_a_newer_epoch(
    told: list[tuple[str, int | None]],
) -> None:
    left = [pipeline(*one) for one in told]

    async def status(request: web.Request) -> web.Response:
        return web.json_response({"pipelines": [left.pop(0)]})

    async with served(web.get("/admin/status", status)) as url, asyncio.timeout(10):
        recovery = await wait_recovered(url, epoch=4)
    assert not left
    assert 0 < recovery.seen_at <= recovery.ready_at
    assert recovery.change.recomputed == 0.4
    assert recovery.change.noticed_s == 0.5


def looks(cores: list[float]) -> Iterator[MachineTime]:
    ours_s = 0.0
    yield MachineTime(0.0, 0.0, ours_s)
    for clock_s, used in enumerate(cores, 1):
        ours_s += used
        yield MachineTime(float(clock_s), 0.0, ours_s)


async def test_rest_is_waited_for_until_a_window_has_next_to_no_work() -> None:
    seen = looks([1.0, 1.0, 0.05, 1.0])
    assert await wait_quiet(lambda: next(seen), window_s=0.0)
    assert next(seen).clock_s == 4.0


async def test_rest_that_never_comes_is_told() -> None:
    seen = looks([1.0] * MAX_WINDOWS)
    assert not await wait_quiet(lambda: next(seen), window_s=0.0)
