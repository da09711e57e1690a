"""What a structured answer costs a token, beside the forward pass that makes it.

`python -m benchmarks.grammar` draws JSON by many random schemas from the built-in demo model, in
batches, and prints the time to work out which tokens may follow beside the forward pass of the
same steps. Every answer that ends is held against its schema, and schemas without a grammar must be
refused. The times are of one process on a machine as it is: only their ratio means much.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median

import jsonschema
import numpy as np
import numpy.typing as npt
import torch

from actors.step_batch import forward_batch
from benchmarks.schemas import REFUSED, Schema, random_schema
from models.demo import demo_path
from models.grammar import GrammarMasks, json_grammar
from models.sampling_extras import SamplingExtras
from models.shard import TorchShard, load_shard
from models.tokenizer import Tokenizer
from scheduling.batcher import Batcher, BatcherSettings
from scheduling.blocks import BlockPool
from scheduling.sequence import SamplingParameters
from scheduling.sequence import Sequence as TokenSequence

NUM_LAYERS, VOCAB, EOS, MAX_LEN = 12, 2048, 2, 1024
NUM_BLOCKS, BLOCK_TOKENS = 4096, 16
PROMPT = "Describe it."


class TimedMasks(GrammarMasks):
    """Masks that say how long each took, in seconds."""

    def __init__(self) -> None:
        super().__init__(demo_path() / "tokenizer.json", VOCAB, [EOS])
        self.seconds: list[float] = []

    def allowed(
        self, grammar: str, seed: int, output_ids: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.bool_]:
        """As the masks themselves."""
        began = time.perf_counter()
        mask = super().allowed(grammar, seed, output_ids)
        self.seconds.append(time.perf_counter() - began)
        return mask


@dataclass(slots=True)
class Measured:
    """What a run gave; times in seconds."""

    step_s: list[float] = field(default_factory=list)
    mask_s: list[float] = field(default_factory=list)
    compile_s: list[float] = field(default_factory=list)
    num_ended: int = 0
    num_cut: int = 0
    num_wrong: int = 0

    @property
    def share(self) -> float:
        """Of the time of all steps, how much went into masks."""
        return sum(self.mask_s) / sum(self.step_s)

    def lines(self) -> Iterator[str]:
        """The report."""
        forward_s = sum(self.step_s) - sum(self.mask_s)
        per_token = forward_s / len(self.mask_s)
        yield f"answers: {self.num_ended} ended, {self.num_cut} cut off, {self.num_wrong} wrong"
        yield f"grammar made and checked: median {median(self.compile_s) * 1e3:.2f} ms, " + (
            f"largest {max(self.compile_s) * 1e3:.1f} ms"
        )
        yield f"mask of a token: median {median(self.mask_s) * 1e6:.0f} us, " + (
            f"99th percentile {float(np.quantile(self.mask_s, 0.99)) * 1e6:.0f} us"
        )
        yield f"forward pass of a token in its batch: {per_token * 1e6:.0f} us"
        yield f"masks are {self.share:.1%} of a step"


def measure(schemas: Iterable[Schema], batch_size: int, max_tokens: int, seed: int) -> Measured:
    """Draw an answer for every schema, so many at a time."""
    torch.set_num_threads(1)
    shard = load_shard(demo_path(), 0, NUM_LAYERS, num_blocks=NUM_BLOCKS, block_tokens=BLOCK_TOKENS)
    masks = shard.grammars = TimedMasks()
    masks.prepare()
    tokenizer, measured = Tokenizer.from_directory(demo_path()), Measured()
    pending = list(schemas)
    while pending:
        part, pending = pending[:batch_size], pending[batch_size:]
        texts = _answers(shard, tokenizer, part, max_tokens, seed, measured)
        for schema, text in zip(part, texts, strict=True):
            _check(schema, text, measured)
    measured.mask_s = masks.seconds
    return measured


def _answers(
    shard: TorchShard,
    tokenizer: Tokenizer,
    schemas: list[Schema],
    max_tokens: int,
    seed: int,
    measured: Measured,
) -> list[str | None]:
    """The text of every answer that ended; None for what was cut off."""
    settings = BatcherSettings(
        max_running=len(schemas),
        max_waiting=0,
        max_step_tokens=512,
        max_in_flight=1,
        num_stages=1,
        max_model_tokens=MAX_LEN,
    )
    batcher = Batcher(settings, BlockPool(NUM_BLOCKS, BLOCK_TOKENS))
    prompt = tokenizer.encode(PROMPT)
    for number, schema in enumerate(schemas):
        grammar = _grammar(shard.grammars, schema, measured)
        extras = SamplingExtras(grammar=grammar).pack()
        batcher.add(
            TokenSequence(
                request_id=str(number),
                token_ids=list(prompt),
                max_tokens=max_tokens,
                stop_token_ids=frozenset({EOS}),
                sampling=SamplingParameters(seed=seed + number, extras=extras),
            )
        )
    written: dict[str, list[int]] = {str(number): [] for number in range(len(schemas))}
    reasons: dict[str, str | None] = {}
    while len(reasons) < len(schemas):
        step = batcher.next_step()
        assert step is not None
        began = time.perf_counter()
        result = shard.forward(forward_batch(step.slots), None)
        measured.step_s.append(time.perf_counter() - began)
        assert result.token_ids is not None
        tokens = result.token_ids.astype(np.int32).tolist()
        for output in batcher.complete(step.number, tokens, dict(result.logprobs)):
            written[output.request_id] += output.token_ids
            if output.finish_reason is not None:
                reasons[output.request_id] = output.finish_reason
    return [
        tokenizer.decode(written[name]) if reasons[name] == "stop" else None for name in written
    ]


def _grammar(masks: GrammarMasks, schema: Schema, measured: Measured) -> str:
    began = time.perf_counter()
    grammar = json_grammar(schema)
    reason = masks.refusal(grammar)
    measured.compile_s.append(time.perf_counter() - began)
    if reason is not None:
        raise SystemExit(f"a schema was refused that has a grammar: {reason}: {schema}")
    return grammar


def _check(schema: Schema, text: str | None, measured: Measured) -> None:
    if text is None:
        measured.num_cut += 1
        return
    checker = jsonschema.FormatChecker()
    validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
    measured.num_ended += 1
    measured.num_wrong += not validator.is_valid(json.loads(text))


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print; 1 where an answer is not of its schema, or nonsense was taken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grammar", description=__doc__)
    parser.add_argument("--schemas", type=int, default=200, help="how many (default 200)")
    parser.add_argument("--batch", type=int, default=16, help="answers at a time (default 16)")
    parser.add_argument("--tokens", type=int, default=400, help="of an answer at most")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)
    schemas = [random_schema(rng) for _ in range(options.schemas)]
    measured = measure(schemas, options.batch, options.tokens, options.seed)
    masks = GrammarMasks(demo_path() / "tokenizer.json", VOCAB, [EOS])
    taken = [words for words, schema in REFUSED if masks.refusal(json_grammar(schema)) is None]
    print("\n".join(measured.lines()))
    print(f"refused: {len(REFUSED) - len(taken)} of {len(REFUSED)} that have no grammar")
    return 1 if measured.num_wrong or taken else 0


if __name__ == "__main__":
    sys.exit(main())
