"""Calls in the words of each family of models: however a text is cut, the same come out."""

import json
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.gateway.call_readers import READERS, CallReader, WholeReader, required_reader

Calls = list[tuple[str, str]]
ARGUMENTS = '{"city": "a {\\"b\\"} [c]", "n": [1, {"x": "}"}]}'
ONE = f'{{"name": "look", "arguments": {ARGUMENTS}}}'
OTHER = '{"name": "go", "parameters": {}}'
REVERSED = f'{{"arguments": {ARGUMENTS}, "name": "look"}}'
AS_TEXT = '{"name": "look", "arguments": "{\\"n\\": 1}"}'
WITHOUT = '{"name": "go"}'


def read(reader: CallReader, pieces: Sequence[str]) -> tuple[str, Calls]:
    content, calls = "", list[tuple[str, str]]()
    for found in [*map(reader.push, pieces), reader.flush()]:
        content += found.content
        for index, name, arguments in found.calls:
            if name is not None:
                assert index == len(calls)
                calls.append((name, ""))
            calls[index] = (calls[index][0], calls[index][1] + arguments)
    return content, calls


LOOK = ("look", ARGUMENTS)
GO = ("go", "{}")
CASES: list[tuple[str, str, str, Calls]] = [
    ("hermes", "plain text", "plain text", []),
    ("hermes", f"<tool_call>\n{ONE}\n</tool_call>", "", [LOOK]),
    (
        "hermes",
        f"so: <tool_call>{ONE}</tool_call><tool_call>{OTHER}</tool_call>",
        "so: ",
        [LOOK, GO],
    ),
    (
        "hermes",
        f"<tool_call>{REVERSED}</tool_call>",
        "",
        [("look", json.dumps(json.loads(ARGUMENTS)))],
    ),
    ("hermes", f"<tool_call>{AS_TEXT}</tool_call>", "", [("look", '{"n": 1}')]),
    ("hermes", f"<tool_call>{WITHOUT}</tool_call> bye", "", [GO]),
    ("hermes", "a <tool_call>no call</tool_call>", "a <tool_call>no call</tool_call>", []),
    ("hermes", '<tool_call>{"x": 1}</tool_call>', '<tool_call>{"x": 1}</tool_call>', []),
    ("hermes", "a < b <tool", "a < b <tool", []),
    ("hermes", '<tool_call>{"name": "look", "arguments": {"a', "", [("look", '{"a')]),
    ("hermes", '<tool_call>{"name": "lo', '<tool_call>{"name": "lo', []),
    ("llama3", f"  {ONE}", "", [LOOK]),
    ("llama3", f"{OTHER}; {ONE}", "", [GO, LOOK]),
    ("llama3", f"<|python_tag|>{OTHER}", "", [GO]),
    ("llama3", '{"answer": 42} is it', '{"answer": 42} is it', []),
    ("llama3", f"Sure: {OTHER}", f"Sure: {OTHER}", []),
    ("mistral", f"[TOOL_CALLS] [{ONE}, {OTHER}]", "", [LOOK, GO]),
    ("mistral", f"[TOOL_CALLS]look[ARGS]{ARGUMENTS}", "", [LOOK]),
    ("mistral", "[TOOL_CALLS]go{}[TOOL_CALLS]go[CALL_ID]ab12[ARGS]{}", "", [GO, GO]),
    ("mistral", "[TOO many]", "[TOO many]", []),
]


@pytest.mark.parametrize(("family", "text", "content", "calls"), CASES)
def test_a_text_is_content_and_calls_and_every_cut_of_it_the_same(
    family: str, text: str, content: str, calls: Calls
) -> None:
    make: Callable[[], CallReader] = READERS[family]  # type: ignore[index]
    assert read(make(), [text]) == (content, calls)
    assert read(make(), list(text)) == (content, calls)
    for at in range(len(text)):
        assert read(make(), [text[:at], text[at:]]) == (content, calls)


WORDS = st.sampled_from(
    [
        *(
            "<tool_call>",
            "</tool_call>",
            "[TOOL_CALLS]",
            "[ARGS]",
            "{",
            "}",
            '"name"',
            '"arguments"',
        ),
        *(":", ",", '"a"', "[", "]", " ", "x", "\\", '"', ONE, OTHER, "<|python_tag|>", ";"),
    ]
)


@given(st.sampled_from(sorted(READERS)), st.lists(WORDS, max_size=12).map("".join), st.data())
def test_any_text_in_any_cut_reads_the_same(family: str, text: str, data: st.DataObject) -> None:
    make: Callable[[], CallReader] = READERS[family]  # type: ignore[index]
    pieces, rest = [], text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        pieces.append(rest[:size])
        rest = rest[size:]
    assert read(make(), pieces) == read(make(), [text])


@given(st.text("abc<{[\"'", max_size=30))
def test_a_text_without_a_call_is_all_content(text: str) -> None:
    for make in READERS.values():
        assert read(make(), list(text)) == (text, [])


def test_a_list_of_calls_is_read_as_a_grammar_writes_it() -> None:
    assert read(required_reader(), list(f"[{ONE}, {OTHER}]")) == ("", [LOOK, GO])


def test_a_named_functions_answer_is_its_arguments() -> None:
    assert read(WholeReader("look"), ["{", '"a"', ": 1}"]) == ("", [("look", '{"a": 1}')])


def test_long_arguments_come_as_they_are_written() -> None:
    reader = READERS["hermes"]()
    reader.push('<tool_call>{"name": "look", "arguments": {"text": "a')
    assert reader.push("bc").calls == ((0, None, "bc"),)
    assert reader.num_ended == 0
    reader.push('"}}')
    assert reader.num_ended == 1
