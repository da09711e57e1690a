"""The whole protocol on one page: every message that crosses between actors, with its bounds.

Read it in the order of a service's life: a process comes up, a node joins, workers start, stages
load, a pipeline opens, requests stream, steps go round, and somebody asks how things are. A step of
S stages is S + 1 messages: `StepInput` to each stage in turn, and one `StepOutput` home.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from actors.kernel.ref import Ref
from models.kv_encoding import KvEncoding
from transport.checksum import CHECKSUM_BYTES
from transport.codec import Message

Name = Annotated[str, Meta(max_length=256)]
Text = Annotated[str, Meta(max_length=8192)]
MAX_REASON = 4096
"""Characters told of an error, an end or a logged line; these have no bound of their own."""
Path = Annotated[str, Meta(max_length=4096)]
Count = Annotated[int, Meta(ge=0, le=1 << 48)]
Epoch = Annotated[int, Meta(ge=0, le=1 << 48)]
Rate = Annotated[float, Meta(gt=0, le=1e30)]
Elapsed = Annotated[float, Meta(ge=0, le=1e12)]
TokenId = Annotated[int, Meta(ge=0, lt=1 << 31)]
TokenIds = Annotated[tuple[TokenId, ...], Meta(max_length=1 << 20)]
Checksum = Annotated[bytes, Meta(min_length=CHECKSUM_BYTES, max_length=CHECKSUM_BYTES)]
Packed = Annotated[bytes, Meta(max_length=1 << 26)]
BlockDigest = Annotated[bytes, Meta(min_length=16, max_length=16)]
MAX_DIGESTS = 1 << 17
"""So many blocks of a request's beginning are named at most."""
MAX_PIECES, MAX_PIECE_LAYERS = 16, 64
"""Each layer of a piece is a buffer of its message, of which the transport takes 1024."""


# --- processes and nodes ---------------------------------------------------------------------


class ProcessUp(Message, frozen=True, tag="process_up"):
    """A process the launcher started listens; `ref` is its actor."""

    role: Name
    ref: Ref
    pid: Count


class WorkerUp(Message, frozen=True, tag="worker_up"):
    """A stage worker listens and has measured its device.

    `shared_bytes` is what its node's tensor store could take, what is in it counted as free.

    Units: bytes, floating-point operations and bytes per second, seconds.
    """

    worker: Name
    ref: Ref
    pid: Count
    device: Name
    device_name: Name
    memory_bytes: Count
    flops_per_s: Rate
    bytes_per_s: Rate
    layer_overhead_s: Annotated[float, Meta(ge=0, le=60)]
    shared_bytes: Count = 0


class PipelineOpen(Message, frozen=True, tag="pipeline_open"):
    """The pipeline takes requests; sent to whoever opened it."""

    epoch: Epoch
    pipeline: Name
    ref: Ref


class JoinNode(Message, frozen=True, tag="join_node"):
    """A node offers its devices; answered by `Welcome` or `JoinRefused`.

    One that was here before says which of its workers and pipelines live.
    """

    node: Name
    ref: Ref
    devices: Annotated[tuple[Name, ...], Meta(max_length=1024)]
    num_cores: Count
    version: Name
    workers: Annotated[tuple[WorkerUp, ...], Meta(max_length=4096)] = ()
    pipelines: Annotated[tuple[PipelineOpen, ...], Meta(max_length=1024)] = ()
    pid: Count = 0


class Welcome(Message, frozen=True, tag="welcome"):
    """The node is a member from this epoch on."""

    epoch: Epoch


class AreYouThere(Message, frozen=True, tag="are_you_there"):
    """Ask whether an actor answers; it says nothing but that."""


class MeasureLink(Message, frozen=True, tag="measure_link"):
    """Ask a node what its link to another is like; answered by `LinkMeasured`."""

    peer: Ref


class LinkMeasured(Message, frozen=True, tag="link_measured"):
    """Seconds one way and bytes a second of a link; they say nothing where there is a failure."""

    latency_s: Annotated[float, Meta(ge=0, le=86400)]
    bytes_per_s: Rate
    failure: Text | None = None


class ProbeFrame(Message, frozen=True, tag="probe_frame"):
    """Bytes that are sent to see how long they take; their receipt is all that is told."""


class JoinRefused(Message, frozen=True, tag="join_refused"):
    """The node cannot be a member; the sentence says why."""

    reason: Text


class StartWorker(Message, frozen=True, tag="start_worker"):
    """Start a stage worker on a device of the node."""

    worker: Name
    device: Name
    num_threads: Annotated[int, Meta(ge=1, le=4096)]


class StopWorker(Message, frozen=True, tag="stop_worker"):
    """End a stage worker that does not answer, or that no plan uses any more."""

    worker: Name


class WorkerDown(Message, frozen=True, tag="worker_down"):
    """A stage worker's process ended; `reason` holds the exit status and its last line."""

    worker: Name
    pid: Count
    reason: Text


# --- stages and pipelines --------------------------------------------------------------------


