"""Weights from another node: all of them once and checked, or one answer that says why not."""

import asyncio
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest

from actors.kernel.ref import Ref
from actors.messages import (
    Cancel,
    FetchWeights,
    FindWeights,
    SendWeights,
    WeightFile,
    WeightPiece,
    WeightPolicy,
    WeightsFetched,
    WeightsFound,
    WeightsSent,
    WeightsWritten,
    WriteWeights,
)
from actors.weights import WeightsActor, weights_of
from actors.weights_serving import LEASE_S, MAX_PIECES_UNDER_WAY, MAX_SOURCES, PIECE_TIMEOUT_S
from models.checkpoint import FACTS_NAME, Checkpoint
from models.fingerprint import Verify
from models.landing import PIECE_BYTES
from models.weight_places import WeightPlaces
from models.weight_source import WeightSource, open_checked
from tests.support.actor_worlds import PATIENCE_S, Played, World, on_virtual_time, settle
from tests.support.tiny_checkpoint import NUM_LAYERS, write_checkpoint
from transport.checksum import checksum

_T = TypeVar("_T")

LARGE = "model.layers.1.mlp.up_proj.weight"
LARGE_BYTES = 5 << 20
FAST, SLOW = 1e12, float(PIECE_BYTES)
"""Bytes per second; the slow one is a piece a second."""


@dataclass
class Node:
    """A process with a weights actor, and what it did on its disk."""

    directory: Path
    model: Path
    num_runs: int = 0
    on_run: Callable[[int], None] = lambda _: None
    actor: WeightsActor = field(init=False)
    ref: Ref = field(init=False)

    async def run(self, function: Callable[[], _T]) -> _T:
        self.num_runs += 1
        self.on_run(self.num_runs)
        return function()

    @property
    def landing(self) -> Path:
        return self.directory / "landing"

    def unfinished(self) -> list[Path]:
        return list(self.landing.rglob("*.unfinished"))


async def node_in(world: World, name: str, tmp_path: Path, *, seed: int | None = None) -> Node:
    """A node; with a seed it has the checkpoint of that seed."""
    directory = tmp_path / name
    node = Node(directory, directory / "model")
    if seed is not None:
        write_checkpoint(node.model, seed)
    places = WeightPlaces(locate=lambda _: node.model, landing=node.landing)
    node.actor = WeightsActor(node.run, places)
    node.ref = (await world.open(name)).spawn(node.actor, name="weights")
    return node


def content_hash(tmp_path: Path, seed: int = 0) -> str:
    place = tmp_path / f"seed-{seed}"
    if not place.exists():
        write_checkpoint(place, seed)
    return Checkpoint.open(place).content_hash


def order(
    tmp_path: Path,
    holders: Sequence[Ref],
    *,
    layers: tuple[int, int] = (1, 2),
    source: Literal["auto", "disk", "peer"] = "auto",
    rate: float = FAST,
) -> FetchWeights:
    return FetchWeights(
        model="m",
        model_hash=content_hash(tmp_path),
        start=layers[0],
        end=layers[1],
        policy=WeightPolicy(source=source, holders=tuple(holders), max_bytes_per_s=rate),
    )


async def fetched(asker: Played, node: Node, wanted: FetchWeights) -> WeightsFetched:
    answer = await asker.context.ask(node.ref, wanted, timeout_s=PATIENCE_S)
    assert isinstance(answer, WeightsFetched)
    return answer


def assert_nothing_is_under_way(*nodes: Node) -> None:
    for node in nodes:
        assert node.actor.fetching.num_transfers == 0
        assert node.unfinished() == []


def assert_right(node: Node, answer: WeightsFetched, layers: tuple[int, int]) -> None:
    """What landed are the bytes of the checkpoint."""
    assert answer.failure is None
    place = Path(answer.model)
    assert place.parent == node.landing
    checkpoint, _ = open_checked(place, place.name, "sample")
    own = Checkpoint.open(node.directory.parent / "seed-0")
    for name in own.names(*layers):
        raws = []
        for tensor in (checkpoint.tensors[name], own.tensors[name]):
            raws.append(bytearray(tensor.num_bytes))
            tensor.read_into(memoryview(raws[-1]))
        assert raws[0] == raws[1]


