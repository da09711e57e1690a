"""Where calls begin and end in what models write: a reader for each family's own words.

A reader takes an answer's text in pieces and gives out content and calls. What could yet be the
beginning of a call is held back, what turns out to be none is content after all, and the result
does not depend on how the text was cut.
"""

import re
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from runtime.gateway.call_scanner import CallScanner

Format = Literal["hermes", "llama3", "mistral"]


class CallDelta(NamedTuple):
    """A piece of the call at `place`; the first of a call has its name."""

    place: int
    name: str | None
    arguments: str


class Read(NamedTuple):
    """What a piece of text turned out to be."""

    content: str
    calls: tuple[CallDelta, ...]


class CallReader(Protocol):
    """Takes an answer's text; `num_ended` calls are whole."""

    num_ended: int

    def push(self, text: str) -> Read:
        """Take a piece."""
        ...

    def flush(self) -> Read:
        """The text has ended."""
        ...


class MarkedReader:
    """Calls as JSON objects behind a mark, with content before the first."""

    def __init__(
        self,
        marks: tuple[str, ...],
        fillers: tuple[str, ...],
        *,
        bare: bool = False,
        named: bool = False,
        is_marked: bool = False,
    ) -> None:
        """Begin an answer.

        Args:
            marks: what announces calls.
            fillers: what may stand between them and means nothing.
            bare: whether an object at the very beginning is a call without any mark.
            named: whether a name may stand before its arguments, which stand alone then.
            is_marked: whether there are calls from the beginning.
        """
        self.num_ended = 0
        self._marks, self._fillers = marks, fillers
        self._may_be_bare, self._has_names = bare, named
        self._is_marked = is_marked
        self._held = ""
        self._skipped = ""  # since the mark: content after all, if no call follows
        self._scanner: CallScanner | None = None

    def push(self, text: str) -> Read:
        """Take a piece of text."""
        self._held += text
        content = ""
        calls: list[CallDelta] = []
        while self._held:
            if self._scanner is not None:
                given: str | None = self._scan(self._scanner, calls)
            else:
                given = self._between() if self._is_marked else self._before()
            if given is None:
                break
            content += given if not self.num_ended else ""  # what follows a call means nothing
        return Read(content, tuple(calls))

    def flush(self) -> Read:
        """What was held back is content, unless there were calls."""
        held, self._held = self._held, ""
        if self._scanner is not None:
            if self._scanner.is_call:
                return Read("", ())
            held = self._scanner.raw + held
        return Read("" if self.num_ended else self._skipped + held, ())

    def _before(self) -> str | None:
        """Content up to a mark; None where it takes more text to know."""
        if self._may_be_bare:
            if not (start := self._held.lstrip()):
                return None
            self._may_be_bare = False
            if start[0] == "{":
                self._is_marked = True
                return ""
        places = [(at, mark) for mark in self._marks if (at := self._held.find(mark)) >= 0]
        if places:
            at, mark = min(places)
            content, self._held = self._held[:at], self._held[at + len(mark) :]
            self._is_marked, self._skipped = True, mark
            return content
        keep = _num_possible(self._held, self._marks)
        if keep == len(self._held):
            return None
        content, self._held = self._held[: len(self._held) - keep], self._held[-keep:] * (keep > 0)
        return content

    def _between(self) -> str | None:
        """Up to the next object; None where it takes more text to know."""
        words = (*self._marks, *self._fillers)
        if self._held[0] == "{":
            self._scanner = CallScanner()
        elif self._held[0].isspace():
            self._skip(1)
        elif any(len(self._held) < len(word) and word.startswith(self._held) for word in words):
            return None
        elif found := [word for word in words if self._held.startswith(word)]:
            self._skip(max(map(len, found)))
        elif self._has_names and (name := _name_at(self._held)) is not None:
            return self._take_named(name)
        else:
            return self._not_a_call("")
        return ""

    def _skip(self, length: int) -> None:
        self._skipped += self._held[:length]
        self._held = self._held[length:]

    def _take_named(self, name: str) -> str | None:
        if "{" not in self._held:
            return None
        self._skip(self._held.index("{"))
        self._scanner = CallScanner.named(name)
        return ""

    def _not_a_call(self, raw: str) -> str:
        content, self._skipped, self._is_marked = self._skipped + raw, "", False
        return content

    def _scan(self, scanner: CallScanner, calls: list[CallDelta]) -> str:
        end = scanner.end_of(self._held)
        text, self._held = self._held[:end], self._held[end:]
        calls += [CallDelta(self.num_ended, *part) for part in scanner.push(text)]
        if not scanner.is_whole:
            return ""
        self._scanner = None
        if not scanner.is_call:
            return self._not_a_call(scanner.raw)
        self.num_ended += 1
        self._skipped = ""
        return ""


class WholeReader:
    """An answer that is nothing but one call's arguments, of a function known beforehand."""

    def __init__(self, name: str) -> None:
        self.num_ended = 0
        self._name: str | None = name

    def push(self, text: str) -> Read:
        """Take a piece of the arguments."""
        if not text:
            return Read("", ())
        name, self._name = self._name, None
        return Read("", (CallDelta(0, name, text),))

    def flush(self) -> Read:
        """The arguments have ended."""
        self.num_ended = int(self._name is None)
        return Read("", ())


_NAME = re.compile(r"([\w.-]{1,64})\s*(\[CALL_ID\][\w-]{0,64})?\s*(\[ARGS\])?\s*(\{|$)")
_NAME_BEGUN = re.compile(r"[\w.-]{1,64}\s*(\[[A-Z_]{0,7}\]?[\w-]{0,64}){0,2}\s*$")


def _name_at(text: str) -> str | None:
    """The name at a text's beginning, if arguments follow it or may yet."""
    if (found := _NAME.match(text)) is not None:
        return found[1]
    return text if _NAME_BEGUN.match(text) else None


def _num_possible(text: str, marks: tuple[str, ...]) -> int:
    """Length of the longest end of a text with which a mark begins."""
    longest = max(map(len, marks), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(mark.startswith(text[-length:]) for mark in marks):
            return length
    return 0


READERS: dict[Format, Callable[[], CallReader]] = {
    "hermes": lambda: MarkedReader(("<tool_call>",), ("</tool_call>",)),
    "llama3": lambda: MarkedReader(("<|python_tag|>",), (";", ",", "<|eom_id|>"), bare=True),
    "mistral": lambda: MarkedReader(("[TOOL_CALLS]",), ("[", ",", "]"), named=True),
}
"""A reader for a model that may call functions.

Hermes and Qwen: `<tool_call>{…}</tool_call>`, one a call. Mistral: `[TOOL_CALLS]`, then a list of
objects, or `name[ARGS]{…}`. Llama 3: bare objects with semicolons between them, or behind
`<|python_tag|>`.
"""


def required_reader() -> CallReader:
    """A reader for a JSON list of calls and nothing else, as a grammar has it."""
    return MarkedReader((), ("[", ",", "]"), is_marked=True)
