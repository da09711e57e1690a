"""A stage that has its weights fetched before it loads them."""

import msgspec
import pytest

from actors.messages import (
    AssignStage,
    Cancel,
    FetchWeights,
    StageFailed,
    StageReady,
    WeightPolicy,
    WeightsFetched,
)
from actors.stage import FETCH_TIMEOUT_S, StageActor
from tests.actors.emulated_pipeline import EmulatedDevice, assignment
from tests.support.actor_worlds import PATIENCE_S, Played, World, on_virtual_time
from transport.codec import Message

AUTO = WeightPolicy(source="auto")


async def stage_in(world: World) -> tuple[Played, Played, EmulatedDevice, AssignStage]:
    """A stage beside a weights actor that a test plays, who asks it, and what."""
    weights, asker = await world.play("weights"), await world.play("asker")
    device = EmulatedDevice(world.rng)
    ref = (await world.open("worker")).spawn(StageActor(device, weights.ref), name="stage")
    wanted = assignment(0, (0, 3), asker.ref, asker.ref)
    wanted = msgspec.structs.replace(wanted, weights=AUTO, observer=ref)
    return weights, asker, device, wanted


async def answer_of(asker: Played, wanted: AssignStage) -> Message:
    return await asker.context.ask(wanted.observer, wanted, timeout_s=PATIENCE_S)


@on_virtual_time
async def test_a_stage_loads_from_where_its_weights_are(world: World) -> None:
    weights, asker, device, wanted = await stage_in(world)
    fetched = WeightsFetched(model="/landing/x", num_bytes=3, failure=None)
    weights.answers[FetchWeights] = lambda _: fetched
    models: list[str] = []
    load = device.load

    def note(assigned: AssignStage, held: object, on_progress: object) -> object:
        models.append(assigned.model)
        return load(assigned, held, on_progress)  # type: ignore[arg-type]

    device.load = note  # type: ignore[method-assign, assignment]
    assert isinstance(await answer_of(asker, wanted), StageReady)
    (order,) = weights.all_of(FetchWeights)
    assert (order.model, order.start, order.end, order.policy) == ("demo", 0, 3, AUTO)
    assert models == ["/landing/x"]
    assert isinstance(await answer_of(asker, msgspec.structs.replace(wanted, epoch=2)), StageReady)
    assert len(weights.all_of(FetchWeights)) == 1  # the very same shard needs nothing
    more = msgspec.structs.replace(wanted, epoch=3, end=4)
    assert isinstance(await answer_of(asker, more), StageReady)
    assert [o.end for o in weights.all_of(FetchWeights)] == [3, 4]


@on_virtual_time
async def test_a_stage_that_is_to_read_its_disk_has_nothing_fetched(world: World) -> None:
    weights, asker, _, wanted = await stage_in(world)
    disk = msgspec.structs.replace(wanted, weights=WeightPolicy(source="disk"))
    assert isinstance(await answer_of(asker, disk), StageReady)
    assert weights.all_of(FetchWeights) == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (WeightsFetched(model="m", num_bytes=0, failure="nobody has them"), "nobody has them"),
        (Cancel(request="r"), "another answer came"),
    ],
)
@on_virtual_time
async def test_weights_that_do_not_come_fail_the_stage_with_the_reason(
    world: World, answer: Message, why: str
) -> None:
    weights, asker, device, wanted = await stage_in(world)
    weights.answers[FetchWeights] = lambda _: answer
    failed = await answer_of(asker, wanted)
    assert isinstance(failed, StageFailed)
    assert failed.reason == why
    assert device.num_loads == 0


@on_virtual_time
async def test_a_fetch_that_never_ends_is_given_up(world: World) -> None:
    weights, asker, _, wanted = await stage_in(world)
    weights.postponed[FetchWeights] = []
    before = asker.context.loop_time()
    failed = await asker.context.ask(wanted.observer, wanted, timeout_s=2 * PATIENCE_S)
    assert isinstance(failed, StageFailed)
    assert failed.reason.startswith("weights of layers 0:3: ")
    assert asker.context.loop_time() - before == pytest.approx(FETCH_TIMEOUT_S, abs=5)
