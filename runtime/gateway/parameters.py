"""What becomes of a parameter: honoured, a label, off, or refused. None is ever ignored in silence.

What is honoured has a reader; a label changes nothing that a client could see; what is `off` is
taken only at the values that ask for nothing; everything else, known to OpenAI or vLLM or not, is
refused by name. The tables in `endpoints` are made of these, and drive both the reading of requests
and `docs/openai.md`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from runtime.gateway.errors import ApiError, refused
from runtime.gateway.values import Reader

Fate = Literal["honoured", "label", "off", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of an endpoint.

    Attributes:
        does: what it does, or why it is not done, in a few words.
        shown_by: the test that shows it, `file::name` under tests/runtime/gateway.
        reader: of what is honoured.
        off: the values at which it asks for nothing, of what is not.
        is_label: whether it is for a provider's own records, of which we keep none.
    """

    does: str
    shown_by: str
    reader: Reader | None = None
    off: tuple[Any, ...] = ()
    is_label: bool = False

    @property
    def fate(self) -> Fate:
        """What becomes of it."""
        if self.reader is not None:
            return "honoured"
        if self.is_label:
            return "label"
        return "off" if self.off else "refused"

    @property
    def takes(self) -> str:
        """Which values are taken, in words."""
        match self.fate:
            case "honoured":
                assert self.reader is not None
                return self.reader.expected
            case "label":
                return "anything; changes nothing"
            case "off":
                return f"only {in_words(self.off)}"
            case "refused":
                return "refused"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The parameters of one endpoint. A null asks for nothing everywhere."""

    path: str
    parameters: Mapping[str, Parameter]

    def of_fate(self, fate: Fate) -> dict[str, Parameter]:
        """The parameters that something becomes of."""
        return {name: p for name, p in self.parameters.items() if p.fate == fate}

    def read(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The honoured parameters of a request body; what is null is left out.

        Raises:
            ApiError: 400, with the parameter's name.
        """
        found = {}
        for name, value in body.items():
            known = self.parameters.get(name)
            if value is None or (known is not None and known.is_label):
                continue
            if known is not None and known.reader is not None:
                found[name] = known.reader(name, value)
            elif known is None or not _is_one_of(value, known.off):
                raise _refusal(name, known, value)
        return found


def _refusal(name: str, known: Parameter | None, value: Any) -> ApiError:
    if known is None:
        shown = name[:64]
        return ApiError(400, f"{shown}: unknown parameter", param=shown)
    if known.off:
        return refused(name, f"{in_words(known.off)}, as this is not supported", value)
    return ApiError(400, f"{name}: this parameter is not supported; {known.does}", param=name)


def in_words(values: tuple[Any, ...]) -> str:
    """The values at which a parameter asks for nothing, as a client would write them."""
    return " or ".join(json.dumps(value) for value in values)


def _is_one_of(value: Any, allowed: tuple[Any, ...]) -> bool:
    """Equality that tells false from 0, as JSON does."""
    return any(value == off and isinstance(value, bool) == isinstance(off, bool) for off in allowed)