class WeightPolicy(Message, frozen=True, tag="weight_policy"):
    """Where a stage's weights come from, and what for.

    `source` is auto (this node's own copy, else another node's), disk or peer; `verify` is what
    `models.fingerprint` knows. `store_bytes` bounds what the node keeps in shared memory of all
    models; 0 keeps none. Weights that are read beside a stage that serves, or sent to another
    node, keep to `max_bytes_per_s`. `holders` are workers elsewhere that may have them.
    """

    source: Literal["auto", "disk", "peer"] = "disk"
    verify: Literal["sample", "full"] = "sample"
    store_bytes: Count = 0
    max_bytes_per_s: Rate = 400e6
    holders: Annotated[tuple[Ref, ...], Meta(max_length=64)] = ()


class AssignStage(Message, frozen=True, tag="assign_stage"):
    """Have the worker hold this stage of this pipeline for an epoch; answered by `StageReady`.

    What it holds for an earlier epoch of the pipeline serves on beside it, and layers that are in
    both are shared, KV and all. `home` is the pipeline's actor, `log_bytes` what the stage may
    take of host memory to remember the hidden states it gave out; 0 remembers none.
    """

    epoch: Epoch
    pipeline: Name
    stage: Count
    model: Path
    model_hash: Name
    start: Count
    end: Count
    dtype: Name
    wire_dtype: Name
    num_blocks: Annotated[int, Meta(ge=1, le=1 << 31)]
    block_tokens: Annotated[int, Meta(ge=1, le=1 << 16)]
    successor: Ref
    home: Ref
    observer: Ref
    log_bytes: Count
    weights: WeightPolicy = WeightPolicy()


class LoadProgress(Message, frozen=True, tag="load_progress"):
    """How much of its weights a stage has loaded, told to the assignment's observer."""

    epoch: Epoch
    pipeline: Name
    stage: Count
    num_bytes: Count
    total_bytes: Count


class StageReady(Message, frozen=True, tag="stage_ready"):
    """The stage can take steps of this epoch.

    Layers `[kept_start, kept_end)` are shared with what it held of the pipeline, KV included. It
    remembers what it gives out for the first `num_logged_blocks` KV blocks; `keeps_log` if that
    goes on from what it held.
    """

    epoch: Epoch
    pipeline: Name
    stage: Count
    kept_start: Count
    kept_end: Count
    num_logged_blocks: Count
    keeps_log: bool
    weight_bytes: Count
    kv_bytes: Count
    resident_bytes: Count


class StageFailed(Message, frozen=True, tag="stage_failed"):
    """The stage cannot load; the sentence says why."""

    epoch: Epoch
    stage: Count
    reason: Text


class StageSpec(Message, frozen=True, tag="stage_spec"):
    """A stage that is ready, as its pipeline knows it; the words are `StageReady`'s."""

    ref: Ref
    start: Count
    end: Count
    kept_start: Count
    kept_end: Count
    num_logged_blocks: Count
    keeps_log: bool


class OpenPipeline(Message, frozen=True, tag="open_pipeline"):
    """Start a pipeline actor over stages that are ready.

    One that takes over from another waits for what that hands it, and sends no step before. With
    `prefix_sharing` requests that begin with the same tokens share KV blocks.
    """

    epoch: Epoch
    pipeline: Name
    stages: Annotated[tuple[StageSpec, ...], Meta(min_length=1, max_length=1024)]
    num_blocks: Annotated[int, Meta(ge=1, le=1 << 31)]
    block_tokens: Annotated[int, Meta(ge=1, le=1 << 16)]
    max_running: Annotated[int, Meta(ge=1, le=1 << 16)]
    max_waiting: Annotated[int, Meta(ge=0, le=1 << 20)]
    max_step_tokens: Annotated[int, Meta(ge=1, le=1 << 20)]
    max_model_len: Annotated[int, Meta(ge=1, le=1 << 24)]
    step_deadline_s: Annotated[float, Meta(gt=0, le=86400)]
    recovery_timeout_s: Annotated[float, Meta(gt=0, le=86400)]
    takes_over: bool
    prefix_sharing: bool = True


class PipelineDegraded(Message, frozen=True, tag="pipeline_degraded"):
    """Stages of the pipeline are gone; it holds its requests and waits for `ChangeStages`."""

    epoch: Epoch
    pipeline: Name
    lost: Annotated[tuple[Ref, ...], Meta(max_length=1024)]
    reason: Text


class ClosePipeline(Message, frozen=True, tag="close_pipeline"):
    """End a pipeline actor; its requests, if it has any, go back to their routers."""

    reason: Text


class LeaveNow(Message, frozen=True, tag="leave_now"):
    """A node is empty, or out of time: it may end."""


class SuccessorLost(Message, frozen=True, tag="successor_lost"):
    """A stage cannot reach the one after it, whoever else can; told to their pipeline."""

    ref: Ref


class ChangeStages(Message, frozen=True, tag="change_stages"):
    """Go on over these stages, which are ready, at a newer epoch; what is not theirs yet is moved.

    `lost` are workers known to be gone, which the pipeline may not have noticed. KV is copied for
    at most `copy_s`; sequences for which that is not enough are computed again. Answered by
    `StagesChanged` or `ChangeAborted`, after which the old epoch goes on.
    """

    epoch: Epoch
    stages: Annotated[tuple[StageSpec, ...], Meta(min_length=1, max_length=1024)]
    num_blocks: Annotated[int, Meta(ge=1, le=1 << 31)]
    lost: Annotated[tuple[Ref, ...], Meta(max_length=1024)]
    deadline_s: Annotated[float, Meta(gt=0, le=86400)]
    copy_s: Annotated[float, Meta(ge=0, le=86400)] | None = None


