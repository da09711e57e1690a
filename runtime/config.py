"""One TOML file, one tree of frozen records: every setting with its unit and default.

Unknown keys are refused with their path and the known names. `--set a.b=value` writes into the same
tree before it is checked, so the command line can say nothing that the file could not. The bounds
are those of the messages that carry the values: what is taken here is never refused on the way.
"""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from runtime.errors import ConfigError
from runtime.notice import parse_source
from scheduling.errors import InvalidPlan
from scheduling.goal import Goal
from scheduling.kv_transport import KvTransport
from scheduling.placement import Phase
from scheduling.plan import PipelineId, check_phases

Positive = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[int, Meta(ge=0)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]
Target = Annotated[float, Meta(ge=0, le=86400)]
MAX_NODE_ID = 128
MIN_HANG_TIMEOUT_S, MAX_HANG_TIMEOUT_S = 2.0, 86400.0
"""Below, a busy machine would count as a hang."""
Id = Annotated[str, Meta(min_length=1, max_length=MAX_NODE_ID)]
Speed = Annotated[float, Meta(gt=0, le=1)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
File = Annotated[str, Meta(max_length=4096)]
Origin = Annotated[str, Meta(pattern="^https?://[^/*\\s]+$", max_length=512)]


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
    spares: Annotated[int, Meta(ge=0, le=1024)] = 1
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

    max_running: Annotated[int, Meta(ge=1, le=1 << 16)] = 64
    max_waiting: Annotated[int, Meta(ge=0, le=1 << 20)] = 256
    max_step_tokens: Annotated[int, Meta(ge=1, le=1 << 20)] = 512
    step_deadline_s: Seconds = 120.0
    token_timeout_s: Seconds = 600.0
    recovery_timeout_s: Seconds = 60.0
    max_held: Annotated[int, Meta(ge=0, le=1 << 20)] = 256
    kv_transport: KvTransport = "none"
    prefix_sharing: bool = True


class KvSettings(_Record, frozen=True, kw_only=True):
    """The KV cache of every stage."""

    block_tokens: Annotated[int, Meta(ge=1, le=1 << 16)] = 16
    num_blocks: Annotated[int, Meta(ge=0, le=1 << 31)] = 0
    memory_fraction: Fraction = 0.0
    replay_log_bytes: Annotated[int, Meta(ge=0, le=1 << 48)] = 256 << 20


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


def load_config(path: Path | None, overrides: Iterable[str] = ()) -> Config:
    """Read a TOML file (or nothing), apply `KEY=VALUE` overrides, and check the whole.

    Raises:
        ConfigError: the file is missing or not TOML, a key is unknown, a value is out of bounds.
    """
    tree = _read(path) if path is not None else {}
    for override in overrides:
        _apply(tree, override)
    return check(tree)


def check(tree: Mapping[str, Any]) -> Config:
    """Turn plain data into a `Config`, refusing what it does not know."""
    _refuse_unknown(tree, Config, "")
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"config: {error}") from None
    _refuse_contradictions(config)
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"config: cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config: {path} is not TOML: {error}") from None


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set: expected KEY=VALUE, got {override!r}")
    *parents, leaf = key.strip().split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set: {key} goes through {parent}, which is not a table")
    node[leaf] = _value(text.strip())


def _value(text: str) -> Any:
    """A value as TOML reads it; what is not TOML is a bare string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _refuse_unknown(tree: Any, record: Any, where: str) -> None:
    if isinstance(tree, (list, tuple)):
        for index, item in enumerate(tree):
            _refuse_unknown(item, record, f"{where}[{index}]")
        return
    fields = {f.name: f.type for f in msgspec.structs.fields(record)}
    if not isinstance(tree, Mapping):
        raise ConfigError(f"config: {where or 'the file'} must be a table, got {tree!r}")
    for key, value in tree.items():
        path = f"{where}.{key}".lstrip(".")
        if key not in fields:
            known = ", ".join(sorted(fields))
            raise ConfigError(f"config: unknown key {path}; known here: {known}")
        inner = _record_in(fields[key])
        if inner is not None:
            _refuse_unknown(value, inner, path)


def _record_in(annotation: Any) -> type[_Record] | None:
    """The record an annotation holds, directly or as the item of a tuple."""
    if isinstance(annotation, type) and issubclass(annotation, _Record):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _record_in(inner)) is not None:
            return found
    return None


def _refuse_contradictions(config: Config) -> None:
    if config.cluster.notice:
        parse_source(config.cluster.notice)
    if config.cluster.insecure and config.security.curve == "on":
        raise ConfigError(
            'config: cluster.insecure (--insecure) asks for plaintext, security.curve = "on" for '
            "encryption; give one of them"
        )
    tls = config.tls
    if (tls.private_key or tls.client_ca) and not tls.certificate:
        raise ConfigError("config: tls.private_key and tls.client_ca need tls.certificate as well")
    if config.pipelines and (config.layers or config.num_stages):
        raise ConfigError("config: give either [[pipelines]] or layers/num_stages, not both")
    phases = {PipelineId(str(n)): p.phase for n, p in enumerate(config.pipelines)}
    try:
        check_phases(phases)
    except InvalidPlan as error:
        raise ConfigError(f"config: pipelines: {error}") from None
    known = {node.id for node in config.nodes}
    if len(known) != len(config.nodes):
        raise ConfigError("config: two entries of [[nodes]] have the same id")
    for p, pipeline in enumerate(config.pipelines):
        for s, stage in enumerate(pipeline.stages):
            if config.nodes and stage.node not in known:
                raise ConfigError(
                    f"config: pipelines[{p}].stages[{s}].node is {stage.node!r}; "
                    f"known nodes: {', '.join(sorted(known))}"
                )
