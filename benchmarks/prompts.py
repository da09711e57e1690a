"""The prompts of every benchmark; it imports the standard library alone, as any peer can."""

import random


def make_prompts(count: int, length: int, vocab: int, seed: int = 0) -> list[list[int]]:
    """Random prompts, the same for every system at one seed; ids 0 to 2 are special."""
    rng = random.Random(seed)
    return [[rng.randrange(3, vocab) for _ in range(length)] for _ in range(count)]
