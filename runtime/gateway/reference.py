"""`docs/openai.md` from the tables: `python -m runtime.gateway.reference docs/openai.md`."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from runtime.gateway.agreement import MAX_SEQUENCES
from runtime.gateway.endpoints import ENDPOINTS
from runtime.gateway.parameters import Endpoint, Fate

TESTS = "tests/runtime/gateway"
_HEAD = f"""# OpenAI's parameters, one by one

Written by `python -m runtime.gateway.reference docs/openai.md` from the tables by which requests
are read; a test compares. Every parameter of OpenAI's schema is honoured, or refused with a 400
that names it, and so are those of vLLM that tools send. What stands in no table is refused as
unknown. A null means that the parameter was left out. The tests stand in `{TESTS}`.
"""
_FATES: tuple[tuple[Fate, str], ...] = (
    ("honoured", "Honoured"),
    ("off", "Taken only where it asks for nothing"),
    ("label", "Taken, and changes nothing"),
    ("refused", "Refused"),
)
_TAIL = f"""
## What they mean together

- **Order of the drawing**: a grammar, `allowed_token_ids` and `min_tokens` forbid, `logit_bias`
  adds, penalties take off, then temperature, `min_p`, `top_k` and `top_p`. Logprobs are the model's
  own, before all of that.
- **Choices**: choice i of a prompt draws by `seed + i`. Prompts times choices are at most
  {MAX_SEQUENCES}. `usage` counts a prompt once and the tokens of all choices, those of `best_of`
  that are not shown included. Its `prompt_tokens_details.cached_tokens`, absent where there are
  none, are those of the prompt whose KV entries were there already (`serving.prefix_sharing`).
- **`echo` with `logprobs`** scores the prompt: the lists cover prompt and answer, the first entry
  is null, and `max_tokens` may be 0. A prompt in token ids is taken as it is.
- **An answer's form** is one of `response_format`, `structured_outputs` and `guided_*`, not beside
  tools that may be called, `ignore_eos` or `min_tokens`. It is a grammar of llguidance, with its
  bounds: what has no grammar, or one too large, is refused. Where no token may follow, as when
  `allowed_token_ids` contradict it, the answer ends with an error.
- **Calls**: with `tool_choice` "auto" they are read in the model's own words (Hermes and Qwen,
  Llama 3, Mistral, by its template); "required" and a function by name are drawn by a grammar of
  the parameters' schemas. A template that knows no tools gets them in a system message. Any answer
  that calls ends with the reason `tool_calls`, one that is cut off with `length`. Under "auto"
  `strict` holds calls in Hermes' words to their schemas, with any text around them; it is refused
  for models that call in others, whose calls nothing marks as plainly.
- **Streams** open with their first event, or after 0.25 s with a comment, and send a comment every
  10 s in which there was nothing to say. What goes wrong after that is an `error` event and a cut
  connection.
- None of this is a stage's to remember: what shapes a draw travels with every step, so that an
  answer goes on the same after a swap or a loss.
"""


def text() -> str:
    """The whole page."""
    parts = [_HEAD, *(_endpoint(endpoint) for endpoint in ENDPOINTS), _TAIL]
    return "".join(parts)


def _endpoint(endpoint: Endpoint) -> str:
    lines = [f"\n## `POST {endpoint.path}`\n"]
    for fate, title in _FATES:
        if endpoint.of_fate(fate):
            lines += [f"\n### {title}\n", "", *_table(endpoint, fate), ""]
    return "\n".join(lines).replace("\n\n\n", "\n\n")


def _table(endpoint: Endpoint, fate: Fate) -> Iterator[str]:
    yield "| parameter | takes | | shown by |"
    yield "|---|---|---|---|"
    for name, parameter in endpoint.of_fate(fate).items():
        cells = (f"`{name}`", parameter.takes, parameter.does, f"`{parameter.shown_by}`")
        yield f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def main(arguments: Iterable[str]) -> None:
    """Write the page to the path that is named."""
    (path,) = arguments
    Path(path).write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
