"""What became of one stream, and what is wrong with it: pure, over what its client saw."""

from dataclasses import dataclass, field
from typing import Literal

Difference = Literal["", "lost", "repeated", "wrong"]
RECOVERED = "recovered"
"""The first word of a comment that tells of a loss which the stream outlived."""


@dataclass(slots=True)
class Outcome:
    """A stream as its client saw it, while it comes and after.

    Attributes:
        last_at: when text came last, or when the request was sent.
        text: what came so far.
        earlier: what came of the same request over connections that were cut with the gateway.
        num_texts: pieces that the text came in.
        num_tokens: how many tokens the service says it made; None before the end.
        gaps_s: waits between texts, the one before the first among them.
        recoveries: comments that tell of a loss.
        error: how it failed, empty if it did not.
    """

    last_at: float
    text: str = ""
    earlier: list[str] = field(default_factory=list)
    num_texts: int = 0
    num_tokens: int | None = None
    gaps_s: list[float] = field(default_factory=list)
    recoveries: list[str] = field(default_factory=list)
    error: str = ""

    def take_text(self, text: str, now: float) -> None:
        """Text came."""
        self.text += text
        self.num_texts += 1
        self.take_time(now)

    def take_time(self, now: float) -> None:
        """A wait is over: text came, or the end."""
        self.gaps_s.append(now - self.last_at)
        self.last_at = now

    def take_comment(self, comment: str) -> None:
        """A comment came; only those of losses count."""
        if comment.startswith(RECOVERED):
            self.recoveries.append(comment)

    def begin_again(self, now: float) -> None:
        """The same request is sent once more; what came of it is kept apart.

        Its reader's wait begins anew: no service can write to a connection that is gone.
        """
        self.earlier.append(self.text)
        self.text, self.num_tokens, self.error, self.last_at = "", None, "", now

    @property
    def longest_gap_s(self) -> float:
        """The longest wait."""
        return max(self.gaps_s, default=0.0)


def difference(expected: Outcome, got: Outcome) -> Difference:
    """What is wrong with a stream's tokens, where an undisturbed one gave what is expected.

    One that failed is right if all that came of it is how the expected one begins.
    """
    if not all(expected.text.startswith(text) for text in got.earlier):
        return "wrong"
    if got.error:
        return "" if expected.text.startswith(got.text) else "wrong"
    if (found := compare(expected.text, got.text)) or got.num_tokens == expected.num_tokens:
        return found
    if got.num_tokens is None or expected.num_tokens is None:
        return "wrong"
    # The same text from fewer or more tokens: those had no text of their own.
    return "lost" if got.num_tokens < expected.num_tokens else "repeated"


def compare(expected: str, got: str) -> Difference:
    """How a text differs from what it should be.

    Example:
        >>> compare("one two three", "one three"), compare("one two", "one one two")
        ('lost', 'repeated')
        >>> compare("one two", "one six"), compare("one two", "one two")
        ('wrong', '')
    """
    if expected == got:
        return ""
    begins = _num_common(expected, got)
    ends = _num_common(expected[::-1], got[::-1])
    if begins + ends >= len(got) and len(got) < len(expected):
        return "lost"
    if begins + ends >= len(expected) and len(got) > len(expected):
        added = got[begins : begins + len(got) - len(expected)]
        return "repeated" if got[:begins].endswith(added) else "wrong"
    return "wrong"


def _num_common(one: str, other: str) -> int:
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))
