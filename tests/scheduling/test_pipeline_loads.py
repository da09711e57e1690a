"""Running counts of what pipelines have equal those computed anew."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from scheduling.pipeline_loads import NOTHING, Counts, PipelineLoads, Share

PIPELINES = "abc"
shares = st.builds(
    Share,
    st.sampled_from(PIPELINES),
    st.sampled_from(("", *PIPELINES)),
    st.integers(0, 100),
    st.integers(0, 100),
)
changes = st.lists(st.tuples(st.sampled_from("rst"), st.none() | shares), max_size=40)


def anew(shares: Mapping[str, Share], pipeline: str) -> Counts:
    here = [s for s in shares.values() if pipeline in (s.pipeline, s.goes_on_at)]
    return Counts(
        num_requests=len(here),
        num_queued_tokens=sum(s.num_queued_tokens for s in here if s.pipeline == pipeline),
        num_resident_tokens=sum(s.num_resident_tokens for s in here),
    )


@given(changes)
def test_counts_equal_those_computed_anew_after_any_changes(
    changes: list[tuple[str, Share | None]],
) -> None:
    loads, kept = PipelineLoads(), dict[str, Share]()
    for request, share in changes:
        if share is None:
            loads.drop(request)
            kept.pop(request, None)
        else:
            loads.put(request, share)
            kept[request] = share
        assert [loads[name] for name in PIPELINES] == [anew(kept, name) for name in PIPELINES]


def test_a_pipeline_that_has_nothing_is_forgotten() -> None:
    loads = PipelineLoads()
    loads.put("r", Share("a", "b", 8, 8))
    loads.put("r", Share("b", "", 0, 9))
    assert (loads["a"], loads["b"]) == (NOTHING, Counts(1, 0, 9))
    loads.drop("r")
    loads.drop("r")
    assert loads.statistics() == {}
