"""The failure contract on virtual time: every role, every fault, every moment, and no wrong token.

`docs/failures.md` names these cases one by one.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from actors.kernel.errors import ActorError
from actors.kernel.ref import Ref
from actors.kernel.system import ActorSystem
from actors.kernel.virtual_time import run
from actors.messages import ChangePlan, GetPipelineLoad, PipelineLoadReport, PlanReport
from actors.pipeline import PipelineActor
from tests.actors.contract_faults import PIPELINES, STRIKES, Strike, nothing
from tests.actors.contract_moments import SWAP_PHASES, Moment, decoding
from tests.actors.emulated_pipeline import VOCAB
from tests.actors.emulated_service import Service, service, settings
from transport.errors import TransportError

NUM_REQUESTS = 3
PROMPT_TOKENS = 20
"""More than a step takes, so that the first step of a request is never its last prompt chunk."""
OUTPUT_TOKENS = 16
LONG_TOKENS = 60
WITHIN_S = 45.0
"""Well below the time that requests wait for capacity: nothing here may be mended by that alone."""

MOMENTS = ("idle", "prefill", "decode", "prepare", "copy", "pause", "delta", "commit", "release")


@asynccontextmanager
async def two_nodes(rng: random.Random) -> AsyncIterator[Service]:
    """A stage and its pipeline's actor on one node, the other stage on another."""
    async with service(rng, settings(wait_nodes=("a", "b"), num_stages=2)) as world:
        for name in ("a", "b"):
            await world.start_node(name)
        await world.until(lambda world: world.is_ready)
        yield world


@asynccontextmanager
async def one_node(rng: random.Random) -> AsyncIterator[Service]:
    """All on one node, for which no other can stand in."""
    async with service(rng, settings(wait_nodes=("a",), num_stages=2)) as world:
        await world.start_node("a")
        await world.until(lambda world: world.is_ready)
        yield world


async def serve(world: Service, label: str, within_s: float = WITHIN_S) -> list[str]:
    """Some requests, each checked token for token, and how they ended."""
    async with asyncio.timeout(within_s), asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                world.generate(
                    f"{label}{number}",
                    [world.rng.randrange(VOCAB) for _ in range(PROMPT_TOKENS)],
                    OUTPUT_TOKENS,
                )
            )
            for number in range(NUM_REQUESTS)
        ]
    return [task.result() for task in tasks]


async def change(world: Service, layers: str) -> PlanReport | None:
    """What became of a change; None if whoever knew is gone."""
    wish = ChangePlan(pipeline="", layers=layers, num_stages=0, plan=b"", is_dry_run=False)
    try:
        return await world.ask(wish)
    except (ActorError, TransportError):
        return None


async def change_at_last(world: Service, layers: str) -> None:
    """A change that is asked for until the service, mending itself, can make it."""
    async with asyncio.timeout(60):
        while (report := await change(world, layers)) is None or not report.is_done:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def all_free(system: ActorSystem, home: Ref) -> PipelineLoadReport:
    """Wait until a pipeline has no request: whoever read them is served or gone."""
    while True:
        load = await system.ask(home, GetPipelineLoad(), timeout_s=10)
        assert isinstance(load, PipelineLoadReport)
        if (load.num_running, load.num_waiting, load.num_free_blocks) == (0, 0, load.num_blocks):
            return load
        await asyncio.sleep(0.1)


def home_of(world: Service) -> Ref:
    """The actor that has the requests now."""
    assert world.router.plan is not None
    home = world.router.plan.pipelines[0].ref
    assert home is not None
    return home


async def play(world: Service, strike: Strike, moment: Moment, within_s: float = WITHIN_S) -> None:
    """Strike once at that moment, have the struck part come back, and see that all is well."""
    num_workers = len(world.workers)
    async with asyncio.TaskGroup() as group:
        if moment.name == "prefill":
            moment.arm()
        if moment.name != "idle":
            strike.clients = group.create_task(serve(world, "r", within_s))
        if moment.name in SWAP_PHASES:
            await decoding(world)
            moment.arm()
            strike.operator = group.create_task(change(world, "0:1,1:6"))
        await moment.reached(world)
        await strike.undone()
    assert moment.num_strikes == 1
    strike.check_clients(NUM_REQUESTS)
    if strike.loses_nothing:
        assert (world.notes, len(world.workers)) == ([], num_workers)
        report = strike.operator.result() if strike.operator is not None else None
        assert report is None or report.is_done


async def check_whole(world: Service) -> None:
    """It serves, changes, and holds nothing of anybody."""
    await world.until(lambda world: world.is_ready)
    assert Counter(await serve(world, "again")) == {"right": NUM_REQUESTS}
    await change_at_last(world, "0:4,4:6")
    async with asyncio.timeout(60):
        await all_free(world.gateway, home_of(world))


@pytest.fixture(autouse=True)
def known_pipelines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every pipeline actor of a test where a strike finds it."""
    start = PipelineActor.on_start

    async def on_start(actor: PipelineActor) -> None:
        PIPELINES.append(actor)
        await start(actor)

    PIPELINES.clear()
    monkeypatch.setattr(PipelineActor, "on_start", on_start)


@pytest.mark.parametrize("moment_name", MOMENTS)
@pytest.mark.parametrize("fault", STRIKES)
def test_no_fault_at_any_moment_costs_a_token(
    fault: str, moment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(rng: random.Random) -> None:
        async with two_nodes(rng) as world:
            strike = STRIKES[fault]()
            moment = Moment(moment_name, lambda: strike.now(world))
            moment.watch(monkeypatch)
            await play(world, strike, moment)
            await check_whole(world)

    run(main, seed=0)


@pytest.mark.parametrize("fault", ["head-crash", "head-hang", "head-partition"])
def test_requests_wait_for_a_node_for_which_no_other_can_stand_in(fault: str) -> None:
    async def main(rng: random.Random) -> None:
        async with one_node(rng) as world:
            strike = STRIKES[fault]()
            moment = Moment("decode", lambda: strike.now(world))
            await play(world, strike, moment, within_s=12)
            await check_whole(world)

    run(main, seed=0)


@pytest.mark.parametrize("fault", ["gateway-crash", "gateway-hang"])
def test_a_gateway_that_is_gone_leaves_nothing_behind_where_its_requests_ran(fault: str) -> None:
    async def main(rng: random.Random) -> None:
        async with two_nodes(rng) as world, asyncio.TaskGroup() as group:
            reading = group.create_task(world.generate("r", [1], LONG_TOKENS))
            await decoding(world)
            home = home_of(world)
            STRIKES[fault]().now(world)
            async with asyncio.timeout(60):
                load = await all_free(world.systems["node-b"], home)
            assert load.num_steps < LONG_TOKENS  # it was not served to its end for nobody
            reading.cancel()

    run(main, seed=0)


@pytest.mark.parametrize("moment_name", MOMENTS[1:])
def test_a_service_that_is_left_alone_at_any_moment_tells_no_note(
    moment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blow is what makes the difference in every other test here."""

    async def main(rng: random.Random) -> None:
        async with two_nodes(rng) as world:
            strike = Strike(lambda world: nothing, loses_nothing=True)
            moment = Moment(moment_name, lambda: strike.now(world))
            moment.watch(monkeypatch)
            await play(world, strike, moment)
            await check_whole(world)

    run(main, seed=0)
