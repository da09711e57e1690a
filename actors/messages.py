"""The whole protocol on one page: every message that crosses between actors, with its bounds.

Read it in the order of a service's life: a process comes up, a node joins, workers start, stages
load, a pipeline opens, requests stream, steps go round, and somebody asks how things are. A step of
S stages is S + 1 messages: `StepInput` to each stage in turn, and one `StepOutput` home.
"""

from typing import Annotated

from msgspec import Meta

from actors.kernel.ref import Ref
from transport.codec import Message

Name = Annotated[str, Meta(max_length=256)]
Text = Annotated[str, Meta(max_length=8192)]
Path = Annotated[str, Meta(max_length=4096)]
Count = Annotated[int, Meta(ge=0, le=1 << 48)]
Epoch = Annotated[int, Meta(ge=0, le=1 << 48)]
Rate = Annotated[float, Meta(gt=0, le=1e30)]
TokenId = Annotated[int, Meta(ge=0, lt=1 << 31)]
TokenIds = Annotated[tuple[TokenId, ...], Meta(max_length=1 << 20)]
Packed = Annotated[bytes, Meta(max_length=1 << 26)]


# --- processes and nodes ---------------------------------------------------------------------


class ProcessUp(Message, frozen=True, tag="process_up"):
    """A process the launcher started listens; `ref` is its actor."""

    role: Name
    ref: Ref
    pid: Count


class JoinNode(Message, frozen=True, tag="join_node"):
    """A node offers its devices; answered by `Welcome` or `JoinRefused`."""

    node: Name
    ref: Ref
    devices: Annotated[tuple[Name, ...], Meta(max_length=1024)]
    num_cores: Count
    version: Name


class Welcome(Message, frozen=True, tag="welcome"):
    """The node is a member from this epoch on."""

    epoch: Epoch


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


class WorkerUp(Message, frozen=True, tag="worker_up"):
    """A stage worker listens and has measured its device.

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


class WorkerDown(Message, frozen=True, tag="worker_down"):
    """A stage worker's process ended; `reason` holds the exit status and its last line."""

    worker: Name
    pid: Count
    reason: Text


# --- stages and pipelines --------------------------------------------------------------------


class AssignStage(Message, frozen=True, tag="assign_stage"):
    """Make the worker this stage of this pipeline; answered by `StageReady`.

    A worker that already holds these layers of this model keeps them and only takes the new epoch
    and neighbours.
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
    observer: Ref


class LoadProgress(Message, frozen=True, tag="load_progress"):
    """How much of its weights a stage has loaded, told to the assignment's observer."""

    epoch: Epoch
    pipeline: Name
    stage: Count
    num_bytes: Count
    total_bytes: Count


class StageReady(Message, frozen=True, tag="stage_ready"):
    """The stage can take steps of this epoch."""

    epoch: Epoch
    pipeline: Name
    stage: Count
    weight_bytes: Count
    kv_bytes: Count
    resident_bytes: Count


class StageFailed(Message, frozen=True, tag="stage_failed"):
    """The stage cannot load; the sentence says why."""

    epoch: Epoch
    stage: Count
    reason: Text


class OpenPipeline(Message, frozen=True, tag="open_pipeline"):
    """Start (or restart, at a newer epoch) a pipeline actor over stages that are ready."""

    epoch: Epoch
    pipeline: Name
    stages: Annotated[tuple[Ref, ...], Meta(min_length=1, max_length=1024)]
    num_blocks: Annotated[int, Meta(ge=1, le=1 << 31)]
    block_tokens: Annotated[int, Meta(ge=1, le=1 << 16)]
    max_running: Annotated[int, Meta(ge=1, le=1 << 16)]
    max_waiting: Annotated[int, Meta(ge=0, le=1 << 20)]
    max_step_tokens: Annotated[int, Meta(ge=1, le=1 << 20)]
    max_model_len: Annotated[int, Meta(ge=1, le=1 << 24)]
    step_deadline_s: Annotated[float, Meta(gt=0, le=86400)]


class PipelineOpen(Message, frozen=True, tag="pipeline_open"):
    """The pipeline takes requests; sent to whoever opened it."""

    epoch: Epoch
    pipeline: Name
    ref: Ref


