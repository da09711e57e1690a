"""A whole pipeline on virtual time: real pipeline and stage actors over emulated shards.

Every process is an actor system of its own, on a wire with seeded delays that a test can cut.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from actors.holding import LoadedShard, log_for
from actors.kernel.actor import Actor
from actors.kernel.ref import Ref
from actors.kernel.supervision import TEMPORARY, Down
from actors.kernel.system import ActorSystem
from actors.messages import (
    ALL_MESSAGES,
    AssignStage,
    Generate,
    LoadProgress,
    OpenPipeline,
    PipelineLost,
    RequestFailed,
    StageReady,
    StageSpec,
    Tokens,
)
from actors.pipeline import PipelineActor
from actors.stage import StageActor
from models.emulated import WORD_BYTES, EmulatedShard, expected_tokens
from models.errors import ModelError
from tests.actors.kernel.instant import InstantNetwork
from transport.codec import Codec, Message
from transport.frame import Buffer

_T = TypeVar("_T")
NUM_LAYERS = 6
VOCAB = 500


class EmulatedDevice:
    """A device whose work takes seeded time, one piece after another; it can hang."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._free_at = 0.0
        self.num_runs = 0
        self.num_loads = 0
        self.hangs = False

    def run(self, function: Callable[[], _T]) -> "asyncio.Future[_T]":
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_T] = loop.create_future()
        self._free_at = max(self._free_at, loop.time()) + self._rng.uniform(0.001, 0.02)
        loop.call_at(self._free_at, self._finish, function, done)
        return done

    run_beside = copy = run

    def load(
        self,
        assignment: AssignStage,
        held: LoadedShard | None,
        on_progress: Callable[[int, int], None],
    ) -> LoadedShard:
        self.num_loads += 1
        if assignment.model == "missing":
            raise ModelError("no such folder: missing")
        on_progress(50, 100)
        on_progress(100, 100)
        shard = EmulatedShard(
            assignment.start,
            assignment.end,
            NUM_LAYERS,
            num_blocks=assignment.num_blocks,
            block_tokens=assignment.block_tokens,
            vocab_size=VOCAB,
            held=None if held is None else held.shard,  # type: ignore[arg-type]
        )
        log = log_for(assignment, NUM_LAYERS, WORD_BYTES, held)
        return LoadedShard(shard, log, 100, shard.kv_bytes, 1000)

    def _finish(self, function: Callable[[], _T], done: "asyncio.Future[_T]") -> None:
        if self.hangs or done.cancelled():
            return
        self.num_runs += 1
        try:
            done.set_result(function())
        except ModelError as error:
            done.set_exception(error)


class Client(Actor):
    """Plays router and coordinator: keeps all it is told."""

    def __init__(self) -> None:
        self.tokens: dict[str, list[int]] = {}
        self.finished: dict[str, str] = {}
        self.failed: dict[str, list[RequestFailed]] = {}
        self.lost: list[PipelineLost] = []
        self.downs: list[Down] = []
        self.progress: list[LoadProgress] = []
        self.num_repeated = 0
        self.news = asyncio.Event()

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        match message:
            case Tokens():
                self._on_tokens(message)
            case RequestFailed():
                self.failed.setdefault(message.request, []).append(message)
            case PipelineLost():
                self.lost.append(message)
            case LoadProgress():
                self.progress.append(message)
            case Down():
                self.downs.append(message)
        self.news.set()
        return None

    def _on_tokens(self, message: Tokens) -> None:
        for update in message.updates:
            had = self.tokens.setdefault(update.request, [])
            assert update.position == len(had), "a hole or a repetition"
            had.extend(update.token_ids)
            if update.finish_reason is not None:
                assert update.request not in self.finished
                self.finished[update.request] = update.finish_reason

    @property
    def num_ended(self) -> int:
        return len(self.finished) + len(self.failed)

    async def until(self, condition: Callable[["Client"], bool]) -> None:
        """Wait until what came fulfils a condition."""
        async with asyncio.timeout(3600):
            while not condition(self):
                self.news.clear()
                await self.news.wait()


