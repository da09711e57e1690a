"""The demo model behind a gateway, in one process: a real batcher over real shards, no actors.

Every batch crosses to its stages as bytes, so a stage knows of a request what is in its step.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from actors.request_moves import generate_of, sequence_of
from actors.step_batch import forward_batch
from models.demo import demo_path
from models.forward_batch import ForwardBatch
from models.grammar import GrammarMasks
from models.shard import TorchShard, load_shard
from models.token_logprobs import unpack_logprobs
from models.tokenizer import Tokenizer
from runtime.gateway.backend import GenerationError, GenerationRequest, TokenBatch
from runtime.gateway.generation import ModelFacts
from runtime.router_backend import _generate
from scheduling.batcher import Batcher, BatcherSettings
from scheduling.blocks import BlockPool
from tests.runtime.gateway.scripted import Client, gateway

NUM_LAYERS, VOCAB, EOS = 12, 2048, 2
NUM_BLOCKS, BLOCK_TOKENS = 256, 16
PATIENCE_S = 110.0
MODEL = ModelFacts(name="horse", max_len=1024, eos_token_ids=(EOS,))


def load_stages(num_stages: int) -> list[TorchShard]:
    torch.set_num_threads(1)  # threads that wait for one another are slow where cores are shared
    cuts = [round(NUM_LAYERS * i / num_stages) for i in range(num_stages + 1)]
    return [
        load_shard(demo_path(), start, end, num_blocks=NUM_BLOCKS, block_tokens=BLOCK_TOKENS)
        for start, end in pairwise(cuts)
    ]


class DemoBackend:
    """Steps whenever somebody waits for a token; all requests share its batches.

    After `change_after` steps its stages are replaced by `changed`, as after the loss of them all.
    """

    def __init__(
        self,
        stages: list[TorchShard],
        *,
        max_step_tokens: int = 64,
        change_after: int = 10**9,
        prefix_sharing: bool = False,
    ) -> None:
        self.stages, self.changed = stages, stages
        self.change_after = change_after
        self.num_steps = self.num_mixed_steps = 0
        num_stages = len(stages)
        settings = BatcherSettings(
            max_running=32,
            max_waiting=128,
            max_step_tokens=max_step_tokens,
            max_in_flight=num_stages,
            num_stages=1,
            max_model_tokens=MODEL.max_len,
            prefix_sharing=prefix_sharing,
        )
        self._batcher = Batcher(settings, BlockPool(NUM_BLOCKS, BLOCK_TOKENS))
        self._ready: dict[str, list[TokenBatch | GenerationError]] = {}

    def submit(self, request: GenerationRequest) -> "DemoStream":
        sequence = sequence_of(_generate(request))
        assert sequence_of(generate_of(sequence)).sampling == sequence.sampling
        self._batcher.add(sequence)
        self._ready[request.request_id] = []
        return DemoStream(self, request.request_id)

    def not_ready_reason(self) -> str | None:
        return None

    def plan(self) -> dict[str, Any]:
        return {}

    async def status(self) -> dict[str, Any]:
        return {}

    def cancel(self, request_id: str) -> None:
        self._batcher.cancel(request_id)

    def step(self) -> None:
        self.num_steps += 1
        if self.num_steps == self.change_after:
            for sequence in self._batcher.running:
                self._batcher.preempt(sequence.request_id)
            self.stages = self.changed
        step = self._batcher.next_step()
        assert step is not None
        packed = forward_batch(step.slots).pack()
        self.num_mixed_steps += len({bool(s.sequence.sampling.extras) for s in step.slots}) == 2
        hidden = None
        for stage in self.stages:
            result = stage.forward(ForwardBatch.unpack(packed), hidden)
            hidden = result.hidden
        assert result.token_ids is not None
        tokens = result.token_ids.astype(np.int32).tolist()
        for output in self._batcher.complete(step.number, tokens, dict(result.logprobs)):
            entries = tuple(unpack_logprobs(output.details))
            ready = self._ready[output.request_id]
            if output.finish_reason == "failed":
                ready.append(GenerationError("no token may follow", kind="no_token"))
            else:
                reason = output.finish_reason
                cached = output.num_cached
                told = TokenBatch(output.token_ids, reason, logprobs=entries, num_cached=cached)
                ready.append(told)

    def take(self, request_id: str) -> TokenBatch:
        ready = self._ready[request_id]
        while not ready:
            self.step()
        found = ready.pop(0)
        if isinstance(found, GenerationError):
            raise found
        return found


class DemoStream:
    def __init__(self, backend: DemoBackend, request_id: str) -> None:
        self._backend, self._request_id = backend, request_id

    def __aiter__(self) -> "DemoStream":
        return self

    async def __anext__(self) -> TokenBatch:
        await asyncio.sleep(0)  # others have a turn, as if tokens came over a wire
        return self._backend.take(self._request_id)

    async def aclose(self) -> None:
        self._backend.cancel(self._request_id)


@asynccontextmanager
async def demo_gateway(backend: DemoBackend) -> AsyncIterator[Client]:
    grammars = GrammarMasks(demo_path() / "tokenizer.json", VOCAB, [EOS])
    tokenizer = Tokenizer.from_directory(demo_path())
    async with gateway(
        backend, tokenizer=tokenizer, model=MODEL, grammars=grammars, patience_s=PATIENCE_S
    ) as client:
        yield client
