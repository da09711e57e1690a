"""The cluster file: an imaginary cluster as frozen records, and the stages that it asks for.

Its words are those of the service's own configuration where both have them. `cluster_reading` makes
it of TOML, `world` makes a service of it; it never knows an actor or a clock.
"""

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from actors.placement import StageWish
from runtime.config import PlannerSettings
from runtime.errors import ConfigError
from runtime.setting_bounds import (
    BlockTokens,
    Fraction,
    MaxHeld,
    MaxRunning,
    MaxStepTokens,
    MaxWaiting,
    NumBlocks,
    NumSpares,
    ReplayLogBytes,
    Seconds,
)
from runtime.simulation.catalogue import DEVICES, MODELS
from runtime.simulation.groups import name_of, parts_of
from runtime.simulation.pipeline_file import (
    FileRecord,
    Id,
    PipelineFile,
    StageFile,
    check_groups,
)
from scheduling.errors import InvalidPlan
from scheduling.kv_transport import KvTransport
from scheduling.plan import PipelineId, check_phases, parse_layers
from scheduling.roofline import ModelShape, tensor_parallel
from scheduling.split import StageDevice

Count = Annotated[int, Meta(ge=1, le=1 << 31)]
Rate = Annotated[float, Meta(gt=0, le=1e18)]
Latency = Annotated[float, Meta(ge=0, le=3600)]


class ModelFile(FileRecord, frozen=True, kw_only=True):
    """A model of the catalogue by name, or all numbers of another one."""

    name: str = ""
    num_layers: Count = 0
    hidden: Count = 0
    num_heads: Count = 0
    num_kv_heads: Count = 0
    head_dim: Count = 0
    intermediate: Count = 0
    vocab: Count = 0
    dtype_bytes: Annotated[int, Meta(ge=1, le=8)] = 2
    tied: bool = False


class DeviceFile(FileRecord, frozen=True, kw_only=True):
    """A kind of device that the catalogue lacks, or has with other numbers.

    `price_per_hour` concerns planning alone (`scheduling.cluster_toml`).
    """

    memory_bytes: Annotated[int, Meta(ge=1, le=1 << 50)]
    flops_per_s: Rate
    bytes_per_s: Rate
    layer_overhead_s: Latency = 30e-6
    step_overhead_s: Latency = 0.0
    price_per_hour: Annotated[float, Meta(ge=0)] = 0.0


class LinkFile(FileRecord, frozen=True, kw_only=True):
    """What lies between two sites or two nodes; of one with itself, what is inside it.

    A `shared` one is a single line each way: what different devices send over it waits its turn.
    """

    between: tuple[Id, Id]
    bytes_per_s: Rate
    latency_s: Latency
    shared: bool = False


class NodeFile(FileRecord, frozen=True, kw_only=True):
    """A machine with its devices, by the names of their kinds; or `count` of them, alike.

    Price, spot, notice and interruptions concern planning alone (`scheduling.cluster_toml`): here
    what goes wrong is said in a file of faults.
    """

    id: Id
    devices: Annotated[tuple[str, ...], Meta(min_length=1, max_length=64)]
    site: Id = "site"
    count: Annotated[int, Meta(ge=1, le=1 << 16)] = 1
    price_per_hour: Annotated[float, Meta(ge=0)] | None = None
    spot: bool = False
    notice_s: Annotated[float, Meta(ge=0)] = 0.0
    interruptions_per_hour: Annotated[float, Meta(ge=0)] = 0.0


class ServingFile(FileRecord, frozen=True, kw_only=True):
    """How requests are batched and what is kept for them."""

    max_running: MaxRunning = 64
    max_waiting: MaxWaiting = 256
    max_step_tokens: MaxStepTokens = 512
    max_model_len: Annotated[int, Meta(ge=2, le=1 << 24)] = 8192
    block_tokens: BlockTokens = 16
    num_blocks: NumBlocks = 0
    memory_fraction: Fraction = 0.0
    replay_log_bytes: ReplayLogBytes = 256 << 20
    spares: NumSpares = 0
    step_deadline_s: Seconds = 120.0
    token_timeout_s: Seconds = 600.0
    recovery_timeout_s: Seconds = 60.0
    max_held: MaxHeld = 256
    kv_transport: KvTransport = "none"
    prefix_sharing: bool = True


class TimesFile(FileRecord, frozen=True, kw_only=True):
    """What takes time besides steps and links."""

    process_start_s: Seconds = 3.0
    restart_s: Seconds = 1.0
    load_bytes_per_s: Rate = 1e9


class LoadFile(FileRecord, frozen=True, kw_only=True):
    """The requests where no trace gives them; lengths are log-normal."""

    rate: Rate = 1.0
    mean_prompt: Rate = 1000.0
    mean_output: Rate = 200.0
    spread: Annotated[float, Meta(ge=0, le=4)] = 0.7