@dataclass
class World:
    """What a test holds of a pipeline."""

    network: InstantNetwork
    head: ActorSystem
    client: Client
    client_ref: Ref
    pipeline: Ref
    pipeline_actor: PipelineActor
    stages: list[StageActor]
    stage_refs: list[Ref]
    devices: list[EmulatedDevice]
    requests: dict[str, Generate] = field(default_factory=dict)

    def generate(self, request: Generate) -> None:
        """Send a request as the router would."""
        self.requests[request.request] = request
        self.head.tell(self.pipeline, request, sender=self.client_ref)

    def assert_right(self, request: str) -> None:
        """Every token is the one that an undisturbed model would have written."""
        asked = self.requests[request]
        assert self.client.tokens[request] == expected_tokens(
            list(asked.token_ids),
            asked.max_tokens,
            NUM_LAYERS,
            vocab_size=VOCAB,
            temperature=asked.temperature,
            seed=asked.seed,
        )


def request(name: str, prompt: Sequence[int], max_tokens: int, **other: object) -> Generate:
    """A greedy request, unless told otherwise."""
    fields: dict[str, object] = {
        "request": name,
        "token_ids": tuple(prompt),
        "max_tokens": max_tokens,
        "min_tokens": 0,
        "stop_token_ids": (),
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "seed": 0,
    } | other
    return Generate(**fields)  # type: ignore[arg-type]


def assignment(
    stage: int, layers: tuple[int, int], successor: Ref, home: Ref, epoch: int = 1
) -> AssignStage:
    """What the coordinator would send a worker."""
    return AssignStage(
        epoch=epoch,
        pipeline="p0",
        stage=stage,
        model="demo",
        model_hash="0",
        start=layers[0],
        end=layers[1],
        dtype="float32",
        wire_dtype="float32",
        num_blocks=16,
        block_tokens=4,
        successor=successor,
        home=home,
        observer=home,
        log_bytes=1 << 20,
    )


def spec_of(ref: Ref, wanted: AssignStage, ready: StageReady) -> StageSpec:
    """A stage that is ready, as its pipeline is told of it."""
    return StageSpec(
        ref=ref,
        start=wanted.start,
        end=wanted.end,
        kept_start=ready.kept_start,
        kept_end=ready.kept_end,
        num_logged_blocks=ready.num_logged_blocks,
        keeps_log=ready.keeps_log,
    )


SPLITS = {1: ((0, 6),), 2: ((0, 3), (3, 6)), 3: ((0, 1), (1, 5), (5, 6))}


@asynccontextmanager
async def opened(
    rng: random.Random,
    num_stages: int = 2,
    *,
    max_waiting: int = 64,
    prefix_sharing: bool = True,
) -> AsyncIterator[World]:
    """A pipeline whose stages are ready."""
    network = InstantNetwork()
    network.delay = lambda: rng.uniform(0.0001, 0.002)
    async with AsyncExitStack() as stack:

        async def system(name: str) -> ActorSystem:
            endpoint = network.open(name)
            stack.callback(network.lose, name)
            return await stack.enter_async_context(
                ActorSystem(endpoint, Codec(ALL_MESSAGES), rng=rng)
            )

        head = await system("head")
        client = Client()
        client_ref = head.spawn(client, name="client")
        devices = [EmulatedDevice(rng) for _ in range(num_stages)]
        stages = [StageActor(device) for device in devices]
        refs = [
            (await system(f"stage{i}")).spawn(stage, name="stage", supervision=TEMPORARY)
            for i, stage in enumerate(stages)
        ]
        pipeline = head.local_ref("pipeline")
        specs: list[StageSpec] = []
        for i, layers in enumerate(SPLITS[num_stages]):
            successor = refs[i + 1] if i + 1 < num_stages else pipeline
            wanted = assignment(i, layers, successor, pipeline)
            answer = await head.ask(refs[i], wanted, timeout_s=60)
            assert isinstance(answer, StageReady), answer
            specs.append(spec_of(refs[i], wanted, answer))
        opening = OpenPipeline(
            epoch=1,
            pipeline="p0",
            stages=tuple(specs),
            num_blocks=16,
            block_tokens=4,
            max_running=8,
            max_waiting=max_waiting,
            max_step_tokens=16,
            max_model_len=48,
            step_deadline_s=4.0,
            recovery_timeout_s=20.0,
            takes_over=False,
            prefix_sharing=prefix_sharing,
        )
        actor = PipelineActor(opening, client_ref)
        ref = head.spawn(actor, name="pipeline", supervision=TEMPORARY)
        yield World(network, head, client, client_ref, ref, actor, stages, refs, devices)
