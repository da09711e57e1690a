"""One tree of frozen records: every setting of a service with its unit and default.

What a file may say is what stands here; `config_file` reads it. The bounds are those of the
messages that carry the values: what is taken here is never refused on the way.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from runtime.setting_bounds import (
    MAX_HANG_TIMEOUT_S,
    MIN_HANG_TIMEOUT_S,
    BlockTokens,
    File,
    Fraction,
    Id,
    MaxHeld,
    MaxRunning,
    MaxStepTokens,
    MaxWaiting,
    NonNegative,
    NumBlocks,
    NumSpares,
    Origin,
    Port,
    Positive,
    ReplayLogBytes,
    Seconds,
    Speed,
    Target,
)
from scheduling.goal import Goal
from scheduling.kv_transport import KvTransport
from scheduling.placement import Phase


class _Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class ModelSettings(_Record, frozen=True, kw_only=True):
    """Which model is served, and as what."""

    path: Annotated[str, Meta(min_length=1, max_length=4096)] = "demo"
    name: Annotated[str, Meta(max_length=256)] = ""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_len: NonNegative = 0


class HttpSettings(_Record, frozen=True, kw_only=True):
    """Where clients connect, who may, and what a connection may cost."""

    host: str = "127.0.0.1"
    port: Port = 8000
    max_body_bytes: Positive = 4 << 20
    body_timeout_s: Seconds = 30.0
    idle_timeout_s: Seconds = 75.0
    max_connections: Annotated[int, Meta(ge=1, le=1 << 20)] = 4096
    keys_file: File = ""
    insecure: bool = False
    cors_origins: Annotated[tuple[Origin, ...], Meta(max_length=64)] = ()


class TlsSettings(_Record, frozen=True, kw_only=True):
    """Encryption between clients and the gateway; `client_ca` asks them for certificates."""

    certificate: File = ""
    private_key: File = ""
    client_ca: File = ""


class AdminSettings(_Record, frozen=True, kw_only=True):
    """Where the operator's endpoints are: with the clients', or at an address of their own.

    `kill` lets an operator end processes of this machine over HTTP; on loopback only.
    """

    place: Literal["auto", "shared", "own"] = "auto"
    host: str = "127.0.0.1"
    port: Port = 8001
    kill: bool = False


class LimitSettings(_Record, frozen=True, kw_only=True):
    """What one request may ask for at most, within what the parameters allow at all."""

    max_prompt_tokens: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    max_prompts: Annotated[int, Meta(ge=1, le=128)] = 128
    max_messages: Annotated[int, Meta(ge=1, le=4096)] = 4096
    max_n: Annotated[int, Meta(ge=1, le=128)] = 128
    max_logprobs: Annotated[int, Meta(ge=0, le=20)] = 20
    max_stops: Annotated[int, Meta(ge=0, le=4)] = 4
    max_stop_characters: Annotated[int, Meta(ge=1, le=512)] = 512
    max_regex_characters: Annotated[int, Meta(ge=0, le=1 << 20)] = 4096
    max_schema_bytes: Annotated[int, Meta(ge=0, le=1 << 24)] = 65536
    max_schema_depth: Annotated[int, Meta(ge=1, le=128)] = 32
    max_queue_s: Seconds = 600.0


class QuotaSettings(_Record, frozen=True, kw_only=True):
    """What a key without a quota of its own may use; 0 sets no bound."""

    requests_per_minute: Annotated[int, Meta(ge=0, le=1 << 40)] = 0
    tokens_per_minute: Annotated[int, Meta(ge=0, le=1 << 40)] = 0
    max_concurrent: Annotated[int, Meta(ge=0, le=1 << 40)] = 0


class TelemetrySettings(_Record, frozen=True, kw_only=True):
    """What the service tells of itself."""

    log_format: Literal["text", "json"] = "text"
    max_events: Annotated[int, Meta(ge=1, le=1 << 20)] = 1024
    otlp_endpoint: Annotated[
        str, Meta(pattern="^(https?://[^/\\s]+(/\\S*)?)?$", max_length=512)
    ] = ""
    trace_ratio: Fraction = 1.0
    max_queued_traces: Annotated[int, Meta(ge=1, le=1 << 16)] = 1024


class ClusterSettings(_Record, frozen=True, kw_only=True):
    """Where nodes connect, which of them are waited for, and what is kept against a loss."""

    host: str = "127.0.0.1"
    port: Port = 0
    insecure: bool = False
    num_nodes: Positive = 1
    join_timeout_s: Seconds = 600.0
    journal: Annotated[str, Meta(max_length=4096)] = ""
    spares: NumSpares = 1
    drain_s: Seconds = 30.0
    notice: Annotated[str, Meta(max_length=4096)] = ""
    chaos: bool = False
    emulated_speed: Speed = 1.0
    hang_timeout_s: Annotated[float, Meta(ge=MIN_HANG_TIMEOUT_S, le=MAX_HANG_TIMEOUT_S)] = 10.0
    auto: bool = False
    auto_horizon_s: Seconds = 60.0
    auto_interval_s: Seconds = 30.0
    auto_min_gain: Annotated[float, Meta(ge=0, le=100)] = 0.1


class SecuritySettings(_Record, frozen=True, kw_only=True):
    """Whether links between processes are encrypted, and where the keys are kept."""

    curve: Literal["auto", "on", "off"] = "auto"
    keys: Annotated[str, Meta(max_length=4096)] = ""


class ServingSettings(_Record, frozen=True, kw_only=True):
    """How requests are batched, per pipeline."""

    max_running: MaxRunning = 64
    max_waiting: MaxWaiting = 256
    max_step_tokens: MaxStepTokens = 512
    step_deadline_s: Seconds = 120.0
    token_timeout_s: Seconds = 600.0
    recovery_timeout_s: Seconds = 60.0
    max_held: MaxHeld = 256
    kv_transport: KvTransport = "none"
    prefix_sharing: bool = True


class KvSettings(_Record, frozen=True, kw_only=True):
    """The KV cache of every stage."""

    block_tokens: BlockTokens = 16
    num_blocks: NumBlocks = 0
    memory_fraction: Fraction = 0.0
    replay_log_bytes: ReplayLogBytes = 256 << 20


class WeightsSettings(_Record, frozen=True, kw_only=True):
    """Where weights are loaded from, and what stays in shared memory of them."""

    source: Literal["auto", "disk", "peer"] = "auto"
    verify: Literal["sample", "full"] = "sample"
    store_bytes: Annotated[int, Meta(ge=-1, le=1 << 48)] = -1
    max_bytes_per_s: Annotated[float, Meta(gt=0, le=1e15)] = 400e6


class PlannerSettings(_Record, frozen=True, kw_only=True):
    """The latencies by which phases are chosen while the service runs; 0 means none."""

    ttft_s: Target = 0.0
    tpot_s: Target = 0.0

    @property
    def goal(self) -> Goal | None:
        """As the planner has it; None where there are none."""
        if not self.ttft_s and not self.tpot_s:
            return None
        return Goal(measure="slo", ttft_s=self.ttft_s or None, tpot_s=self.tpot_s or None)


class NodeSettings(_Record, frozen=True, kw_only=True):
    """A node that the launch waits for."""

    id: Id


class StageSettings(_Record, frozen=True, kw_only=True):
    """One stage of a hand-written plan."""

    layers: str
    node: Id
    device: str = ""
    num_threads: Annotated[int, Meta(ge=0, le=4096)] = 0


class PipelineSettings(_Record, frozen=True, kw_only=True):
    """One pipeline of a hand-written plan, stages in order, and what of a request it serves."""

    stages: Annotated[tuple[StageSettings, ...], Meta(min_length=1)]
    phase: Phase = "both"


class Config(_Record, frozen=True, kw_only=True):
    """The whole configuration of a service."""

    model: ModelSettings = ModelSettings()
    http: HttpSettings = HttpSettings()
    tls: TlsSettings = TlsSettings()
    admin: AdminSettings = AdminSettings()
    limits: LimitSettings = LimitSettings()
    quotas: QuotaSettings = QuotaSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    cluster: ClusterSettings = ClusterSettings()
    security: SecuritySettings = SecuritySettings()
    serving: ServingSettings = ServingSettings()
    kv: KvSettings = KvSettings()
    weights: WeightsSettings = WeightsSettings()
    planner: PlannerSettings = PlannerSettings()
    num_stages: NonNegative = 0
    layers: str = ""
    nodes: tuple[NodeSettings, ...] = ()
    pipelines: tuple[PipelineSettings, ...] = ()
