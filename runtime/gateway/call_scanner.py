"""One call of a function as a model writes it, JSON that comes in pieces of text.

The one idea: what follows `"arguments":` is handed on letter by letter once the function's name is
known, so that a client sees a long call grow; all else waits for the object's end. However the text
was cut, the pieces together are the same. It knows no model's way to say where a call begins.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

ARGUMENTS = ("arguments", "parameters")


class CallPart(NamedTuple):
    """A piece of a call; the first of a call has its name."""

    name: str | None
    arguments: str


@dataclass(slots=True)
class _Depths:
    """Where in a JSON text one is: how deep, and whether in a string."""

    depth: int = 0
    in_string: bool = False
    is_escaped: bool = False

    def take(self, letter: str) -> None:
        if self.in_string:
            self._take_in_string(letter)
        elif letter == '"':
            self.in_string = True
        elif letter in "{[":
            self.depth += 1
        elif letter in "}]":
            self.depth -= 1

    def _take_in_string(self, letter: str) -> None:
        if self.is_escaped:
            self.is_escaped = False
        elif letter == "\\":
            self.is_escaped = True
        elif letter == '"':
            self.in_string = False


@dataclass(slots=True)
class CallScanner:
    """Reads one JSON object, from its brace on; `push` until `is_whole`.

    Attributes:
        raw: all that was read, for the case that it is no call.
        is_whole: the object has ended.
        is_call: a part of a call was given out.
    """

    raw: str = ""
    is_whole: bool = False
    is_call: bool = False
    _at: _Depths = field(default_factory=_Depths)
    _key: str = ""
    _token_start: int = -1
    _name: str | None = None
    _value_start: int = -1
    _awaits_value: bool = False
    _is_bare: bool = False

    @classmethod
    def named(cls, name: str) -> "CallScanner":
        """A scanner of arguments that stand alone, of a function known beforehand."""
        scanner = cls(_is_bare=True)
        for letter in f'{{"name": {json.dumps(name)}, "arguments": ':
            scanner.raw += letter
            scanner._take(letter)
        return scanner

    def push(self, text: str) -> Iterator[CallPart]:
        """Take letters up to the object's end; what is certain of the call."""
        given = ""
        for letter in text:
            if self.is_whole:
                return
            self.raw += letter
            given += self._take(letter)
        if given and self._name is not None:
            yield self._part(given)
        if self.is_whole and not self.is_call:
            yield from self._from_whole()

    def end_of(self, text: str) -> int:
        """How many letters of a text are still the object's; all of them while it goes on."""
        at = _Depths(self._at.depth, self._at.in_string, self._at.is_escaped)
        for place, letter in enumerate(text):
            at.take(letter)
            if at.depth <= int(self._is_bare) and letter in "]}" and not at.in_string:
                return place + 1
        return len(text)

    def _take(self, letter: str) -> str:
        """Follow the object; the letter itself if it is one of the arguments that may go out."""
        before, was_in_string = self._at.depth, self._at.in_string
        self._at.take(letter)
        if self._value_start >= 0:
            if self._at.depth == 1:
                self._value_start, self.is_whole = -1, self._is_bare
            return letter
        if before == 1 and not was_in_string:
            return self._take_outside(letter)
        if before == 1 and was_in_string and not self._at.in_string:
            self._end_string()
        return ""

    def _take_outside(self, letter: str) -> str:
        if letter == '"':
            self._token_start = len(self.raw) - 1
        elif letter == ":":
            self._awaits_value = True
        elif letter == ",":
            self._awaits_value, self._key = False, ""
        elif letter == "{" and self._awaits_value and self._begins_arguments():
            self._value_start = len(self.raw) - 1
            return letter
        elif letter == "}":
            self.is_whole = True
        return ""

    def _begins_arguments(self) -> bool:
        return self._key in ARGUMENTS and self._name is not None and not self.is_call

    def _end_string(self) -> None:
        found = _loaded(self.raw[self._token_start :])
        if not isinstance(found, str):
            return
        if not self._awaits_value:
            self._key = found
        elif self._key == "name":
            self._name = found

    def _part(self, given: str) -> CallPart:
        name = None if self.is_call else self._name
        self.is_call = True
        return CallPart(name, given)

    def _from_whole(self) -> Iterator[CallPart]:
        """A call whose arguments came before its name, or as a string, or not at all."""
        found = _loaded(self.raw)
        if not isinstance(found, dict) or not isinstance(found.get("name"), str):
            return
        self.is_call = True
        given = [found[key] for key in ARGUMENTS if found.get(key) is not None]
        arguments = given[0] if given else {}
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        yield CallPart(found["name"], text)


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