class Cluster(FileRecord, frozen=True, kw_only=True):
    """A whole cluster file."""

    model: ModelFile
    nodes: Annotated[tuple[NodeFile, ...], Meta(min_length=1)]
    devices: dict[str, DeviceFile] = msgspec.field(default_factory=dict)
    links: tuple[LinkFile, ...] = ()
    pipelines: tuple[PipelineFile, ...] = ()
    serving: ServingFile = ServingFile()
    times: TimesFile = TimesFile()
    load: LoadFile = LoadFile()
    planner: PlannerSettings = PlannerSettings()

    @property
    def shape(self) -> ModelShape:
        """The model's numbers."""
        return MODELS[self.model.name] if self.model.name else _shape(self.model)

    def device(self, name: str) -> StageDevice:
        """What a device can do, or a group of them, by the name its node offers it under."""
        kind, degree = parts_of(name)
        return tensor_parallel(self._one(kind), degree)

    def _one(self, kind: str) -> StageDevice:
        if kind in self.devices:
            known = self.devices[kind]
            return StageDevice(
                memory_bytes=known.memory_bytes,
                flops_per_s=known.flops_per_s,
                bytes_per_s=known.bytes_per_s,
                layer_overhead_s=known.layer_overhead_s,
                step_overhead_s=known.step_overhead_s,
            )
        return DEVICES[kind]

    def offers(self, node: NodeFile) -> tuple[str, ...]:
        """The names a node offers its devices under; those of a group have one for all of them."""
        stages = [stage for pipeline in self.pipelines for stage in pipeline.stages]
        groups = [s.devices for s in stages if s.node == node.id and len(s.devices) > 1]
        taken = {device for group in groups for device in group}
        names = [name for at, name in enumerate(device_names(node)) if at not in taken]
        return (*names, *(name_of(node.devices[group[0]], group) for group in groups))

    def wishes(self) -> tuple[tuple[StageWish, ...], ...]:
        """The stages of each pipeline; none if all devices are to be one pipeline.

        Raises:
            ConfigError: one contradicts itself, or their phases leave some requests unserved.
        """
        try:
            check_phases({PipelineId(str(n)): p.phase for n, p in enumerate(self.pipelines)})
        except InvalidPlan as error:
            raise ConfigError(f"pipelines: {error}") from None
        check_groups(self.pipelines)
        return tuple(_wishes(self, pipeline) for pipeline in self.pipelines)


def device_names(node: NodeFile) -> tuple[str, ...]:
    """The names a node offers its devices under, each of them unique."""
    return tuple(f"{kind}:{index}" for index, kind in enumerate(node.devices))


def _shape(model: ModelFile) -> ModelShape:
    return ModelShape(**{k: v for k, v in msgspec.structs.asdict(model).items() if k != "name"})


def _wishes(cluster: Cluster, pipeline: PipelineFile) -> tuple[StageWish, ...]:
    nodes = {node.id: node for node in cluster.nodes}
    if bool(pipeline.nodes) == bool(pipeline.stages):
        raise ConfigError("pipelines: expected either nodes or stages of each")
    for name in (*pipeline.nodes, *(stage.node for stage in pipeline.stages)):
        expect_known("pipelines: node", name, nodes)
    if pipeline.nodes:
        places = [(name, device) for name in pipeline.nodes for device in device_names(nodes[name])]
        return tuple(StageWish(node=name, device=device) for name, device in places)
    ranges = _ranges(pipeline, cluster.shape.num_layers)
    return tuple(
        StageWish(node=stage.node, device=_device_name(nodes[stage.node], stage), layers=layers)
        for stage, layers in zip(pipeline.stages, ranges, strict=True)
    )


def _ranges(
    pipeline: PipelineFile, num_layers: int
) -> tuple[tuple[int, int], ...] | tuple[None, ...]:
    texts = [stage.layers for stage in pipeline.stages]
    if not any(texts):
        return (None,) * len(texts)
    try:
        return parse_layers(",".join(texts), num_layers)
    except InvalidPlan as error:
        raise ConfigError(f"pipelines: {error}") from None


def _device_name(node: NodeFile, stage: StageFile) -> str:
    last = max(stage.places)
    if last >= len(node.devices):
        raise ConfigError(
            f"pipelines: node {node.id!r} has {len(node.devices)} devices; got device {last}, "
            "counted from 0"
        )
    kinds = {node.devices[place] for place in stage.places}
    if len(kinds) > 1:
        raise ConfigError(
            f"pipelines: a stage on devices {list(stage.places)} of node {node.id!r}: expected "
            f"devices of one kind, got {', '.join(sorted(kinds))}; give each kind its own stage"
        )
    return name_of(kinds.pop(), stage.places)


def expect_known(what: str, got: str, known: Iterable[str]) -> None:
    """Refuse a name that is none of those that there are."""
    if got not in known:
        raise ConfigError(f"{what}: {got!r} is not one of {', '.join(known)}")
