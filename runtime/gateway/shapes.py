"""The JSON of OpenAI's answers, whole and in chunks, for both endpoints."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from models.token_logprobs import TokenLogprobs
from runtime.gateway.call_readers import CallDelta
from runtime.gateway.choice import Piece, Scored
from runtime.gateway.logprob_shapes import Bytes, of_chat, of_completion, of_prompt


@dataclass(frozen=True, slots=True)
class Answer:
    """What all objects of one answer share."""

    id: str
    created: int
    model: str


@dataclass(slots=True)
class Written:
    """A choice as a whole, put together from its pieces."""

    text: str = ""
    finish_reason: str = ""
    calls: list[CallDelta] = field(default_factory=list)
    scored: list[Scored] = field(default_factory=list)
    prompt: Sequence[TokenLogprobs | None] | None = None

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        self.text += piece.text
        self.finish_reason = piece.finish_reason or ""
        self.scored += piece.scored
        for call in piece.calls:
            if call.name is not None:
                self.calls.append(call)
            else:
                so_far = self.calls[call.place]
                arguments = so_far.arguments + call.arguments
                self.calls[call.place] = so_far._replace(arguments=arguments)


def usage(num_prompt_tokens: int, num_completion_tokens: int) -> dict[str, Any]:
    """Token counts as OpenAI gives them."""
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_completion_tokens,
        "total_tokens": num_prompt_tokens + num_completion_tokens,
    }


class Shape(Protocol):
    """How one endpoint writes its answers."""

    id_prefix: str
    prompt_param: str

    def whole(self, answer: Answer, choices: Sequence[Written]) -> dict[str, Any]:
        """A whole answer."""
        ...

    def first(self, answer: Answer, index: int) -> dict[str, Any] | None:
        """The chunk that opens a choice, if the endpoint has one."""
        ...

    def chunk(self, answer: Answer, index: int, piece: Piece) -> dict[str, Any]:
        """A chunk of a choice."""
        ...

    def last(self, answer: Answer) -> dict[str, Any]:
        """The chunk without choices that carries the usage."""
        ...


class CompletionShape:
    """`/v1/completions`."""

    id_prefix = "cmpl"
    prompt_param = "prompt"

    def __init__(self, token_bytes: Bytes, *, shows_logprobs: bool = False) -> None:
        self._token_bytes, self._shows_logprobs = token_bytes, shows_logprobs

    def whole(self, answer: Answer, choices: Sequence[Written]) -> dict[str, Any]:
        """A text_completion."""
        written = [
            self._choice(i, choice.text, choice.finish_reason, choice.scored)
            | _prompt_logprobs(choice, self._token_bytes)
            for i, choice in enumerate(choices)
        ]
        return self._object(answer, written)

    def first(self, answer: Answer, index: int) -> dict[str, Any] | None:
        """Completions begin with their text."""
        return None

    def chunk(self, answer: Answer, index: int, piece: Piece) -> dict[str, Any]:
        """A text_completion of a piece of text."""
        choice = self._choice(index, piece.text, piece.finish_reason, piece.scored)
        return self._object(answer, [choice])

    def last(self, answer: Answer) -> dict[str, Any]:
        """A text_completion without choices."""
        return self._object(answer, [])

    def _choice(
        self, index: int, text: str, reason: str | None, scored: Sequence[Scored]
    ) -> dict[str, Any]:
        told = of_completion(scored, self._token_bytes) if self._shows_logprobs else None
        return {"index": index, "text": text, "logprobs": told, "finish_reason": reason}

    def _object(self, answer: Answer, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return _object("text_completion", answer, choices)


class ChatShape:
    """`/v1/chat/completions`."""

    id_prefix = "chatcmpl"
    prompt_param = "messages"

    def __init__(self, token_bytes: Bytes, *, shows_logprobs: bool = False) -> None:
        self._token_bytes, self._shows_logprobs = token_bytes, shows_logprobs

    def whole(self, answer: Answer, choices: Sequence[Written]) -> dict[str, Any]:
        """A chat.completion."""
        written = [
            {
                "index": index,
                "message": self._message(answer, index, choice),
                "logprobs": self._logprobs(choice.scored),
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(choices)
        ]
        told = _prompt_logprobs(choices[0], self._token_bytes)
        return _object("chat.completion", answer, written) | told

    def first(self, answer: Answer, index: int) -> dict[str, Any] | None:
        """The role comes first."""
        return self._chunk(answer, index, {"role": "assistant", "content": ""}, Piece("", None))

    def chunk(self, answer: Answer, index: int, piece: Piece) -> dict[str, Any]:
        """A chat.completion.chunk with a piece of the content, or of calls."""
        delta: dict[str, Any] = {"content": piece.text} if piece.text else {}
        if piece.calls:
            delta["tool_calls"] = [_call(answer, index, call) for call in piece.calls]
        return self._chunk(answer, index, delta, piece)

    def last(self, answer: Answer) -> dict[str, Any]:
        """A chat.completion.chunk without choices."""
        return _object("chat.completion.chunk", answer, [])

    def _message(self, answer: Answer, index: int, choice: Written) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.calls:
            calls = [_call(answer, index, call) for call in choice.calls]
            for call in calls:
                del call["index"]
            message |= {"content": choice.text or None, "tool_calls": calls}
        return message

    def _logprobs(self, scored: Sequence[Scored]) -> dict[str, Any] | None:
        return of_chat(scored, self._token_bytes) if self._shows_logprobs else None

    def _chunk(
        self, answer: Answer, index: int, delta: dict[str, Any], piece: Piece
    ) -> dict[str, Any]:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": self._logprobs(piece.scored) if piece.scored else None,
            "finish_reason": piece.finish_reason,
        }
        return _object("chat.completion.chunk", answer, [choice])


def _call(answer: Answer, index: int, call: CallDelta) -> dict[str, Any]:
    """A call or a piece of one; only the first piece of a call is named."""
    if call.name is None:
        return {"index": call.place, "function": {"arguments": call.arguments}}
    return {
        "index": call.place,
        "id": call_id(answer, index, call.place),
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def call_id(answer: Answer, index: int, call_index: int) -> str:
    """A name for a call; nine letters and digits, as Mistral's templates insist."""
    text = f"{answer.id}/{index}/{call_index}"
    return hashlib.sha256(text.encode()).hexdigest()[:9]


def _prompt_logprobs(choice: Written, token_bytes: Bytes) -> dict[str, Any]:
    if choice.prompt is None:
        return {}
    return {"prompt_logprobs": of_prompt(choice.prompt, token_bytes)}


def _object(kind: str, answer: Answer, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": answer.id,
        "object": kind,
        "created": answer.created,
        "model": answer.model,
        "choices": choices,
    }
