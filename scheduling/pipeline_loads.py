"""What each pipeline has of a router's requests, kept up to date by what changes.

The one idea: each request's share is remembered as it was counted last, so that whatever happened
to it meanwhile, taking that off and adding what it is now keeps the counts right. Pure; it never
knows why a request changed.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Share:
    """One request, as pipelines have it.

    Attributes:
        pipeline: who has it.
        goes_on_at: who is to go on with it after its first token; empty if nobody else.
        num_queued_tokens: prompt tokens that `pipeline` may still have to compute.
        num_resident_tokens: tokens of prompt and answer, whose KV it needs.
    """

    pipeline: str
    goes_on_at: str
    num_queued_tokens: int
    num_resident_tokens: int


@dataclass(frozen=True, slots=True)
class Counts:
    """What a pipeline has: requests, prompt tokens not computed yet, tokens whose KV is needed.

    Those that are to come to it count as its requests, but not as prompts that it computes.
    """

    num_requests: int = 0
    num_queued_tokens: int = 0
    num_resident_tokens: int = 0


NOTHING = Counts()


class PipelineLoads:
    """Running counts of each pipeline.

    Complexity: O(1) a change and a look.

    Example:
        >>> loads = PipelineLoads()
        >>> loads.put("r", Share("p", "d", 8, 8))
        >>> loads["p"], loads["d"]
        (Counts(num_requests=1, num_queued_tokens=8, num_resident_tokens=8), \
Counts(num_requests=1, num_queued_tokens=0, num_resident_tokens=8))
        >>> loads.drop("r")
        >>> loads["p"] == NOTHING
        True
    """

    def __init__(self) -> None:
        self._shares: dict[str, Share] = {}
        self._counts: dict[str, Counts] = {}

    def __getitem__(self, pipeline: str) -> Counts:
        """What a pipeline has; nothing, if it was never heard of."""
        return self._counts.get(pipeline, NOTHING)

    def statistics(self) -> dict[str, Counts]:
        """Every pipeline that has something."""
        return dict(self._counts)

    def put(self, request: str, share: Share) -> None:
        """A request is as this says now, whatever it was before."""
        before = self._shares.get(request)
        if before == share:
            return
        if before is not None:
            self._add(before, -1)
        self._shares[request] = share
        self._add(share, 1)

    def drop(self, request: str) -> None:
        """Nobody has a request any more; one that is not known changes nothing."""
        share = self._shares.pop(request, None)
        if share is not None:
            self._add(share, -1)

    def _add(self, share: Share, sign: int) -> None:
        self._count(share.pipeline, sign, share.num_queued_tokens, share.num_resident_tokens)
        if share.goes_on_at and share.goes_on_at != share.pipeline:
            self._count(share.goes_on_at, sign, 0, share.num_resident_tokens)

    def _count(self, pipeline: str, sign: int, queued: int, resident: int) -> None:
        counts = self[pipeline]
        now = Counts(
            counts.num_requests + sign,
            counts.num_queued_tokens + sign * queued,
            counts.num_resident_tokens + sign * resident,
        )
        if now == NOTHING:  # pipelines come and go for as long as the service lives
            del self._counts[pipeline]
        else:
            self._counts[pipeline] = now