# --- fetching


@pytest.mark.parametrize("layers", [(1, 2), (0, NUM_LAYERS)])
@on_virtual_time
async def test_layers_that_a_node_lacks_come_from_one_that_has_them(
    world: World, tmp_path: Path, layers: tuple[int, int]
) -> None:
    asker, holder = await world.play("asker"), await node_in(world, "a", tmp_path, seed=0)
    node = await node_in(world, "b", tmp_path)
    wanted = order(tmp_path, [holder.ref], layers=layers)
    answer = await fetched(asker, node, wanted)
    assert_right(node, answer, layers)
    own = Checkpoint.open(holder.model)
    assert answer.num_bytes == sum(own.tensors[n].num_bytes for n in own.names(*layers))
    assert (await fetched(asker, node, wanted)).num_bytes == 0
    assert_nothing_is_under_way(holder, node)


@on_virtual_time
async def test_a_node_that_got_weights_gives_them_on(world: World, tmp_path: Path) -> None:
    asker, holder = await world.play("asker"), await node_in(world, "a", tmp_path, seed=0)
    second, third = await node_in(world, "b", tmp_path), await node_in(world, "c", tmp_path)
    await fetched(asker, second, order(tmp_path, [holder.ref], layers=(1, 2)))
    world.lose("a")
    await settle()
    answer = await fetched(asker, third, order(tmp_path, [second.ref], layers=(1, 2)))
    assert_right(third, answer, (1, 2))
    answer = await fetched(asker, third, order(tmp_path, [second.ref], layers=(0, 2)))
    assert "nobody could give " in str(answer.failure)
    assert "no such tensor or file is here" in str(answer.failure)
    assert_nothing_is_under_way(second, third)


@on_virtual_time
async def test_a_node_with_its_own_copy_asks_nobody_unless_it_is_told_to(
    world: World, tmp_path: Path
) -> None:
    asker, holder = await world.play("asker"), await node_in(world, "a", tmp_path, seed=0)
    node = await node_in(world, "b", tmp_path, seed=0)
    answer = await fetched(asker, node, order(tmp_path, [holder.ref]))
    assert answer == WeightsFetched(model=str(node.model), num_bytes=0, failure=None)
    assert holder.num_runs == 0
    answer = await fetched(asker, node, order(tmp_path, [holder.ref], source="peer"))
    assert_right(node, answer, (1, 2))


@on_virtual_time
async def test_a_copy_of_another_model_is_not_taken_for_the_one_that_is_served(
    world: World, tmp_path: Path
) -> None:
    asker, holder = await world.play("asker"), await node_in(world, "a", tmp_path, seed=0)
    node, other = await node_in(world, "b", tmp_path, seed=1), await world.play("played")
    alone = await fetched(asker, node, order(tmp_path, []))
    assert "is not the model that is served" in str(alone.failure)
    assert "no other node may be asked" in str(alone.failure)
    answer = await fetched(asker, node, order(tmp_path, [other.ref, node.ref, holder.ref]))
    assert_right(node, answer, (1, 2))


@on_virtual_time
async def test_who_may_read_its_disk_alone_asks_nobody(world: World, tmp_path: Path) -> None:
    asker, holder = await world.play("asker"), await node_in(world, "a", tmp_path, seed=0)
    node = await node_in(world, "b", tmp_path)
    answer = await fetched(asker, node, order(tmp_path, [holder.ref], source="disk"))
    assert "no other node may be asked" in str(answer.failure)
    assert holder.num_runs == 0


# --- losses and lies


