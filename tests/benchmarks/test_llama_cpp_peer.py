"""The library is never installed here, so what it is asked to do is checked against a stand-in."""

import ctypes
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import llama_cpp_peer

VOCAB = 50


class _Library:
    """Draws (token + 1) of the last token it was shown at each place, and notes all places."""

    def __init__(self, code: int = 0) -> None:
        self._code = code
        self.decoded: list[list[tuple[int, int, int]]] = []
        self.freed = 0

    def llama_backend_init(self) -> None: ...

    def llama_model_default_params(self) -> SimpleNamespace:
        return SimpleNamespace()

    llama_context_default_params = llama_model_default_params

    def llama_model_load_from_file(self, path: bytes, params: object) -> object:
        return None if path == b"missing" else object()

    def llama_model_get_vocab(self, model: object) -> object:
        return model

    def llama_vocab_n_tokens(self, vocab: object) -> int:
        return VOCAB

    def llama_init_from_model(self, model: object, params: SimpleNamespace) -> SimpleNamespace:
        assert params.n_ctx % params.n_seq_max == 0
        return params

    def llama_batch_init(self, size: int, embd: int, num_sequences: int) -> SimpleNamespace:
        rows = {name: [0] * size for name in ("token", "pos", "n_seq_id", "logits")}
        return SimpleNamespace(n_tokens=0, seq_id=[[0] for _ in range(size)], **rows)

    def llama_decode(self, context: object, batch: Any) -> int:
        self._batch = batch
        rows = range(batch.n_tokens)
        self.decoded.append([(batch.token[i], batch.pos[i], batch.seq_id[i][0]) for i in rows])
        return self._code

    def llama_get_logits_ith(self, context: object, row: int) -> Any:
        assert self._batch.logits[row]
        self._logits = (ctypes.c_float * VOCAB)()
        self._logits[self._batch.token[row] + 1] = 1.0
        return ctypes.cast(self._logits, ctypes.POINTER(ctypes.c_float))

    def llama_batch_free(self, batch: object) -> None:
        self.freed += 1

    def llama_free(self, context: object) -> None:
        self.freed += 1


def _install(monkeypatch: pytest.MonkeyPatch, library: _Library) -> _Library:
    monkeypatch.setitem(sys.modules, "llama_cpp", library)
    return library


def test_all_sequences_go_on_together_each_at_its_own_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = _install(monkeypatch, _Library())
    run = llama_cpp_peer.load("model", 2)
    assert run([[3, 4], [7, 8]], 3) == 6
    assert library.decoded == [
        [(3, 0, 0), (4, 1, 0)],
        [(7, 0, 1), (8, 1, 1)],
        [(5, 2, 0), (9, 2, 1)],
        [(6, 3, 0), (10, 3, 1)],
    ]
    assert library.freed == 2


def test_a_long_prompt_goes_in_parts_and_draws_from_the_last_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = _install(monkeypatch, _Library())
    prompt = [position % 40 for position in range(llama_cpp_peer.PREFILL_TOKENS + 2)]
    assert llama_cpp_peer.load("model", 2)([prompt], 2) == 2
    assert list(map(len, library.decoded)) == [llama_cpp_peer.PREFILL_TOKENS, 2, 1]
    assert library.decoded[-1] == [(prompt[-1] + 1, len(prompt), 0)]


def test_a_failure_of_the_library_ends_the_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, _Library(code=1))
    with pytest.raises(SystemExit, match="cannot load missing"):
        llama_cpp_peer.load("missing", 2)
    with pytest.raises(SystemExit, match="failed with 1"):
        llama_cpp_peer.load("model", 2)([[3]], 2)
