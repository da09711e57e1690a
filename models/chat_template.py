"""A chat to text by the model's own Jinja template.

The one idea: a template is a program that came with the weights, so it runs in Jinja's immutable
sandbox, sees plain data only, and its output is bounded. The names it may use are those that
transformers offers.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from models.errors import BadTemplate

MAX_CHARACTERS = 1 << 24
_PROGRAM_FAULTS = (TypeError, ValueError, LookupError, ArithmeticError, RecursionError)


class ChatTemplate:
    """A compiled template and the special tokens it may name."""

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        self._tokens = dict(tokens)
        self.source = source
        try:
            self._template = _environment().from_string(source)
        except TemplateError as error:
            raise BadTemplate(f"the chat template cannot be compiled: {error}") from error

    def render(
        self,
        messages: Iterable[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The chat as one text.

        Raises:
            BadTemplate: the template refuses these messages, or writes far too much.
        """
        names = {"tools": None, "documents": None, **self._tokens, **variables}
        names["messages"] = [dict(message) for message in messages]
        names["add_generation_prompt"] = add_generation_prompt
        try:
            return _bounded(self._template.generate(names))
        except (TemplateError, *_PROGRAM_FAULTS) as error:
            # A template is a program: fed an unforeseen message, it fails as programs do.
            raise BadTemplate(f"the chat template refuses these messages: {error}") from error


def _bounded(pieces: Iterable[str]) -> str:
    taken, size = [], 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_CHARACTERS:
            raise BadTemplate(f"the chat template writes over {MAX_CHARACTERS} characters")
        taken.append(piece)
    return "".join(taken)


class _Generation(Extension):
    """`{% generation %}` marks, for training, what a model wrote; here its body is just text."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own way to declare them

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _raise(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    # The wall clock of whoever reads the chat: templates write "Today is ..." with it.
    return datetime.now().astimezone().strftime(form)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    # Jinja's own filter escapes for HTML, which would change what the model reads.
    allowed = {key: options[key] for key in ("indent", "separators", "sort_keys") if key in options}
    return json.dumps(value, ensure_ascii=ensure_ascii, **allowed)