@pytest.mark.parametrize("seconds", [0.5, 1.5, 2.5])
@on_virtual_time
async def test_another_goes_on_where_one_that_died_left_off(
    world: World, tmp_path: Path, seconds: float
) -> None:
    asker, first = await world.play("asker"), await node_in(world, "a", tmp_path, seed=0)
    second, node = await node_in(world, "c", tmp_path, seed=0), await node_in(world, "b", tmp_path)
    wanted = order(tmp_path, [first.ref, second.ref], rate=SLOW)
    await settle()
    task = asker.context.start_task(fetched(asker, node, wanted))
    await settle(seconds)
    world.lose("a")
    async with asyncio.timeout(PATIENCE_S):
        answer = await task
    assert_right(node, answer, (1, 2))
    num_pieces = 4
    assert second.num_runs - 1 <= num_pieces - int(seconds)
    assert_nothing_is_under_way(second, node)


@on_virtual_time
async def test_if_all_are_lost_there_is_one_answer_and_nothing_is_left(
    world: World, tmp_path: Path
) -> None:
    asker, node = await world.play("asker"), await node_in(world, "b", tmp_path)
    holders = [await node_in(world, name, tmp_path, seed=0) for name in "ac"]
    wanted = order(tmp_path, [holder.ref for holder in holders], rate=SLOW)
    await settle()
    task = asker.context.start_task(fetched(asker, node, wanted))
    await settle(1.5)
    for name in "ac":
        world.lose(name)
    async with asyncio.timeout(PATIENCE_S):
        answer = await task
    assert str(answer.failure).startswith("model m: nobody could give layer-1: ")
    assert all(holder.ref.address in str(answer.failure) for holder in holders)
    assert_nothing_is_under_way(node)
    assert not list(node.landing.rglob("layer-1*"))


class Liar(WeightSource):
    """Its description is right; its tensors are not."""

    def read(self, name: str, offset: int, num_bytes: int) -> bytes:
        data = super().read(name, offset, num_bytes)
        return data if name != LARGE else bytes(len(data))


def make_liar(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    own = WeightPlaces.source

    def source(places: WeightPlaces, model: str, model_hash: str, verify: Verify) -> WeightSource:
        if places.landing == node.landing:
            return Liar.open(node.model, model_hash, verify)
        return own(places, model, model_hash, verify)

    monkeypatch.setattr(WeightPlaces, "source", source)


@on_virtual_time
async def test_wrong_weights_never_count_and_another_may_give_the_right_ones(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asker, node = await world.play("asker"), await node_in(world, "b", tmp_path)
    liar = await node_in(world, "a", tmp_path, seed=0)
    make_liar(liar, monkeypatch)
    answer = await fetched(asker, node, order(tmp_path, [liar.ref]))
    assert f"{LARGE} came with other bytes than the model has" in str(answer.failure)
    assert not list(node.landing.rglob("layer-1*"))
    honest = await node_in(world, "c", tmp_path, seed=0)
    answer = await fetched(asker, node, order(tmp_path, [liar.ref, honest.ref]))
    assert_right(node, answer, (1, 2))
    assert_nothing_is_under_way(node)


@on_virtual_time
async def test_a_holder_of_another_model_gives_nothing(world: World, tmp_path: Path) -> None:
    asker, holder = await world.play("asker"), await node_in(world, "a", tmp_path, seed=1)
    node = await node_in(world, "b", tmp_path)
    answer = await fetched(asker, node, order(tmp_path, [holder.ref]))
    assert "nobody could give the list of its tensors" in str(answer.failure)
    assert "is not the model that is served" in str(answer.failure)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (Cancel(request="r"), "another answer came"),
        (WeightsFound(files=(), failure="so it is"), "so it is"),
        (
            WeightsFound(files=(WeightFile(name="../x", num_bytes=9),), failure=None),
            "config.json did not come",
        ),
        (
            WeightsFound(
                files=(WeightFile(name="config.json", num_bytes=1 << 28),) * 2, failure=None
            ),
            "small files are larger than",
        ),
        (
            WeightsFound(files=(WeightFile(name=FACTS_NAME, num_bytes=7),), failure=None),
            "not all of its small files came",
        ),
    ],
    ids=["no answer", "refusal", "other names", "too large", "nothing comes"],
)
@on_virtual_time
async def test_a_description_that_cannot_be_used_is_told_with_its_reason(
    world: World, tmp_path: Path, found: WeightsFound, why: str
) -> None:
    asker, holder = await world.play("asker"), await world.play("played")
    node = await node_in(world, "b", tmp_path)
    holder.answers[FindWeights] = lambda _: found
    holder.answers[SendWeights] = lambda _: WeightsSent(num_bytes=0, failure=None)
    answer = await fetched(asker, node, order(tmp_path, [holder.ref]))
    assert why in str(answer.failure)
    assert_nothing_is_under_way(node)


