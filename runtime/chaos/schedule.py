"""Random strikes out of those that a service offers."""

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence

from runtime.chaos.strikes import Disturb, Kill, Pause, Strike, Swap

MIN_PAUSE_S, MAX_PAUSE_S = 1.0, 5.0
SWAPS_SHARE = 0.25
"""How many of the strikes are swaps, where there is something to swap."""
LINKS_SHARE = 0.3
"""How many of the others cut or slow links, where the service lets them be disturbed."""
MIN_LATENCY_S, MAX_LATENCY_S = 0.01, 0.2
MIN_BYTES_PER_S, MAX_BYTES_PER_S = 1e6, 1e8
HEAD = ("coordinator", "gateway")

Split = Sequence[tuple[int, int]]


def random_strike(
    targets: Sequence[str],
    rng: random.Random,
    splits: Mapping[str, Split] | None = None,
    link_ends: Sequence[str] = (),
) -> Strike:
    """Kill or pause one of these targets, disturb links, or swap the layers of a pipeline.

    The gateway is never paused: its clients would wait for it alone, whatever the service does. The
    only node is spared, and its pipelines with it: nobody could take over before it is back.
    """
    movable = {name: split for name, split in (splits or {}).items() if _is_movable(split)}
    if movable and rng.random() < SWAPS_SHARE:
        pipeline = rng.choice(sorted(movable))
        return Swap(pipeline, random_layers(movable[pipeline], rng))
    links = known_links(link_ends)
    if links and rng.random() < LINKS_SHARE:
        return random_disturbance(links, rng)
    num_nodes = sum(target.startswith("node:") for target in targets)
    spared = ("node:", "pipeline:") if num_nodes == 1 else ()
    target = rng.choice(sorted(t for t in targets if not t.startswith(spared)))
    if rng.random() < 0.5 or target.startswith("gateway"):
        return Kill(target)
    return Pause(target, round(rng.uniform(MIN_PAUSE_S, MAX_PAUSE_S), 1))


def known_links(ends: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of names that share no process: two nodes, two of the rest, or a node and the head.

    A process has several names; of a pipeline only those stages count that `stage:PIPELINE/N`
    names, and of the gateways all together.
    """
    names = sorted({name for name in ends if _is_distinct(name)})
    return [(a, b) for a, b in itertools.combinations(names, 2) if _are_apart(a, b)]


def _is_distinct(name: str) -> bool:
    kind, _, which = name.partition(":")
    return name in HEAD or kind == "node" or (kind == "stage" and "/" in which)


def _are_apart(one: str, other: str) -> bool:
    kinds = {one.partition(":")[0], other.partition(":")[0]}
    return kinds != {"node", "stage"}


def random_disturbance(links: Sequence[tuple[str, str]], rng: random.Random) -> Disturb:
    """A link that is cut or slow for a while."""
    a, b = rng.choice(links)
    for_s = round(rng.uniform(MIN_PAUSE_S, MAX_PAUSE_S), 1)
    if rng.random() < 0.5:
        return Disturb("partition", a, b, for_s)
    return Disturb(
        "slow-link",
        a,
        b,
        for_s,
        latency_s=round(rng.uniform(MIN_LATENCY_S, MAX_LATENCY_S), 3),
        bytes_per_s=round(rng.uniform(MIN_BYTES_PER_S, MAX_BYTES_PER_S)),
    )


def random_layers(split: Split, rng: random.Random) -> str:
    """The same layers over as many stages, cut elsewhere; of a split that can be cut elsewhere."""
    start, end = split[0][0], split[-1][1]
    now = [cut for _, cut in split[:-1]]
    cuts = now
    while cuts == now:
        cuts = sorted(rng.sample(range(start + 1, end), len(split) - 1))
    bounds = [start, *cuts, end]
    return ",".join(f"{a}:{b}" for a, b in itertools.pairwise(bounds))


def random_moment(num_tokens: int, rng: random.Random) -> int:
    """At which token of the first stream to strike: never at its very end."""
    return rng.randint(1, max(1, num_tokens // 2))


def _is_movable(split: Split) -> bool:
    """Whether there is another way to cut it: more layers than stages, and more stages than one."""
    return 1 < len(split) < split[-1][1] - split[0][0]
