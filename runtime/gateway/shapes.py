"""The JSON of OpenAI's answers, whole and in chunks, for both endpoints."""

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Answer:
    """What all objects of one answer share."""

    id: str
    created: int
    model: str


def usage(num_prompt_tokens: int, num_completion_tokens: int) -> dict[str, int]:
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

    def whole(self, answer: Answer, choices: list[tuple[str, str]]) -> dict[str, Any]:
        """A whole answer, from (text, finish reason) of each choice."""
        ...

    def first(self, answer: Answer, index: int) -> dict[str, Any] | None:
        """The chunk that opens a choice, if the endpoint has one."""
        ...

    def chunk(self, answer: Answer, index: int, text: str, reason: str | None) -> dict[str, Any]:
        """A chunk of a choice."""
        ...

    def last(self, answer: Answer) -> dict[str, Any]:
        """The chunk without choices that carries the usage."""
        ...


class CompletionShape:
    """`/v1/completions`."""

    id_prefix = "cmpl"
    prompt_param = "prompt"

    def whole(self, answer: Answer, choices: list[tuple[str, str]]) -> dict[str, Any]:
        """A text_completion."""
        written = [self._choice(i, text, reason) for i, (text, reason) in enumerate(choices)]
        return self._object(answer, written)

    def first(self, answer: Answer, index: int) -> dict[str, Any] | None:
        """Completions begin with their text."""
        return None

    def chunk(self, answer: Answer, index: int, text: str, reason: str | None) -> dict[str, Any]:
        """A text_completion of a piece of text."""
        return self._object(answer, [self._choice(index, text, reason)])

    def last(self, answer: Answer) -> dict[str, Any]:
        """A text_completion without choices."""
        return self._object(answer, [])

    def _choice(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}

    def _object(self, answer: Answer, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return _object("text_completion", answer, choices)


class ChatShape:
    """`/v1/chat/completions`."""

    id_prefix = "chatcmpl"
    prompt_param = "messages"

    def whole(self, answer: Answer, choices: list[tuple[str, str]]) -> dict[str, Any]:
        """A chat.completion."""
        written = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": reason,
            }
            for index, (text, reason) in enumerate(choices)
        ]
        return _object("chat.completion", answer, written)

    def first(self, answer: Answer, index: int) -> dict[str, Any] | None:
        """The role comes first."""
        return self._chunk(answer, index, {"role": "assistant", "content": ""}, None)

    def chunk(self, answer: Answer, index: int, text: str, reason: str | None) -> dict[str, Any]:
        """A chat.completion.chunk with a piece of the content."""
        return self._chunk(answer, index, {"content": text} if text else {}, reason)

    def last(self, answer: Answer) -> dict[str, Any]:
        """A chat.completion.chunk without choices."""
        return _object("chat.completion.chunk", answer, [])

    def _chunk(
        self, answer: Answer, index: int, delta: dict[str, str], reason: str | None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _object("chat.completion.chunk", answer, [choice])


def _object(kind: str, answer: Answer, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": answer.id,
        "object": kind,
        "created": answer.created,
        "model": answer.model,
        "choices": choices,
    }