class PipelineLost(Message, frozen=True, tag="pipeline_lost"):
    """A stage of the pipeline is gone; its requests were failed."""

    epoch: Epoch
    pipeline: Name
    reason: Text


# --- requests --------------------------------------------------------------------------------


class Generate(Message, frozen=True, tag="generate"):
    """Continue a sequence; tokens come back to the sender in `Tokens`."""

    epoch: Epoch
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


class Cancel(Message, frozen=True, tag="cancel"):
    """Nobody reads this request any more; free what it holds at the next step boundary."""

    request: Name


class TokensOf(Message, frozen=True, tag="tokens_of"):
    """New tokens of one request, from `position` among its generated tokens on."""

    request: Name
    position: Count
    token_ids: TokenIds
    finish_reason: Annotated[str, Meta(max_length=16)] | None


class Tokens(Message, frozen=True, tag="tokens"):
    """What one step gave to the requests of one router."""

    epoch: Epoch
    updates: Annotated[tuple[TokensOf, ...], Meta(max_length=1 << 14)]


class RequestFailed(Message, frozen=True, tag="request_failed"):
    """A request that was taken cannot go on; `kind` is one short word, `reason` a sentence."""

    request: Name
    kind: Name
    reason: Text


# --- steps -----------------------------------------------------------------------------------


class StepInput(Message, frozen=True, tag="step_input"):
    """One step for a stage; `batch` is a packed `ForwardBatch`, hidden states travel beside it."""

    epoch: Epoch
    step: Count
    batch: Packed


class StepOutput(Message, frozen=True, tag="step_output"):
    """One step's drawn tokens, [B] int32 little-endian, -1 where nothing was to be drawn."""

    epoch: Epoch
    step: Count
    token_ids: Packed


# --- the coordinator's news ------------------------------------------------------------------


class RegisterRouter(Message, frozen=True, tag="register_router"):
    """A router wants to hear of every plan; answered at once by the present one."""

    ref: Ref


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


class PipelineStatus(Message, frozen=True, tag="pipeline_status"):
    """One pipeline as `/admin/status` shows it; `ref` is None until it is open."""

    pipeline: Name
    epoch: Epoch
    ref: Ref | None
    state: Name
    max_running: Count
    max_waiting: Count
    stages: Annotated[tuple[StageStatus, ...], Meta(max_length=1024)]


class PlanChanged(Message, frozen=True, tag="plan_changed"):
    """The plan and its state as the coordinator knows them, pushed on every change.

    `missing` says in words what is still waited for; it is empty when every stage is ready.
    `failure` ends the launch.
    """

    epoch: Epoch
    model: Name
    pipelines: Annotated[tuple[PipelineStatus, ...], Meta(max_length=1024)]
    nodes: Annotated[tuple[Name, ...], Meta(max_length=4096)]
    missing: Annotated[tuple[Text, ...], Meta(max_length=4096)]
    failure: Text | None


class Progress(Message, frozen=True, tag="progress"):
    """Weights loaded so far over all stages, for a progress bar."""

    num_bytes: Count
    total_bytes: Count


class GetPipelineLoad(Message, frozen=True, tag="get_pipeline_load"):
    """Ask a pipeline how busy it is."""


class PipelineLoadReport(Message, frozen=True, tag="pipeline_load_report"):
    """How busy a pipeline is now; counts since it opened."""

    pipeline: Name
    num_running: Count
    num_waiting: Count
    num_free_blocks: Count
    num_blocks: Count
    num_steps: Count
    num_preemptions: Count


class LogLine(Message, frozen=True, tag="log_line"):
    """A line that a joined node's process wrote, for the launcher to show."""

    source: Name
    line: Text


ALL_MESSAGES: tuple[type[Message], ...] = (
    ProcessUp,
    JoinNode,
    Welcome,
    JoinRefused,
    StartWorker,
    StopWorker,
    WorkerUp,
    WorkerDown,
    AssignStage,
    LoadProgress,
    StageReady,
    StageFailed,
    OpenPipeline,
    PipelineOpen,
    PipelineLost,
    Generate,
    Cancel,
    TokensOf,
    Tokens,
    RequestFailed,
    StepInput,
    StepOutput,
    RegisterRouter,
    Subscribe,
    StageStatus,
    PipelineStatus,
    PlanChanged,
    Progress,
    GetPipelineLoad,
    PipelineLoadReport,
    LogLine,
)