class PhaseReport(Message, frozen=True, tag="phase_report"):
    """What one phase of a change took and moved."""

    phase: Name
    duration_s: Annotated[float, Meta(ge=0)]
    num_bytes: Count


class StagesChanged(Message, frozen=True, tag="stages_changed"):
    """The pipeline goes on at the new epoch.

    Of what a loss made necessary: `num_rebuilt` entries of one token in one layer were computed
    again, where computing the same requests from their beginning takes `num_whole`. That is what
    was done for `num_preempted` of them, whose entries are counted in both.
    """

    epoch: Epoch
    phases: Annotated[tuple[PhaseReport, ...], Meta(max_length=16)]
    num_rebuilt: Count
    num_whole: Count
    num_preempted: Count


class ChangePhase(Message, frozen=True, tag="change_phase"):
    """A pipeline tells its coordinator how far a change to an epoch is."""

    epoch: Epoch
    pipeline: Name
    phase: Name


class ChangeAborted(Message, frozen=True, tag="change_aborted"):
    """The pipeline is where it was before; the sentence says why."""

    epoch: Epoch
    phase: Name
    reason: Text


class PipelineLost(Message, frozen=True, tag="pipeline_lost"):
    """The pipeline's actor ended and gave its requests back; `is_stuck` if nobody knows why."""

    epoch: Epoch
    pipeline: Name
    reason: Text
    is_stuck: bool = False


# --- moving KV and rebuilding it ----------------------------------------------------------------


class Fence(Message, frozen=True, tag="fence"):
    """Take no step older than this epoch any more; answered once none is under way."""

    epoch: Epoch


class SettleEpoch(Message, frozen=True, tag="settle_epoch"):
    """Of all epochs up to `upto` the pipeline is at this one: what is held for the others can go.

    What is being prepared for a later one stays.
    """

    pipeline: Name
    epoch: Epoch
    upto: Epoch


class SendBlocks(Message, frozen=True, tag="send_blocks"):
    """Copy KV blocks of layers `[start, end)` to another stage, into the blocks it names.

    Both hold int32 ids, little-endian, in the same order. With another `encoding` than `none` the
    entries travel in fewer bits and arrive about the same. With `after_step` the stage begins as
    soon as it has run that step of the epoch, and fails if it runs a later one instead. Answered
    by `BlocksSent`.
    """

    epoch: Epoch
    start: Count
    end: Count
    blocks: Packed
    target: Ref
    target_epoch: Epoch
    target_blocks: Packed
    deadline_s: Annotated[float, Meta(gt=0, le=86400)]
    encoding: KvEncoding = "none"
    after_step: Count | None = None


class BlocksSent(Message, frozen=True, tag="blocks_sent"):
    """How a copy went: `failure` is None if all of it was written and checked.

    `num_bytes` went over the wire, `saved_bytes` fewer than without an encoding.
    """

    num_bytes: Count
    failure: Text | None
    saved_bytes: Count = 0


