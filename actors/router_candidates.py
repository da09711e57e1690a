"""Pipelines as the router's choice sees them, from what it was told and what it has there. Pure."""

from actors.messages import PipelineStatus
from actors.stream import Stream
from scheduling.batch_times import BatchTimes
from scheduling.pairing import Candidate
from scheduling.pipeline_loads import Counts, Share
from scheduling.routing import PipelineFit, PipelineLoad


def fit_of(status: PipelineStatus) -> PipelineFit | None:
    """What requests may be timed by in a pipeline; None if its times or its KV are not known."""
    if status.times is None or not status.kv_tokens or not status.max_running:
        return None
    return PipelineFit(
        times=BatchTimes(prefill=status.times.prefill, decode=status.times.decode),
        kv_tokens=status.kv_tokens,
        max_running=status.max_running,
    )


def share_of(stream: Stream) -> Share:
    """What pipelines have of a stream; who is to come to one counts there as well."""
    return Share(
        pipeline=stream.pipeline,
        goes_on_at=stream.goes_on_at,
        num_queued_tokens=stream.num_queued_tokens,
        num_resident_tokens=len(stream.generate.token_ids) + len(stream.delivered),
    )


def candidate(status: PipelineStatus, counts: Counts, fit: PipelineFit | None) -> Candidate:
    """A pipeline that is up, with what it has before it."""
    is_decode = status.serves == "decode"
    load = PipelineLoad(
        pipeline=status.pipeline,
        num_queued_tokens=counts.num_queued_tokens,
        num_running=counts.num_requests,
        num_resident_tokens=counts.num_resident_tokens,
        num_free_tokens=status.kv_tokens - counts.num_resident_tokens if is_decode else None,
        fit=fit,
    )
    has_room = counts.num_requests < status.max_running + status.max_waiting
    return Candidate(load=load, phase=status.serves, has_room=has_room)