async def receiving(world: World, tmp_path: Path) -> tuple[Played, Node, SendWeights]:
    """A node that awaits pieces of the first small file from a holder that a test plays."""
    holder, node = await world.play("played"), await node_in(world, "b", tmp_path)
    files = (WeightFile(name="config.json", num_bytes=4),)
    holder.answers[FindWeights] = lambda _: WeightsFound(files=files, failure=None)
    holder.postponed[SendWeights] = []
    asker = await world.play("asker")
    await settle()
    asker.context.start_task(fetched(asker, node, order(tmp_path, [holder.ref])))
    return holder, node, await holder.hears(SendWeights)


@pytest.mark.parametrize(
    ("changes", "data", "why"),
    [
        ({}, b"good", None),
        ({"checksum": bytes(8)}, b"good", "the bytes were damaged on the way"),
        ({}, b"longer", "'config.json': 6 bytes at 0 are not awaited"),
        ({"offset": 2}, b"good", "'config.json': 4 bytes at 2 are not awaited"),
        ({"name": "secret.txt"}, b"good", "'secret.txt': 4 bytes at 0 are not awaited"),
        ({"transfer": 5}, b"good", "transfer 5 is over, or never was"),
        ({}, None, "is over, or never was"),
    ],
    ids=["right", "damaged", "too long", "elsewhere", "another", "no transfer", "no bytes"],
)
@on_virtual_time
async def test_a_piece_is_taken_if_it_is_awaited_and_whole(
    world: World, tmp_path: Path, changes: dict[str, Any], data: bytes | None, why: str | None
) -> None:
    holder, _, asked = await receiving(world, tmp_path)
    usual: dict[str, Any] = {"transfer": asked.transfer, "name": "config.json", "offset": 0}
    piece = WriteWeights(**({**usual, "checksum": checksum([data or b""])} | changes))
    buffers = () if data is None else (data,)
    answer = await holder.context.ask(asked.target, piece, buffers=buffers, timeout_s=9)
    assert isinstance(answer, WeightsWritten)
    assert answer.failure is None if why is None else str(answer.failure).endswith(why)


@on_virtual_time
async def test_a_piece_that_comes_when_its_transfer_is_over_is_refused(
    world: World, tmp_path: Path
) -> None:
    holder, node, asked = await receiving(world, tmp_path)
    holder.postponed[SendWeights][0].reply(WeightsSent(num_bytes=0, failure="no more"))
    await settle()
    piece = WriteWeights(
        transfer=asked.transfer, name="config.json", offset=0, checksum=checksum([b"good"])
    )
    answer = await holder.context.ask(asked.target, piece, buffers=(b"good",), timeout_s=9)
    assert answer == WeightsWritten(failure=f"transfer {asked.transfer} is over, or never was")
    assert_nothing_is_under_way(node)


@on_virtual_time
async def test_a_holder_that_falls_silent_is_given_up_by_its_deadline(
    world: World, tmp_path: Path
) -> None:
    _, node, asked = await receiving(world, tmp_path)
    await settle(asked.deadline_s + 6)
    assert_nothing_is_under_way(node)