class BlockPiece(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Blocks of some layers, the same in each; the checksum runs over their buffers in order."""

    layer: Count
    num_layers: Annotated[int, Meta(ge=1, le=MAX_PIECE_LAYERS)]
    blocks: Packed
    checksum: Checksum


class WriteBlocks(Message, frozen=True, tag="write_blocks"):
    """A part of a copy, with a buffer for each layer of each piece; answered by `BlocksWritten`.

    What is written in one go, keeping the device from its steps, is one piece.
    """

    epoch: Epoch
    pieces: Annotated[tuple[BlockPiece, ...], Meta(min_length=1, max_length=MAX_PIECES)]
    encoding: KvEncoding = "none"


class BlocksWritten(Message, frozen=True, tag="blocks_written"):
    """All pieces are in their places, unless `failure` says why not."""

    failure: Text | None


class ReplayFrom(Message, frozen=True, tag="replay_from"):
    """Send the hidden states you remember for this batch on, through the stages up to `last`."""

    epoch: Epoch
    step: Count
    batch: Packed
    last: Count


class ReplayStep(Message, frozen=True, tag="replay_step"):
    """Compute KV entries again; as a step, but it ends at stage `last` with `ReplayDone`."""

    epoch: Epoch
    step: Count
    batch: Packed
    last: Count


class ReplayDone(Message, frozen=True, tag="replay_done"):
    """The entries of a replayed batch are in the blocks of all stages that were to have them."""

    epoch: Epoch
    step: Count


# --- weights from another node ------------------------------------------------------------------


class FetchWeights(Message, frozen=True, tag="fetch_weights"):
    """See that the weights of layers `[start, end)` are on this node; answered by `WeightsFetched`.

    A stage asks it of its own process.
    """

    model: Path
    model_hash: Name
    start: Count
    end: Count
    policy: WeightPolicy


class WeightsFetched(Message, frozen=True, tag="weights_fetched"):
    """The weights are in the directory `model`, unless `failure` says why not."""

    model: Path
    num_bytes: Count
    failure: Text | None


class FindWeights(Message, frozen=True, tag="find_weights"):
    """Have you the model with this hash? Answered by `WeightsFound`."""

    model: Path
    model_hash: Name
    verify: Literal["sample", "full"]


class WeightFile(Message, frozen=True, tag="weight_file"):
    """A small file that goes with a model."""

    name: Name
    num_bytes: Annotated[int, Meta(ge=0, le=1 << 28)]


class WeightsFound(Message, frozen=True, tag="weights_found"):
    """It is here, with these small files, unless `failure` says why not."""

    files: Annotated[tuple[WeightFile, ...], Meta(max_length=64)]
    failure: Text | None


class WeightPiece(Message, frozen=True, tag="weight_piece"):
    """Some bytes of a tensor or of a small file, by its name."""

    name: Annotated[str, Meta(max_length=1024)]
    offset: Count
    num_bytes: Annotated[int, Meta(ge=0, le=1 << 22)]


class SendWeights(Message, frozen=True, tag="send_weights"):
    """Send these pieces, each as `WriteWeights`, to `target`; answered by `WeightsSent`.

    `transfer` is the target's name for all of it.
    """

    model: Path
    model_hash: Name
    verify: Literal["sample", "full"]
    transfer: Count
    pieces: Annotated[tuple[WeightPiece, ...], Meta(max_length=1 << 12)]
    target: Ref
    max_bytes_per_s: Rate
    deadline_s: Annotated[float, Meta(gt=0, le=86400)]


class WeightsSent(Message, frozen=True, tag="weights_sent"):
    """How it went: `failure` is None if every piece was taken."""

    num_bytes: Count
    failure: Text | None


class WriteWeights(Message, frozen=True, tag="write_weights"):
    """A piece, its bytes beside it; answered by `WeightsWritten`."""

    transfer: Count
    name: Annotated[str, Meta(max_length=1024)]
    offset: Count
    checksum: Checksum


class WeightsWritten(Message, frozen=True, tag="weights_written"):
    """A piece is in its place, unless `failure` says why not."""

    failure: Text | None


# --- requests --------------------------------------------------------------------------------


class Taker(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A pipeline that may go on with a request, and how its KV travels there."""

    ref: Ref
    encoding: KvEncoding = "none"


class Generate(Message, frozen=True, tag="generate"):
    """Continue a sequence; tokens come back to the sender in `Tokens`.

    What lies behind the first `num_prompt_tokens` was generated elsewhere, and counts as such; 0
    means that all is prompt. `extras` are packed `SamplingExtras`, which the last stage reads. With
    its first token it is to go on in one of the pipelines of `hand_off`, best first, if one has
    room.
    """

    request: Name
    token_ids: TokenIds
    max_tokens: Annotated[int, Meta(ge=1, le=1 << 24)]
    min_tokens: Annotated[int, Meta(ge=0, le=1 << 24)]
    stop_token_ids: Annotated[tuple[TokenId, ...], Meta(max_length=4096)]
    temperature: Annotated[float, Meta(ge=0, le=100)]
    top_p: Annotated[float, Meta(gt=0, le=1)]
    top_k: Annotated[int, Meta(ge=0, lt=1 << 31)]
    min_p: Annotated[float, Meta(ge=0, le=1)]
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    num_prompt_tokens: Count = 0
    extras: Annotated[bytes, Meta(max_length=1 << 18)] = b""
    hand_off: Annotated[tuple[Taker, ...], Meta(max_length=8)] = ()


class HandOffTo(Message, frozen=True, tag="hand_off_to"):
    """A request that a pipeline has is to go on in one of others, best first, if one has room."""

    request: Name
    takers: Annotated[tuple[Taker, ...], Meta(min_length=1, max_length=8)]


class Cancel(Message, frozen=True, tag="cancel"):
    """Nobody reads this request any more; free what it holds at the next step boundary."""

    request: Name


class SequenceState(Message, frozen=True, tag="sequence_state"):
    """All that a request is in a pipeline; `blocks` are its int32 KV block ids at the receiver.

    The entries of the first `num_exact_blocks` of them are what computing gives; those behind came
    encoded, or follow from such. None says that all are.
    """

    generate: Generate
    router: Ref
    num_computed: Count
    blocks: Packed
    num_exact_blocks: Count | None = None


class HandOver(Message, frozen=True, tag="hand_over"):
    """Give every request, as it is, to another actor over the same stages, and end.

    Answered by `HandedOver`.
    """

    to: Ref
    deadline_s: Annotated[float, Meta(gt=0, le=86400)]


class HandedOver(Message, frozen=True, tag="handed_over"):
    """The requests are there, unless `failure` says why they are still here."""

    num_requests: Count
    failure: Text | None


class TakeOver(Message, frozen=True, tag="take_over"):
    """Go on with these requests, whose KV is in the blocks they name; answered by `TakenOver`."""

    sequences: Annotated[tuple[SequenceState, ...], Meta(max_length=1 << 17)]


class TakenOver(Message, frozen=True, tag="taken_over"):
    """They go on here, unless `failure` says why they do not."""

    failure: Text | None


class ReserveBlocks(Message, frozen=True, tag="reserve_blocks"):
    """Keep KV blocks for a request that is to come; answered by `BlocksReserved`.

    For a hand-off it is as with a request that is admitted: those that run keep room to grow.
    `digests` name its beginning, block by block (`scheduling.prefixes`): what of it is there is not
    to be written again.
    """

    request: Name
    num_blocks: Annotated[int, Meta(ge=1, le=1 << 31)]
    lease_s: Annotated[float, Meta(gt=0, le=86400)]
    is_hand_off: bool = False
    digests: Annotated[tuple[BlockDigest, ...], Meta(max_length=MAX_DIGESTS)] = ()


class BlocksReserved(Message, frozen=True, tag="blocks_reserved"):
    """They are kept, or, if `blocks` is empty, there are not so many; and who is to write them.

    The first `num_present` hold the request's entries already, and may be others' as well.
    """

    blocks: Packed
    epoch: Epoch
    stages: Annotated[tuple[StageSpec, ...], Meta(max_length=1024)]
    num_present: Count = 0


class ExtendLease(Message, frozen=True, tag="extend_lease"):
    """The request for which blocks are kept is on its way: keep them so long from now on."""

    request: Name
    lease_s: Annotated[float, Meta(gt=0, le=86400)]


class ReleaseBlocks(Message, frozen=True, tag="release_blocks"):
    """The request for which blocks are kept does not come."""

    request: Name


class MoveOut(Message, frozen=True, tag="move_out"):
    """Move one request, KV and all, to another pipeline; answered by `HandedOver`."""

    request: Name
    to: Ref
    deadline_s: Annotated[float, Meta(gt=0, le=86400)]


class PipelineShort(Message, frozen=True, tag="pipeline_short"):
    """A pipeline's KV blocks may not last: this request of its should go to another one."""

    pipeline: Name
    request: Name
    num_blocks: Count


class StreamsMoved(Message, frozen=True, tag="streams_moved"):
    """These requests are served by another pipeline actor from now on."""

    requests: Annotated[tuple[Name, ...], Meta(max_length=1 << 17)]
    to: Ref


class TokensOf(Message, frozen=True, tag="tokens_of"):
    """New tokens of one request, from `position` among its generated tokens on.

    `logprobs` are packed `TokenLogprobs` of them, or of prompt tokens, and name their places. With
    the first token comes `num_cached`: tokens of the prompt that were not computed for it.
    """

    request: Name
    position: Count
    token_ids: TokenIds
    finish_reason: Annotated[str, Meta(max_length=16)] | None
    logprobs: Packed = b""
    num_cached: Count = 0


class Tokens(Message, frozen=True, tag="tokens"):
    """What one step gave to the requests of one router."""

    epoch: Epoch
    updates: Annotated[tuple[TokensOf, ...], Meta(max_length=1 << 14)]


OUT_OF_REACH = "out_of_reach"
"""Of a request whose router a pipeline cannot hear, though that may hear the pipeline."""


class RequestFailed(Message, frozen=True, tag="request_failed"):
    """A request that was taken cannot go on; `kind` is one short word, `reason` a sentence."""

    request: Name
    kind: Name
    reason: Text


class Recovered(Message, frozen=True, tag="recovered"):
    """A pipeline lost a part of itself and mended it; these requests paused and go on."""

    requests: Annotated[tuple[Name, ...], Meta(max_length=1 << 17)]
    what: Text


class WorkloadSeen(Message, frozen=True, tag="workload_seen"):
    """What a router saw of requests since it told last; the words are `scheduling.profiler.Seen`'s.

    Units: tokens; seconds, squares of seconds for `gaps_s2`, all of them sums over requests.
    """

    router: Name
    elapsed_s: Elapsed
    num_arrived: Count
    gaps_s2: Annotated[float, Meta(ge=0, le=1e24)]
    num_finished: Count
    prompts: Annotated[tuple[Count, ...], Meta(max_length=256)]
    outputs: Annotated[tuple[Count, ...], Meta(max_length=256)]
    prefill_queue_s: Elapsed
    decode_queue_s: Elapsed


# --- steps -----------------------------------------------------------------------------------


class StepInput(Message, frozen=True, tag="step_input"):
    """One step for a stage; `batch` is a packed `ForwardBatch`, hidden states travel beside it."""

    epoch: Epoch
    step: Count
    batch: Packed


class StepOutput(Message, frozen=True, tag="step_output"):
    """One step's drawn tokens, [B] int32 little-endian.

    They are -1 where nothing was to be drawn and -2 where no token may follow. `logprobs` are
    (sequence of the batch, packed `TokenLogprobs`) of those that asked.
    """

    epoch: Epoch
    step: Count
    token_ids: Packed
    logprobs: Annotated[tuple[tuple[Count, Packed], ...], Meta(max_length=1 << 14)] = ()


# --- the coordinator's news ------------------------------------------------------------------


class RegisterRouter(Message, frozen=True, tag="register_router"):
    """A router wants to hear of every plan; answered at once by the present one."""

    ref: Ref
    pid: Count = 0


class Subscribe(Message, frozen=True, tag="subscribe"):
    """A launcher wants to hear how the cluster comes up."""

    ref: Ref


class StageStatus(Message, frozen=True, tag="stage_status"):
    """One stage as `/admin/status` shows it."""

    stage: Count
    node: Name
    device: Name
    worker: Name
    pid: Count
    start: Count
    end: Count
    kv_blocks: Count
    weight_bytes: Count
    resident_bytes: Count
    state: Name


class ChangeStatus(Message, frozen=True, tag="change_status"):
    """The last change of a pipeline's stages; `recomputed` is the share that `StagesChanged` tells.

    Times are in seconds. `noticed_s` is from the first news of a loss to the beginning.
    """

    epoch: Epoch
    cause: Name
    noticed_s: Annotated[float, Meta(ge=0)]
    phases: Annotated[tuple[PhaseReport, ...], Meta(max_length=16)]
    recomputed: Annotated[float, Meta(ge=0, le=1)]
    num_preempted: Count


class ProcessInfo(Message, frozen=True, tag="process_info"):
    """A process of the service that is no stage worker."""

    role: Name
    name: Name
    pid: Count


class FittedTimes(Message, frozen=True, tag="fitted_times"):
    """How long a pipeline's batches take, by `scheduling.batch_times`; seconds and none below 0.

    `prefill` is for a batch, a token and a squared length, `decode` for a step, a sequence of it
    and a token of its context.
    """

    prefill: tuple[Elapsed, Elapsed, Elapsed]
    decode: tuple[Elapsed, Elapsed, Elapsed]


LOADING, READY, RECOVERING, LOST = "loading", "ready", "recovering", "lost"
"""The states of a pipeline."""


class PipelineStatus(Message, frozen=True, tag="pipeline_status"):
    """One pipeline as `/admin/status` shows it; `ref` is None until it is open.

    `phase` is that of the change that is under way, if one is. `serves` is the part of a request
    that it serves: both, prefill or decode. Its KV cache holds `kv_tokens`, 0 if that is not known.
    `times` are those that requests are routed by, None while too little was measured.
    """

    pipeline: Name
    epoch: Epoch
    ref: Ref | None
    state: Name
    max_running: Count
    max_waiting: Count
    stages: Annotated[tuple[StageStatus, ...], Meta(max_length=1024)]
    last_change: ChangeStatus | None = None
    phase: Name | None = None
    serves: Literal["both", "prefill", "decode"] = "both"
    kv_tokens: Count = 0
    times: FittedTimes | None = None


class RouteStatus(Message, frozen=True, tag="route_status"):
    """The way from a pipeline that serves prefill to one that goes on with its requests.

    `weight` is the share that the plan gives it, `bytes_per_s` the rate of the slowest link on it;
    None where there is none, or it was not measured. KV that is handed off travels by `encoding`.
    """

    prefill: Name
    decode: Name
    weight: Rate | None = None
    bytes_per_s: Rate | None = None
    encoding: KvEncoding = "none"


class PlanChanged(Message, frozen=True, tag="plan_changed"):
    """The plan and its state as the coordinator knows them, pushed on every change.

    `missing` says in words what is still waited for; it is empty when every stage is ready.
    `failure` ends the launch. Routers tell `WorkloadSeen` while the coordinator wants it.
    """

    epoch: Epoch
    model: Name
    pipelines: Annotated[tuple[PipelineStatus, ...], Meta(max_length=1024)]
    nodes: Annotated[tuple[Name, ...], Meta(max_length=4096)]
    missing: Annotated[tuple[Text, ...], Meta(max_length=4096)]
    failure: Text | None
    processes: Annotated[tuple[ProcessInfo, ...], Meta(max_length=8192)] = ()
    routes: Annotated[tuple[RouteStatus, ...], Meta(max_length=1 << 14)] = ()
    wants_workload: bool = False


class GetPlan(Message, frozen=True, tag="get_plan"):
    """Ask the coordinator for the plan that serves; answered by `PlanDocument`."""


class PlanDocument(Message, frozen=True, tag="plan_document"):
    """A plan as JSON, which `ChangePlan` takes, and as JSON what the planner says of it.

    `planner` is empty where that is not known.
    """

    plan: Packed
    planner: Packed = b""


class ChangePlan(Message, frozen=True, tag="change_plan"):
    """Give a pipeline other stages while it serves; answered by `PlanReport`.

    One of `layers` ("0:5,5:12"), `num_stages` and `plan` says which; an empty `pipeline` is the
    only one. A `plan` is JSON: a pipeline's, or all pipelines', which may be more or fewer.
    """

    pipeline: Name
    layers: Text
    num_stages: Count
    plan: Packed
    is_dry_run: bool


class DrainNode(Message, frozen=True, tag="drain_node"):
    """Move everything off a node, which is about to go; answered by `PlanReport`."""

    node: Name
    deadline_s: Annotated[float, Meta(gt=0, le=86400)]


class FlipPhases(Message, frozen=True, tag="flip_phases"):
    """Have pipelines serve other phases from now on; answered by `PlanReport`.

    `phases` are (pipeline, both | prefill | decode); pipelines that are not in it stay as they are.
    Of `routes` the weights count; where there are none, those that there are stay.
    """

    phases: Annotated[tuple[tuple[Name, Name], ...], Meta(max_length=1024)]
    routes: Annotated[tuple[RouteStatus, ...], Meta(max_length=1 << 14)] = ()
    is_dry_run: bool = False


class MoveRequest(Message, frozen=True, tag="move_request"):
    """Move a running request to another pipeline; answered by `PlanReport`."""

    request: Name
    from_pipeline: Name
    to_pipeline: Name


class PlanReport(Message, frozen=True, tag="plan_report"):
    """What became of a change: what moved or would move, in sentences, and how long it took."""

    is_done: bool
    reason: Text
    epoch: Epoch
    phases: Annotated[tuple[PhaseReport, ...], Meta(max_length=64)]
    moves: Annotated[tuple[Text, ...], Meta(max_length=4096)]


class Progress(Message, frozen=True, tag="progress"):
    """Weights loaded so far over all stages, for a progress bar."""

    num_bytes: Count
    total_bytes: Count


Step = tuple[Count, Count, Count, Count, Annotated[float, Meta(ge=0, le=86400)]]
"""Tokens, positions attended to, KV entries read, tokens drawn, and seconds on the device."""


class GetStageSteps(Message, frozen=True, tag="get_stage_steps"):
    """Ask a stage what its last steps of some layers took; answered by `StageSteps`."""

    start: Count
    end: Count


class StageSteps(Message, frozen=True, tag="stage_steps"):
    """Steps of a stage, oldest first; `tokens_per_s` is None where too little was done to tell."""

    start: Count
    end: Count
    steps: Annotated[tuple[Step, ...], Meta(max_length=1024)]
    tokens_per_s: float | None


class GetSteps(Message, frozen=True, tag="get_steps"):
    """Ask the coordinator what the last steps of all stages took; answered by `StepsDocument`."""


class StepsDocument(Message, frozen=True, tag="steps_document"):
    """The steps of all stages as JSON, with what is known of the model and the devices."""

    steps: Packed


class GetPipelineStages(Message, frozen=True, tag="get_pipeline_stages"):
    """Ask a pipeline over which stages it serves; answered by `PipelineStages`."""


class PipelineStages(Message, frozen=True, tag="pipeline_stages"):
    """Over which stages a pipeline serves; also told to its coordinator at every change.

    It cannot reach those in `lost`, and waits for others in their place.
    """

    pipeline: Name
    epoch: Epoch
    stages: Annotated[tuple[StageSpec, ...], Meta(min_length=1, max_length=1024)]
    num_blocks: Annotated[int, Meta(ge=1, le=1 << 31)]
    lost: Annotated[tuple[Ref, ...], Meta(max_length=1024)] = ()


class GetPipelineLoad(Message, frozen=True, tag="get_pipeline_load"):
    """Ask a pipeline how busy it is."""


class HandOffCounts(Message, frozen=True, tag="hand_off_counts"):
    """Requests that a pipeline gave to another with their first token, since it opened.

    Of those that were to go, `num_stayed` found no room at first, or no turn in time, and ask
    again; `num_failed` could not be given and go on where they are. `num_bytes` of KV took
    `seconds` of hand-offs done, each from the request for blocks to the taker's word;
    `num_saved_bytes` more would have travelled without an encoding. `num_present_blocks` were at
    the taker already and were not sent, `num_present_bytes` on the way that the others took.
    """

    num_done: Count = 0
    num_stayed: Count = 0
    num_failed: Count = 0
    num_bytes: Count = 0
    seconds: Elapsed = 0.0
    num_saved_bytes: Count = 0
    num_present_blocks: Count = 0
    num_present_bytes: Count = 0


class PipelineLoadReport(Message, frozen=True, tag="pipeline_load_report"):
    """How busy a pipeline is now; counts since it opened.

    Of requests given blocks for the first time, `num_prefix_queries` are the tokens, and
    `num_prefix_hits` those whose entries were there already.
    """

    pipeline: Name
    num_running: Count
    num_waiting: Count
    num_free_blocks: Count
    num_blocks: Count
    num_steps: Count
    num_preemptions: Count
    hand_offs: HandOffCounts = HandOffCounts()
    num_prefix_queries: Count = 0
    num_prefix_hits: Count = 0


class GetStageLoad(Message, frozen=True, tag="get_stage_load"):
    """Ask a stage what it did; answered by `StageLoad`."""


class StageLoad(Message, frozen=True, tag="stage_load"):
    """What a stage worker did since it began; times in seconds.

    `busy_s` is the time in which it had a step at the device, `resident_s` the sum over its steps
    of the time from their arrival to their result, `sent_bytes` the hidden states it gave on.
    """

    stage: Count
    num_steps: Count
    num_stale_steps: Count
    num_queued: Count
    busy_s: Elapsed
    idle_s: Elapsed
    resident_s: Elapsed
    sent_bytes: Count


class GetStageLoads(Message, frozen=True, tag="get_stage_loads"):
    """Ask a pipeline what its stages did; answered by `StageLoads`."""


class StageLoads(Message, frozen=True, tag="stage_loads"):
    """The loads of those stages of a pipeline that answered.

    `round_s` is the sum over the steps of the time from being sent to being back: what is not in
    the stages' `resident_s` of it went by between them.
    """

    pipeline: Name
    round_s: Elapsed
    num_stages: Count
    stages: Annotated[tuple[StageLoad, ...], Meta(max_length=1024)]


class LogLine(Message, frozen=True, tag="log_line"):
    """A line that a joined node's process wrote, for the launcher to show."""

    source: Name
    line: Text


# --- links disturbed on purpose -----------------------------------------------------------------

Targets = Annotated[tuple[Name, ...], Meta(min_length=1, max_length=1024)]


class GetProcesses(Message, frozen=True, tag="get_processes"):
    """Ask the coordinator where every process listens; answered by `Processes`."""


class ProcessAddress(Message, frozen=True, tag="process_address"):
    """Where a process listens, and the names that an operator may mean it by.

    A name may be several processes': `node:a` is its node's and that of each worker on it.
    """

    names: Targets
    address: Name


class Processes(Message, frozen=True, tag="processes"):
    """Every process of the service that the coordinator knows."""

    processes: Annotated[tuple[ProcessAddress, ...], Meta(max_length=8192)]


class DisturbLinks(Message, frozen=True, tag="disturb_links"):
    """Be ready to cut or slow the links with some peers; refused by `DisturbRefused`.

    It begins `after_s` after `BeginDisturbance`, so that this can reach everybody before it cuts
    anybody off, and ends `for_s` later by itself. A rate of 0 bytes per second is no bound.
    """

    name: Name
    peers: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=8192)]
    after_s: Annotated[float, Meta(ge=0, le=60)]
    for_s: Annotated[float, Meta(gt=0, le=3600)]
    is_cut: bool
    latency_s: Annotated[float, Meta(ge=0, le=10)] = 0.0
    bytes_per_s: Annotated[float, Meta(ge=0, le=1e30)] = 0.0


