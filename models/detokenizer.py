"""One sequence's tokens to text as they come.

The one idea: a piece of text is given out only once it can no longer change. A character whose
bytes are spread over several tokens appears with the last of them, and the pieces together are the
text of all tokens. It knows a decoding function and nothing of any vocabulary.
"""

from collections.abc import Callable, Iterable, Sequence

# What a decoder writes for bytes that are, or may yet become, part of a character.
_REPLACEMENT = "\ufffd"
# A character has at most four bytes, hence spans at most four tokens that show something. More
# tokens than this that end in no character are no text, and waiting longer would cost ever more.
_MAX_HELD = 16
# Whether a piece starts with a space depends on the tokens just before it, not on the whole prompt.
_CONTEXT = 8


class Detokenizer:
    """Takes tokens in any portions and returns the text that has become certain."""

    def __init__(
        self, decode: Callable[[Sequence[int]], str], prompt_ids: Sequence[int] = ()
    ) -> None:
        self._decode = decode
        # Tokens whose text is out, kept as context, then those held back.
        self._context = list(prompt_ids[-_CONTEXT:])
        self._held: list[int] = []

    def push(self, token_ids: Iterable[int]) -> str:
        """Take some tokens and return the text that is now certain; it may be empty."""
        return "".join(map(self._push_one, token_ids))

    def flush(self) -> str:
        """Return the text of what was held back: the sequence has ended in mid-character."""
        return self._release(self._text_of_held())

    def _push_one(self, token_id: int) -> str:
        self._held.append(token_id)
        text = self._text_of_held()
        if not text or (text.endswith(_REPLACEMENT) and len(self._held) < _MAX_HELD):
            return ""
        return self._release(text)

    def _text_of_held(self) -> str:
        before = self._decode(self._context)
        return self._decode(self._context + self._held)[len(before) :]

    def _release(self, text: str) -> str:
        self._context = (self._context + self._held if not text else self._held)[-_CONTEXT:]
        self._held = []
        return text
