"""llama.cpp as a peer: all sequences in one batch, through its low-level Python interface.

The binding's convenient interface runs one sequence at a time, which would be no fair measure.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

PREFILL_TOKENS = 512


def load(path: str, num_threads: int) -> Callable[[list[list[int]], int], int]:
    """Load a GGUF file; what comes back continues prompts greedily, all of them in one batch."""
    lib: Any = importlib.import_module("llama_cpp")
    lib.llama_backend_init()
    model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
    if not model:
        raise SystemExit(f"llama.cpp cannot load {path}")

    def run(prompts: list[list[int]], new: int) -> int:
        session = _Session(lib, model, prompts, new, num_threads)
        try:
            return session.generate(prompts, new)
        finally:
            session.close()

    return run


class _Session:
    """A context with room for one set of prompts and their answers."""

    def __init__(
        self, lib: Any, model: Any, prompts: Sequence[Sequence[int]], new: int, num_threads: int
    ) -> None:
        self._lib = lib
        self._vocab_size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
        per_sequence = -(-(max(map(len, prompts)) + new) // 256) * 256
        params = lib.llama_context_default_params()
        params.n_ctx = per_sequence * len(prompts)
        params.n_batch = params.n_ubatch = PREFILL_TOKENS
        params.n_seq_max = len(prompts)
        params.n_threads = params.n_threads_batch = num_threads
        self._context = lib.llama_init_from_model(model, params)
        self._batch = lib.llama_batch_init(PREFILL_TOKENS, 0, 1)

    def close(self) -> None:
        """Free what the context holds."""
        self._lib.llama_batch_free(self._batch)
        self._lib.llama_free(self._context)

    def generate(self, prompts: Sequence[Sequence[int]], new: int) -> int:
        """Prefill every prompt, then take one token of all sequences a step."""
        tokens = [self._prefill(index, prompt) for index, prompt in enumerate(prompts)]
        for step in range(1, new):
            places = [
                (token, len(prompts[i]) + step - 1, i, True) for i, token in enumerate(tokens)
            ]
            self._decode(places)
            tokens = [self._draw(i) for i in range(len(tokens))]
        return new * len(prompts)

    def _prefill(self, sequence: int, prompt: Sequence[int]) -> int:
        last = len(prompt) - 1
        places = [(token, at, sequence, at == last) for at, token in enumerate(prompt)]
        for begin in range(0, len(places), PREFILL_TOKENS):
            self._decode(places[begin : begin + PREFILL_TOKENS])
        return self._draw(last % PREFILL_TOKENS)

    def _decode(self, places: Sequence[tuple[int, int, int, bool]]) -> None:
        """Run (token, position, sequence, whether its logits are wanted) as one batch."""
        batch = self._batch
        batch.n_tokens = len(places)
        for row, (token, position, sequence, wanted) in enumerate(places):
            batch.token[row], batch.pos[row] = token, position
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence
            batch.logits[row] = wanted
        if code := self._lib.llama_decode(self._context, batch):
            raise SystemExit(f"llama_decode failed with {code}")

    def _draw(self, row: int) -> int:
        logits = self._lib.llama_get_logits_ith(self._context, row)
        return int(np.ctypeslib.as_array(logits, shape=(self._vocab_size,)).argmax())
