"""Which tokens a grammar allows next, by llguidance.

The one idea: what a grammar allows is a function of the grammar and the tokens so far. What is kept
between two steps only saves the time to work it out again: a parser is found by the very tokens
that it has read, and where none is, a new one reads them all. It needs no torch; the process that
checks grammars and the one that draws by them use the same code and the same limits.
"""

import json
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import llguidance
import numpy as np
import numpy.typing as npt

MAX_GRAMMAR_BYTES = 1 << 16
MAX_PARSERS = 1024
MAX_COMPILED = 64
# By these no grammar keeps a step for long, whatever it says: the library's own defaults, written
# down so that another release cannot change which requests are taken.
LIMITS = llguidance.LLParserLimits(
    max_items_in_row=2000,
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=250_000,
    max_grammar_size=500_000,
)
# Room for a space or line after a separator, as people and models write JSON, and never more: a
# small model would go on with white space for ever.
_JSON_OPTIONS: Any = {"whitespace_pattern": r"[ \n]{0,1}"}


def json_grammar(schema: Any) -> str:
    """The grammar of JSON texts that a schema describes; raises `ValueError` for what is none."""
    if not isinstance(schema, dict):
        raise ValueError(f"expected a schema that is an object, got {type(schema).__name__}")
    return llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), _JSON_OPTIONS)


def regex_grammar(pattern: str) -> str:
    """The grammar of texts that a regular expression matches as a whole."""
    return llguidance.LLMatcher.grammar_from_regex(pattern)


def lark_grammar(source: str) -> str:
    """The grammar that a text in llguidance's dialect of Lark describes."""
    return llguidance.LLMatcher.grammar_from_lark(source)


def choice_grammar(choices: Sequence[str]) -> str:
    """The grammar of exactly these texts."""
    quoted = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
    return llguidance.LLMatcher.grammar_from_lark(f"start: {quoted}")


def tagged_json_grammar(schema: Any, opening: str, closing: str) -> str:
    """Any text, in which what stands between two marks is JSON that a schema describes.

    The opening mark ends the free text as soon as it is whole, so that there is no way round the
    schema behind it; raises `ValueError` for what is no schema.

    Source: llguidance, docs/syntax.md, "Lazy lexemes" and "Tool calling".
    """
    if not isinstance(schema, dict):
        raise ValueError(f"expected a schema that is an object, got {type(schema).__name__}")
    body = json.dumps(schema | {"x-guidance": _JSON_OPTIONS})
    return llguidance.LLMatcher.grammar_from_lark(
        "%llguidance {}\n"
        "start: call* TEXT\n"
        "TEXT: /(.|\\n)*/\n"
        f"opening[lazy]: TEXT {json.dumps(opening)}\n"
        f'call: opening "\\n"? body "\\n"? {json.dumps(closing)}\n'
        f"body: %json {body}\n"
    )


class GrammarMasks:
    """The grammars of one model's requests; of one thread at a time."""

    def __init__(self, tokenizer_file: Path, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self._file, self._vocab_size = tokenizer_file, vocab_size
        self._eos = tuple(eos_token_ids)
        self._compiled: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()
        self._parsers: OrderedDict[tuple[str, int, bytes], llguidance.LLMatcher] = OrderedDict()

    def prepare(self) -> str | None:
        """Read the vocabulary, which takes seconds if it is large; why it cannot be, or None."""
        try:
            _ = self._tokenizer
        except (OSError, ValueError) as error:
            return f"the model's vocabulary cannot be used with grammars: {str(error)[:200]}"
        return None

    def refusal(self, grammar: str) -> str | None:
        """Why a grammar cannot be used; None if it can."""
        if len(grammar.encode()) > MAX_GRAMMAR_BYTES:
            return f"it is over {MAX_GRAMMAR_BYTES} bytes"
        if (reason := self.prepare()) is not None:
            return reason
        parser = self._begin(grammar)
        parser.compute_bitmask()
        return _error(parser)

    def allowed(
        self, grammar: str, seed: int, output_ids: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.bool_]:
        """Which tokens may follow: [V]; none may if the tokens so far do not fit the grammar.

        Args:
            grammar: what `json_grammar` and its like gave.
            seed: the request's, by which requests with the same beginning keep apart.
            output_ids: all tokens generated so far.
        """
        parser = self._parser(grammar, seed, output_ids)
        bits = np.frombuffer(parser.compute_bitmask(), np.uint8)
        mask = np.unpackbits(bits, bitorder="little")[: self._vocab_size].astype(np.bool_)
        if parser.is_error():
            mask[:] = False
        return mask

    def _parser(
        self, grammar: str, seed: int, output_ids: npt.NDArray[np.int32]
    ) -> llguidance.LLMatcher:
        """A parser that has read these tokens."""
        read = output_ids.tobytes()
        parser = self._parsers.pop((grammar, seed, read), None)
        if parser is None and read:
            parser = self._parsers.pop((grammar, seed, read[:-4]), None)
            if parser is not None:
                parser.consume_token(int(output_ids[-1]))
        if parser is None:
            parser = self._begin(grammar)
            parser.consume_tokens(output_ids.tolist())
        self._parsers[grammar, seed, read] = parser
        if len(self._parsers) > MAX_PARSERS:
            self._parsers.popitem(last=False)
        return parser

    def _begin(self, grammar: str) -> llguidance.LLMatcher:
        compiled = self._compiled.pop(grammar, None)
        if compiled is None:
            compiled = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0, limits=LIMITS)
        self._compiled[grammar] = compiled
        if len(self._compiled) > MAX_COMPILED:
            self._compiled.popitem(last=False)
        return compiled.deep_copy()

    @property
    def _tokenizer(self) -> llguidance.LLTokenizer:
        return _read_vocabulary(self._file, self._vocab_size, self._eos)


@lru_cache(maxsize=4)
def _read_vocabulary(
    file: Path, vocab_size: int, eos_token_ids: tuple[int, ...]
) -> llguidance.LLTokenizer:
    """One for all shards of a process; it never changes, and threads may share it."""
    text = file.read_text(encoding="utf-8")
    eos = list(eos_token_ids) or None
    return llguidance.LLTokenizer(text, n_vocab=vocab_size, eos_token=eos)


def _error(parser: llguidance.LLMatcher) -> str | None:
    """The first line of what is wrong with a grammar."""
    if not parser.is_error():
        return None
    return " ".join(parser.get_error().split())[:300]
