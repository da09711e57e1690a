"""Penalties, biases and bounds, each against its definition written out token by token."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.demo import demo_path
from models.grammar import GrammarMasks, choice_grammar, json_grammar, regex_grammar
from models.logits import next_tokens
from models.sampling import NO_TOKEN
from models.sampling_extras import RowExtras, SamplingExtras, pack_rows
from models.shaping import shape
from models.token_logprobs import unpack_logprobs
from models.tokenizer import Tokenizer
from tests.models.driving import make_batch

VOCAB = 2048
EOS = 2


def masks() -> GrammarMasks:
    return GrammarMasks(demo_path() / "tokenizer.json", VOCAB, [EOS])


def shaped(
    logits: torch.Tensor,
    extras: SamplingExtras,
    *,
    prompt: list[int] = [],  # noqa: B006 - never changed
    output: list[int] = [],  # noqa: B006
    **fields: Any,
) -> torch.Tensor:
    batch = make_batch([[0]], [5], [[0]], **fields)
    row = RowExtras(
        row=0,
        parameters=extras.pack(),
        prompt_ids=np.unique(np.asarray(prompt, np.int32)),
        output_ids=np.asarray(output, np.int32),
    )
    result = logits.clone()[None]
    shape(result, [(0, row)], batch, masks())
    return result[0]


def test_presence_and_frequency_count_what_was_generated() -> None:
    logits = torch.zeros(10)
    extras = SamplingExtras(presence_penalty=0.5, frequency_penalty=0.25)
    found = shaped(logits, extras, prompt=[9, 9], output=[3, 3, 3, 7])
    expected = torch.zeros(10)
    expected[3], expected[7] = -0.5 - 0.75, -0.5 - 0.25
    torch.testing.assert_close(found, expected)


def test_a_repetition_penalty_counts_the_prompt_too_and_always_makes_less_likely() -> None:
    logits = torch.tensor([2.0, -2.0, 2.0, -2.0, 1.0])
    found = shaped(logits, SamplingExtras(repetition_penalty=2.0), prompt=[0, 1], output=[2, 2])
    assert found.tolist() == [1.0, -4.0, 1.0, -2.0, 1.0]


def test_biases_are_added_and_tokens_that_the_model_has_not_are_left_out() -> None:
    extras = SamplingExtras(bias=((1, 3.0), (4, -100.0), (99, 1.0)))
    assert shaped(torch.ones(5), extras).tolist() == [1.0, 4.0, 1.0, 1.0, -99.0]


def test_allowed_tokens_are_all_that_is_left() -> None:
    found = shaped(torch.zeros(5), SamplingExtras(allowed_ids=(1, 4, 77)))
    assert torch.isfinite(found).tolist() == [False, True, False, False, True]


@pytest.mark.parametrize("is_early", [True, False])
def test_stop_tokens_are_forbidden_until_they_may_come(is_early: bool) -> None:
    extras = SamplingExtras(early_ids=(2, 3))
    found = shaped(torch.zeros(5), extras, suppress_eos=is_early)
    assert int(torch.isfinite(found).sum()) == (3 if is_early else 5)


def test_rows_beside_one_another_do_not_mix() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    wanted = [
        SamplingExtras(presence_penalty=1.0, repetition_penalty=1.3),
        SamplingExtras(frequency_penalty=-0.5, bias=((4, 2.0),)),
        SamplingExtras(allowed_ids=(1, 2, 3)),
    ]
    outputs = [[1, 2, 2], [4, 4], [5]]
    batch = make_batch([[0]] * 3, [5] * 3, [[0]] * 3)
    rows = [
        RowExtras(row=i, parameters=extras.pack(), output_ids=np.asarray(output, np.int32))
        for i, (extras, output) in enumerate(zip(wanted, outputs, strict=True))
    ]
    together = logits.clone()
    shape(together, list(enumerate(rows)), batch, masks())
    for i in range(3):
        alone = shaped(logits[i], wanted[i], output=outputs[i])
        torch.testing.assert_close(together[i], alone, rtol=0, atol=0)


# --- grammars


def walk(grammar: str, seed: int = 0, count: int = 60, *, found: GrammarMasks | None = None) -> str:
    """A text drawn at random by a grammar alone."""
    found = found or masks()
    rng, ids = np.random.default_rng(seed), np.zeros(0, np.int32)
    for _ in range(count):
        allowed = np.flatnonzero(found.allowed(grammar, seed, ids))
        token = int(rng.choice(allowed))
        if token == EOS:
            break
        ids = np.append(ids, np.int32(token))
    return Tokenizer.from_directory(demo_path()).decode(ids.tolist())


def test_a_grammar_of_choices_gives_one_of_them() -> None:
    choices = ["yes", "no", 'a "quoted" one']
    assert {walk(choice_grammar(choices), seed) for seed in range(20)} <= set(choices)


def test_a_regular_expression_is_matched_as_a_whole() -> None:
    assert all(len(walk(regex_grammar("[0-9]{4}"), seed)) == 4 for seed in range(5))


def test_a_parser_that_is_new_allows_what_one_that_read_along_does() -> None:
    grammar = json_grammar({"type": "object", "properties": {"a": {"type": "integer"}}})
    along, ids = masks(), np.zeros(0, np.int32)
    rng = np.random.default_rng(3)
    for _ in range(25):
        allowed = along.allowed(grammar, 1, ids)
        np.testing.assert_array_equal(allowed, masks().allowed(grammar, 1, ids))
        ids = np.append(ids, np.int32(rng.choice(np.flatnonzero(allowed))))
        if ids[-1] == EOS:
            break


def test_two_requests_of_one_grammar_keep_apart() -> None:
    grammar, found = regex_grammar("[ab]{3}"), masks()
    first = found.allowed(grammar, 1, np.zeros(0, np.int32))
    ids = np.flatnonzero(first)[:1].astype(np.int32)
    found.allowed(grammar, 1, ids)
    np.testing.assert_array_equal(found.allowed(grammar, 2, np.zeros(0, np.int32)), first)


def test_tokens_that_a_grammar_does_not_allow_leave_none() -> None:
    tokens = Tokenizer.from_directory(demo_path()).encode("zebra", add_special_tokens=False)
    assert not masks().allowed(choice_grammar(["yes"]), 0, np.asarray(tokens, np.int32)).any()


@pytest.mark.parametrize(
    "grammar",
    [
        regex_grammar("("),
        json_grammar({"type": "wibble"}),
        "start: nowhere",
        "{}",
        regex_grammar("a" * (1 << 17)),
    ],
)
def test_what_is_no_grammar_is_refused_in_few_words(grammar: str) -> None:
    reason = masks().refusal(grammar)
    assert reason
    assert len(reason) <= 300


PATHOLOGICAL = ["(a+)+b", "(a|aa)+$", "a{1,10000}", "(x+x+)+y", "([ab]{1,500}){1,500}", ".*" * 200]


@pytest.mark.parametrize("pattern", PATHOLOGICAL)
def test_an_unkind_pattern_is_refused_or_taken_and_never_runs_away(pattern: str) -> None:
    found = masks()
    if found.refusal(regex_grammar(pattern)) is None:
        assert found.allowed(regex_grammar(pattern), 0, np.zeros(0, np.int32)).any()


def test_a_vocabulary_that_cannot_be_read_refuses_grammars_in_words(tmp_path: Path) -> None:
    missing = GrammarMasks(tmp_path / "tokenizer.json", VOCAB, [EOS])
    assert "cannot be used" in (missing.refusal(regex_grammar("a")) or "")
    (tmp_path / "garbled.json").write_text("{}")
    garbled = GrammarMasks(tmp_path / "garbled.json", VOCAB, [EOS])
    assert "cannot be used" in (garbled.refusal(regex_grammar("a")) or "")


def test_what_is_kept_of_grammars_is_bounded() -> None:
    found = masks()
    for index in range(80):
        assert found.refusal(regex_grammar(f"a{{{index + 1}}}")) is None
        found.allowed(regex_grammar(f"a{{{index + 1}}}"), index, np.zeros(0, np.int32))
    assert len(found._compiled) <= 64


# --- the whole way from logits to tokens


def draw(
    logits: torch.Tensor, rows: list[RowExtras], **fields: Any
) -> tuple[list[int], dict[int, bytes]]:
    count = len(logits)
    batch = make_batch([[0]] * count, [5] * count, [[0]] * count, extras=pack_rows(rows), **fields)
    tokens, told = next_tokens(batch, lambda index: logits[index].clone(), [EOS], masks())
    return tokens.tolist(), dict(told)


def test_logprobs_are_those_of_the_model_before_any_shaping() -> None:
    logits = torch.randn(2, VOCAB, generator=torch.Generator().manual_seed(1))
    best = int(logits[1].argmax())
    extras = SamplingExtras(num_logprobs=3, bias=((7, 100.0),))
    tokens, told = draw(logits, [RowExtras(row=1, parameters=extras.pack())])
    assert tokens == [int(logits[0].argmax()), 7]
    (entry,) = unpack_logprobs(told[1])
    expected = logits[1].log_softmax(-1)
    assert (entry.position, entry.token_id) == (6, 7)
    assert entry.logprob == pytest.approx(float(expected[7]))
    assert entry.rank == int((logits[1] > logits[1][7]).sum()) + 1
    assert entry.top[0][0] == best
    assert entry.top[0][1] == pytest.approx(float(expected[best]))
    assert list(told) == [1]


def test_the_likeliest_token_has_exactly_the_likeliest_logprob() -> None:
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(2))
    _, told = draw(logits, [RowExtras(row=0, parameters=SamplingExtras(num_logprobs=1).pack())])
    (entry,) = unpack_logprobs(told[0])
    assert entry.logprob == entry.top[0][1]
    assert entry.rank == 1


def test_where_nothing_may_follow_there_is_no_token_and_neighbours_have_theirs() -> None:
    logits = torch.randn(2, VOCAB, generator=torch.Generator().manual_seed(3))
    extras = SamplingExtras(allowed_ids=(EOS,), early_ids=(EOS,), num_logprobs=0)
    row = RowExtras(row=0, parameters=extras.pack())
    tokens, told = draw(logits, [row], suppress_eos=[True, False])
    assert tokens == [NO_TOKEN, int(logits[1].argmax())]
    assert told == {}


def test_logprobs_of_a_prompt_are_of_the_tokens_after_each_place() -> None:
    logits = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(4))
    parameters = SamplingExtras(num_prompt_logprobs=2).pack()
    row = RowExtras(row=0, parameters=parameters, num_prompt_tokens=9, next_id=40)
    batch = make_batch([[10, 20, 30, 35]], [2], [[0]], samples=False, extras=pack_rows([row]))
    _, told = next_tokens(batch, lambda index: logits[index].clone(), [], masks())
    entries = unpack_logprobs(dict(told)[0])
    assert [(entry.position, entry.token_id) for entry in entries] == [
        (3, 20), (4, 30), (5, 35), (6, 40),
    ]  # fmt: skip
    for entry, likely in zip(entries, logits.log_softmax(-1), strict=True):
        assert entry.logprob == pytest.approx(float(likely[entry.token_id]))


def test_a_missing_tokenizer_is_no_matter_to_who_asks_for_no_grammar(tmp_path: Path) -> None:
    found = GrammarMasks(tmp_path / "tokenizer.json", VOCAB, [EOS])
    batch = make_batch([[0]], [5], [[0]])
    tokens, _ = next_tokens(batch, lambda index: torch.zeros(1, VOCAB), [EOS], found)
    assert tokens.tolist() == [0]