# --- giving


def sending(
    tmp_path: Path, target: Ref, pieces: Sequence[WeightPiece], **other: Any
) -> SendWeights:
    fields: dict[str, Any] = {
        "model": "m",
        "model_hash": content_hash(tmp_path),
        "verify": "sample",
        "transfer": 1,
        "max_bytes_per_s": FAST,
        "deadline_s": PATIENCE_S,
    }
    return SendWeights(target=target, pieces=tuple(pieces), **{**fields, **other})


def cut(num_pieces: int, num_bytes: int = 1000) -> list[WeightPiece]:
    return [
        WeightPiece(name=LARGE, offset=number * num_bytes, num_bytes=num_bytes)
        for number in range(num_pieces)
    ]


@on_virtual_time
async def test_only_a_few_pieces_are_under_way_at_a_time(world: World, tmp_path: Path) -> None:
    holder, target = await node_in(world, "a", tmp_path, seed=0), await world.play("target")
    target.postponed[WriteWeights] = []
    postponed = target.postponed[WriteWeights]
    wanted = sending(tmp_path, target.ref, cut(9))
    await settle()
    task = target.context.start_task(target.context.ask(holder.ref, wanted, timeout_s=PATIENCE_S))
    for done in range(9):
        await settle()
        assert len(postponed) == min(9, done + MAX_PIECES_UNDER_WAY)
        postponed[done].reply(WeightsWritten(failure=None))
    await settle()
    assert task.result() == WeightsSent(num_bytes=9000, failure=None)


@on_virtual_time
async def test_no_more_is_given_than_a_rate_allows_to_all_together(
    world: World, tmp_path: Path
) -> None:
    holder, target = await node_in(world, "a", tmp_path, seed=0), await world.play("target")
    target.answers[WriteWeights] = lambda _: WeightsWritten(failure=None)
    wanted = sending(tmp_path, target.ref, cut(10), max_bytes_per_s=1000.0)
    began = target.context.loop_time()
    async with asyncio.TaskGroup() as asking:
        for _ in range(2):
            asking.create_task(target.context.ask(holder.ref, wanted, timeout_s=PATIENCE_S))
    assert target.context.loop_time() - began == pytest.approx(20.0, abs=0.1)
    early = [at for at in target.heard_at if at - began < 10.0]
    assert len(early) <= 11


@pytest.mark.parametrize(
    ("piece", "why"),
    [
        (WeightPiece(name="secret.txt", offset=0, num_bytes=1), "no such tensor or file is here"),
        (WeightPiece(name="../model/secret.txt", offset=0, num_bytes=1), "no such tensor or file"),
        (WeightPiece(name=LARGE, offset=LARGE_BYTES, num_bytes=1), f"has {LARGE_BYTES} bytes"),
    ],
)
@on_virtual_time
async def test_what_there_is_not_is_not_given(
    world: World, tmp_path: Path, piece: WeightPiece, why: str
) -> None:
    holder, target = await node_in(world, "a", tmp_path, seed=0), await world.play("target")
    answer = await target.context.ask(
        holder.ref, sending(tmp_path, target.ref, [piece]), timeout_s=PATIENCE_S
    )
    assert isinstance(answer, WeightsSent)
    assert why in str(answer.failure)
    assert target.all_of(WriteWeights) == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (WeightsWritten(failure="so it is"), ": so it is"),
        (Cancel(request="r"), ": its answer was another"),
    ],
)
@on_virtual_time
async def test_a_target_that_does_not_take_a_piece_ends_the_transfer(
    world: World, tmp_path: Path, answer: WeightsWritten, why: str
) -> None:
    holder, target = await node_in(world, "a", tmp_path, seed=0), await world.play("target")
    target.answers[WriteWeights] = lambda _: answer
    sent = await target.context.ask(
        holder.ref, sending(tmp_path, target.ref, cut(9)), timeout_s=PATIENCE_S
    )
    assert isinstance(sent, WeightsSent)
    assert str(sent.failure).endswith(why)
    assert len(target.all_of(WriteWeights)) <= MAX_PIECES_UNDER_WAY


