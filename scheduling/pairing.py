"""Which pipeline a request begins in, and which may go on with it after its first token.

The one idea: prompts go where they are predicted to be computed first, and from there along the
plan's routes to whoever has least to do for its share. Where no pipeline of a phase is up or has
room, the others do its part too: a request always goes somewhere. Pure; it never knows an actor.

Source: DistServe (OSDI 2024), ThunderServe (MLSys 2025): routing weights between phases.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from scheduling.placement import Phase
from scheduling.routing import USUAL, Choose, PipelineLoad, UsualLengths, choose_pipeline

MAX_TAKERS = 4
"""So many pipelines are asked for room, best first, before a request stays where it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A pipeline that is up: what it serves, what it has before it, and whether it takes more."""

    load: PipelineLoad
    phase: Phase = "both"
    has_room: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What is known of the way between two pipelines.

    Attributes:
        prefill: where requests begin.
        decode: where they may go on.
        weight: the share of them that the plan sends there; None if it does not say.
        bytes_per_s: the rate of the slowest link on the way, if it was measured.
    """

    prefill: str
    decode: str
    weight: float | None = None
    bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingPolicy:
    """Who decides where requests go; the service's own way unless it is said otherwise.

    Attributes:
        begin: picks one of the pipelines that may begin a request.
        go_on: picks one of those that may decode it after that; None leaves it to the routes.
    """

    begin: Choose = choose_pipeline
    go_on: Choose | None = None


SERVICE = RoutingPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """Where a request begins, and who may go on with it, best first; nobody if it is to stay."""

    pipeline: str
    takers: tuple[str, ...] = ()


def pair(
    candidates: Sequence[Candidate],
    ways: Iterable[Way] = (),
    *,
    num_prompt_tokens: int,
    has_decode: bool = True,
    usual: UsualLengths = USUAL,
    policy: RoutingPolicy = SERVICE,
) -> Pairing | None:
    """Where a request is to go; None if all that could begin it are full.

    Args:
        candidates: every pipeline that is up, each once.
        ways: what is known of the ways between them.
        num_prompt_tokens: tokens to be computed before its first one.
        has_decode: whether tokens follow the first; else there is nothing to hand off.
        usual: how long requests usually are.
        policy: picks one of those that may begin it, and the first of those that may go on.

    Decode pipelines take a whole request only where no other is up. A prefill pipeline is chosen
    without a taker only where nobody who serves both has room.

    Complexity: O(P + W) for P pipelines and W ways.

    Example:
        >>> loads = [PipelineLoad(pipeline=p, num_queued_tokens=0, num_running=0) for p in "pd"]
        >>> up = [Candidate(load=loads[0], phase="prefill"),
        ...       Candidate(load=loads[1], phase="decode")]
        >>> pair(up, num_prompt_tokens=8)
        Pairing(pipeline='p', takers=('d',))
        >>> pair(up[1:], num_prompt_tokens=8)
        Pairing(pipeline='d', takers=())
    """
    known = {(way.prefill, way.decode): way for way in ways}
    takers: dict[str, tuple[str, ...]] = {}
    if has_decode:
        prefills = [c.load.pipeline for c in candidates if c.phase == "prefill"]
        takers = {p: _takers(p, candidates, known, num_prompt_tokens) for p in prefills}
    for beginners in _beginners(candidates, takers, has_decode=has_decode):
        chosen = policy.begin(beginners, num_prompt_tokens=num_prompt_tokens, usual=usual)
        if chosen is not None:
            able = takers.get(chosen, ())
            if policy.go_on is not None and able:
                loads = [c.load for c in candidates if c.load.pipeline in able]
                first = policy.go_on(loads, num_prompt_tokens=num_prompt_tokens, usual=usual)
                able = _from(first, able)
            return Pairing(pipeline=chosen, takers=able[:MAX_TAKERS])
    return None


def takers_of(
    prefill: str, candidates: Sequence[Candidate], ways: Iterable[Way] = (), *, num_tokens: int
) -> tuple[str, ...]:
    """Who may go on with a request of so many tokens that a prefill pipeline has, best first."""
    known = {(way.prefill, way.decode): way for way in ways}
    return _takers(prefill, candidates, known, num_tokens)[:MAX_TAKERS]


def _from(first: str | None, names: Sequence[str]) -> tuple[str, ...]:
    """The names with one of them first, the others as they were."""
    return tuple(sorted(names, key=lambda name: name != first))


def _beginners(
    candidates: Sequence[Candidate], takers: Mapping[str, tuple[str, ...]], *, has_decode: bool
) -> list[list[PipelineLoad]]:
    """Who may begin a request: those to ask first, then those to fall back on."""
    able = [c for c in candidates if c.has_room]
    if all(c.phase == "decode" for c in candidates):
        return [[c.load for c in able]]
    loads = {c.load.pipeline: c.load for c in candidates}
    whole = [c.load for c in able if c.phase == "both"]
    prefills = [
        replace(c.load, goes_on_at=loads[first])
        if (first := next(iter(takers.get(c.load.pipeline, ())), ""))
        else c.load
        for c in able
        if c.phase == "prefill"
    ]
    paired = [load for load in prefills if takers.get(load.pipeline) or not has_decode]
    return [[*whole, *paired], prefills]


def _takers(
    prefill: str,
    candidates: Sequence[Candidate],
    ways: Mapping[tuple[str, str], Way],
    num_tokens: int,
) -> tuple[str, ...]:
    """Who may go on with requests of a prefill pipeline, best first."""
    decodes = [c for c in candidates if c.phase == "decode"]
    decodes = decodes or [c for c in candidates if c.phase == "both"]
    shares = _shares(prefill, [c.load.pipeline for c in decodes], ways)
    able = [c.load for c in decodes if c.has_room and _holds(c.load, num_tokens)]

    def order(load: PipelineLoad) -> tuple[bool, float, str]:
        share = shares[load.pipeline]
        return share == 0, (load.num_running + 1) / (share or 1.0), load.pipeline

    return tuple(load.pipeline for load in sorted(able, key=order))


def _holds(load: PipelineLoad, num_tokens: int) -> bool:
    return load.num_free_tokens is None or load.num_free_tokens > num_tokens


def _shares(
    prefill: str, decodes: Sequence[str], ways: Mapping[tuple[str, str], Way]
) -> dict[str, float]:
    """How much of a prefill pipeline's requests each is to have, up to a factor.

    By the plan's weights, where it gives any; else by the rate of the links, where all of them were
    measured; else alike.
    """
    found = {name: ways.get((prefill, name)) for name in decodes}
    weights = {name: way.weight for name, way in found.items() if way and way.weight}
    if weights:
        return {name: weights.get(name, 0.0) for name in decodes}
    rates = {name: way.bytes_per_s for name, way in found.items() if way and way.bytes_per_s}
    if len(rates) == len(decodes):
        return {name: float(rate) for name, rate in rates.items()}
    return dict.fromkeys(decodes, 1.0)
