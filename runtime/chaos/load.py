"""The requests of a chaos run: half greedy, half drawn with a seed, so that each has one answer."""

import random
from dataclasses import dataclass
from typing import Any

TEXT = (
    "a list of horses is a function that returns its first value and then the rest in order "
    "when every file has been read the loop ends with an error if no line was found there"
)
WORDS = TEXT.split()
MIN_WORDS, MAX_WORDS = 3, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request; greedy where the temperature is 0."""

    prompt: str
    temperature: float
    seed: int
    max_tokens: int

    def body(self, model: str) -> dict[str, Any]:
        """The JSON of `POST /v1/completions`."""
        return {
            "model": model,
            "prompt": self.prompt,
            "temperature": self.temperature,
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


def make_asks(num_asks: int, num_tokens: int, rng: random.Random) -> list[Ask]:
    """So many requests for so many tokens each; the first is greedy, then they take turns."""
    return [
        Ask(
            prompt=" ".join(rng.choices(WORDS, k=rng.randint(MIN_WORDS, MAX_WORDS))),
            temperature=float(index % 2),
            seed=rng.getrandbits(32),
            max_tokens=num_tokens,
        )
        for index in range(num_asks)
    ]
