"""The JSON of logprobs, in the shapes of both endpoints and in vLLM's of a prompt."""

from collections.abc import Callable, Sequence
from typing import Any

from models.token_logprobs import TokenLogprobs
from runtime.gateway.choice import Scored

LEAST = -9999.0
"""What stands for minus infinity, which JSON has not."""

Bytes = Callable[[int], bytes]
"""The bytes that a token stands for."""


def of_completion(scored: Sequence[Scored], token_bytes: Bytes) -> dict[str, list[Any]]:
    """Four lists of the same length."""
    return {
        "tokens": [_text(token_bytes(token.token_id)) for token in scored],
        "token_logprobs": [_logprob(token.entry) for token in scored],
        "top_logprobs": [_candidates(token.entry, token_bytes) for token in scored],
        "text_offset": [token.offset for token in scored],
    }


def _logprob(entry: TokenLogprobs | None) -> float | None:
    return None if entry is None else max(LEAST, entry.logprob)


def _candidates(entry: TokenLogprobs | None, token_bytes: Bytes) -> dict[str, float] | None:
    """The likeliest by text, and the token itself; the likelier one where two have one text."""
    if entry is None:
        return None
    found: dict[str, float] = {}
    for token, logprob in (*entry.top, (entry.token_id, entry.logprob)):
        found.setdefault(_text(token_bytes(token)), max(LEAST, logprob))
    return found


def of_chat(scored: Sequence[Scored], token_bytes: Bytes) -> dict[str, Any]:
    """A list of tokens."""
    return {
        "content": [
            _of_token(token.entry.token_id, token.entry.logprob, token_bytes)
            | {"top_logprobs": [_of_token(*likely, token_bytes) for likely in token.entry.top]}
            for token in scored
            if token.entry is not None
        ],
        "refusal": None,
    }


def _of_token(token_id: int, logprob: float, token_bytes: Bytes) -> dict[str, Any]:
    data = token_bytes(token_id)
    text = data.decode(errors="replace")
    return {"token": text, "logprob": max(LEAST, logprob), "bytes": list(data)}


def of_prompt(entries: Sequence[TokenLogprobs | None], token_bytes: Bytes) -> list[Any]:
    """vLLM's: for each token of the prompt the candidates by id, and none for the first."""
    return [None if entry is None else _by_id(entry, token_bytes) for entry in entries]


def _by_id(entry: TokenLogprobs, token_bytes: Bytes) -> dict[str, Any]:
    ranked = [(*likely, rank) for rank, likely in enumerate(entry.top, 1)]
    return {
        str(token): {
            "logprob": max(LEAST, logprob),
            "rank": rank,
            "decoded_token": token_bytes(token).decode(errors="replace"),
        }
        for token, logprob, rank in [*ranked, (entry.token_id, entry.logprob, entry.rank)]
    }


def _text(data: bytes) -> str:
    """A token's text; of what is only a part of a character its bytes, as OpenAI writes them."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