@pytest.mark.parametrize(
    ("deadline_s", "why"),
    [(5.0, "not done within 5 s"), (2 * PIECE_TIMEOUT_S, f"{LARGE} did not reach ")],
)
@on_virtual_time
async def test_a_target_that_never_answers_is_given_up(
    world: World, tmp_path: Path, deadline_s: float, why: str
) -> None:
    holder, target = await node_in(world, "a", tmp_path, seed=0), await world.play("target")
    target.postponed[WriteWeights] = []
    wanted = sending(tmp_path, target.ref, cut(1), deadline_s=deadline_s)
    sent = await target.context.ask(holder.ref, wanted, timeout_s=PATIENCE_S)
    assert isinstance(sent, WeightsSent)
    assert str(sent.failure).startswith(why)


@on_virtual_time
async def test_a_checkpoint_that_changes_is_given_no_more_and_checked_anew_after_its_lease(
    world: World, tmp_path: Path
) -> None:
    holder, target = await node_in(world, "a", tmp_path, seed=0), await world.play("target")
    target.answers[WriteWeights] = lambda _: WeightsWritten(failure=None)
    wanted = sending(tmp_path, target.ref, cut(1))

    async def sent() -> str | None:
        answer = await target.context.ask(holder.ref, wanted, timeout_s=PATIENCE_S)
        assert isinstance(answer, WeightsSent)
        return answer.failure

    assert await sent() is None
    os.utime(holder.model / "model.safetensors", ns=(1, 1))
    assert "changed since it was checked" in str(await sent())
    assert holder.actor.serving.num_sources == 1
    await settle(LEASE_S + 1)
    assert holder.actor.serving.num_sources == 0
    assert await sent() is None
    await settle(LEASE_S / 2)
    assert await sent() is None
    await settle(LEASE_S / 2 + 1)
    assert holder.actor.serving.num_sources == 1
    await settle(LEASE_S)
    assert holder.actor.serving.num_sources == 0


@on_virtual_time
async def test_only_some_checkpoints_are_kept_open(world: World, tmp_path: Path) -> None:
    holder, asker = await node_in(world, "a", tmp_path), await world.play("asker")
    for number in range(MAX_SOURCES + 2):
        node_model = holder.directory / f"m{number}"
        shutil.copytree(tmp_path / "seed-0", node_model) if number else write_checkpoint(
            tmp_path / "seed-0"
        )
    for number in range(1, MAX_SOURCES + 2):
        holder.model = holder.directory / f"m{number}"
        question = FindWeights(
            model=f"m{number}", model_hash=content_hash(tmp_path), verify="sample"
        )
        answer = await asker.context.ask(holder.ref, question, timeout_s=PATIENCE_S)
        assert isinstance(answer, WeightsFound)
        assert answer.failure is None
    assert holder.actor.serving.num_sources == MAX_SOURCES


@on_virtual_time
async def test_a_message_that_is_for_somebody_else_harms_nobody(
    world: World, tmp_path: Path
) -> None:
    holder, asker = await node_in(world, "a", tmp_path, seed=0), await world.play("asker")
    asker.tell(holder.ref, Cancel(request="r"))
    question = FindWeights(model="m", model_hash=content_hash(tmp_path), verify="sample")
    answer = await asker.context.ask(holder.ref, question, timeout_s=PATIENCE_S)
    assert isinstance(answer, WeightsFound)
    assert answer.failure is None


def test_whom_to_ask_for_weights_follows_from_a_workers_address() -> None:
    worker = Ref(address="tcp://a", incarnation=7, name="stage", generation=3)
    assert weights_of(worker) == Ref(address="tcp://a", incarnation=7, name="weights")