class BeginDisturbance(Message, frozen=True, tag="begin_disturbance"):
    """Everybody is ready: do what `DisturbLinks` of that name said."""

    name: Name


class DisturbRefused(Message, frozen=True, tag="disturb_refused"):
    """The links stay as they are; the sentence says why."""

    reason: Text


class MendLinks(Message, frozen=True, tag="mend_links"):
    """End what `DisturbLinks` of that name began, or is about to begin."""

    name: Name


class GetDisturbances(Message, frozen=True, tag="get_disturbances"):
    """Ask a process what disturbs its links; answered by `Disturbances`."""


class Disturbances(Message, frozen=True, tag="disturbances"):
    """What disturbs a process's links, each with the time that is left of it."""

    links: Annotated[tuple[DisturbLinks, ...], Meta(max_length=1024)]


ALL_MESSAGES: tuple[type[Message], ...] = (
    ProcessUp,
    JoinNode,
    Welcome,
    JoinRefused,
    AreYouThere,
    MeasureLink,
    LinkMeasured,
    ProbeFrame,
    StartWorker,
    StopWorker,
    WorkerUp,
    WorkerDown,
    WeightPolicy,
    AssignStage,
    LoadProgress,
    StageReady,
    StageFailed,
    StageSpec,
    OpenPipeline,
    PipelineOpen,
    PipelineDegraded,
    ClosePipeline,
    LeaveNow,
    SuccessorLost,
    ChangeStages,
    PhaseReport,
    StagesChanged,
    ChangeAborted,
    ChangePhase,
    PipelineLost,
    Fence,
    SettleEpoch,
    SendBlocks,
    BlocksSent,
    WriteBlocks,
    BlocksWritten,
    ReplayFrom,
    ReplayStep,
    ReplayDone,
    FetchWeights,
    WeightsFetched,
    FindWeights,
    WeightFile,
    WeightsFound,
    WeightPiece,
    SendWeights,
    WeightsSent,
    WriteWeights,
    WeightsWritten,
    Generate,
    HandOffTo,
    Cancel,
    SequenceState,
    HandOver,
    HandedOver,
    TakeOver,
    TakenOver,
    ReserveBlocks,
    BlocksReserved,
    ExtendLease,
    ReleaseBlocks,
    MoveOut,
    PipelineShort,
    WorkloadSeen,
    StreamsMoved,
    TokensOf,
    Tokens,
    RequestFailed,
    Recovered,
    StepInput,
    StepOutput,
    RegisterRouter,
    Subscribe,
    StageStatus,
    ChangeStatus,
    ProcessInfo,
    PipelineStatus,
    RouteStatus,
    FittedTimes,
    PlanChanged,
    GetPlan,
    PlanDocument,
    ChangePlan,
    DrainNode,
    FlipPhases,
    MoveRequest,
    PlanReport,
    Progress,
    GetStageSteps,
    StageSteps,
    GetSteps,
    StepsDocument,
    GetPipelineStages,
    PipelineStages,
    GetPipelineLoad,
    HandOffCounts,
    PipelineLoadReport,
    GetStageLoad,
    StageLoad,
    GetStageLoads,
    StageLoads,
    LogLine,
    GetProcesses,
    ProcessAddress,
    Processes,
    DisturbLinks,
    BeginDisturbance,
    DisturbRefused,
    MendLinks,
    GetDisturbances,
    Disturbances,
)
