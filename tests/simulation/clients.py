"""What clients of a simulated service do, and whether what they get is what they may get."""

import asyncio
import random
from dataclasses import dataclass

from actors.messages import Generate
from actors.router import NoPipeline, QueueIsFull, RouterActor, StreamFailed
from actors.stream import Note, Stream
from models.emulated import expected_tokens
from tests.actors.emulated_pipeline import NUM_LAYERS, VOCAB, request
from tests.simulation.schedules import Ask
from tests.simulation.world import World

ASK_AGAIN_S = 0.2
"""A client that is refused asks again after this, as one that gets a 503 does."""
PATIENCE_S = 600.0
RIGHT = "right"


@dataclass(frozen=True, slots=True)
class End:
    """How a request ended: `right`, the kind of its error, or what was wrong with its tokens."""

    request: str
    how: str
    reason: str
    at_s: float

    @property
    def is_wrong(self) -> bool:
        """Whether it had tokens that are not its own, or no end."""
        return self.how in ("wrong", "unheard")


def generate_of(ask: Ask) -> Generate:
    """The request that a schedule asks for; its prompt comes from its family and its seed."""
    common, own = random.Random(ask.family), random.Random(ask.seed)
    num_common = min(ask.num_common, ask.num_prompt)
    prompt = [common.randrange(VOCAB) for _ in range(num_common)]
    prompt += [own.randrange(VOCAB) for _ in range(ask.num_prompt - num_common)]
    return request(ask.name, prompt, ask.num_output, temperature=ask.temperature, seed=ask.seed)


async def ask_for(world: World, ask: Ask) -> End:
    """One request from beginning to end."""
    generate = generate_of(ask)
    expected = expected_tokens(
        list(generate.token_ids),
        generate.max_tokens,
        NUM_LAYERS,
        vocab_size=VOCAB,
        temperature=generate.temperature,
        seed=generate.seed,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            router, stream = await _taken(world, generate)
            how, reason = await _read(router, stream, expected)
    except TimeoutError:
        how, reason = "unheard", f"no end came within {PATIENCE_S:g} s"
    return End(ask.name, how, reason, asyncio.get_running_loop().time())


async def _taken(world: World, generate: Generate) -> tuple[RouterActor, Stream]:
    """Ask until a gateway takes it."""
    while True:
        if hasattr(world, "router"):
            try:
                return world.router, world.router.open(generate)
            except (NoPipeline, QueueIsFull):
                pass
        await asyncio.sleep(ASK_AGAIN_S)


async def _read(router: RouterActor, stream: Stream, expected: list[int]) -> tuple[str, str]:
    tokens: list[int] = []
    while True:
        try:
            update = await router.next(stream, timeout_s=PATIENCE_S)
        except StreamFailed as error:
            is_whole = tokens == expected[: len(tokens)]
            return (error.failed.kind, error.failed.reason) if is_whole else _wrong(tokens)
        if isinstance(update, Note):
            continue
        if update.position != len(tokens):
            return "wrong", f"position {update.position} came behind {len(tokens)} tokens"
        tokens.extend(update.token_ids)
        if tokens != expected[: len(tokens)]:
            return _wrong(tokens)
        if update.finish_reason is not None:
            return (RIGHT, "") if tokens == expected else _wrong(tokens)


def _wrong(tokens: list[int]) -> tuple[str, str]:
    return "wrong", f"the first {len(tokens)} tokens are not those of the prompt, or not all"
