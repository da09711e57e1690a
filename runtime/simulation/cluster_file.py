"""The cluster file: an imaginary cluster as TOML, read into frozen records and checked.

Its words are those of the service's own configuration where both have them. Unknown keys are
refused with their path. It never knows an actor or a clock: `world` makes a service of it.
"""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from actors.placement import StageWish
from runtime.config import PlannerSettings
from runtime.errors import ConfigError
from runtime.simulation.catalogue import DEVICES, MODELS
from scheduling.errors import InvalidPlan
from scheduling.kv_transport import KvTransport
from scheduling.placement import Phase
from scheduling.plan import PipelineId, check_phases, parse_layers
from scheduling.roofline import ModelShape
from scheduling.split import StageDevice

Count = Annotated[int, Meta(ge=1, le=1 << 31)]
Rate = Annotated[float, Meta(gt=0, le=1e18)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]
Latency = Annotated[float, Meta(ge=0, le=3600)]
Id = Annotated[str, Meta(min_length=1, max_length=128, pattern="^[^/ ]+$")]


class _Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class ModelFile(_Record, frozen=True, kw_only=True):
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


class DeviceFile(_Record, frozen=True, kw_only=True):
    """A kind of device that the catalogue lacks, or has with other numbers.

    `price_per_hour` concerns planning alone (`scheduling.cluster_toml`).
    """

    memory_bytes: Annotated[int, Meta(ge=1, le=1 << 50)]
    flops_per_s: Rate
    bytes_per_s: Rate
    layer_overhead_s: Latency = 30e-6
    step_overhead_s: Latency = 0.0
    price_per_hour: Annotated[float, Meta(ge=0)] = 0.0


class LinkFile(_Record, frozen=True, kw_only=True):
    """What lies between two sites or two nodes; of one with itself, what is inside it."""

    between: tuple[Id, Id]
    bytes_per_s: Rate
    latency_s: Latency


class NodeFile(_Record, frozen=True, kw_only=True):
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


class StageFile(_Record, frozen=True, kw_only=True):
    """One stage of a pipeline; `device` counts the node's devices from 0."""

    node: Id
    device: Annotated[int, Meta(ge=0)] = 0
    layers: str = ""


class PipelineFile(_Record, frozen=True, kw_only=True):
    """A pipeline's stages, or the nodes each of whose devices is to be one of them.

    `phase` is what of a request it serves.
    """

    nodes: tuple[Id, ...] = ()
    stages: tuple[StageFile, ...] = ()
    phase: Phase = "both"


class ServingFile(_Record, frozen=True, kw_only=True):
    """How requests are batched and what is kept for them."""

    max_running: Annotated[int, Meta(ge=1, le=1 << 16)] = 64
    max_waiting: Annotated[int, Meta(ge=0, le=1 << 20)] = 256
    max_step_tokens: Annotated[int, Meta(ge=1, le=1 << 20)] = 512
    max_model_len: Annotated[int, Meta(ge=2, le=1 << 24)] = 8192
    block_tokens: Annotated[int, Meta(ge=1, le=1 << 16)] = 16
    num_blocks: Annotated[int, Meta(ge=0, le=1 << 31)] = 0
    memory_fraction: Annotated[float, Meta(ge=0, le=1)] = 0.0
    replay_log_bytes: Annotated[int, Meta(ge=0, le=1 << 48)] = 256 << 20
    spares: Annotated[int, Meta(ge=0, le=1024)] = 0
    step_deadline_s: Seconds = 120.0
    token_timeout_s: Seconds = 600.0
    recovery_timeout_s: Seconds = 60.0
    max_held: Annotated[int, Meta(ge=0, le=1 << 20)] = 256
    kv_transport: KvTransport = "none"
    prefix_sharing: bool = True


class TimesFile(_Record, frozen=True, kw_only=True):
    """What takes time besides steps and links."""

    process_start_s: Seconds = 3.0
    restart_s: Seconds = 1.0
    load_bytes_per_s: Rate = 1e9


class LoadFile(_Record, frozen=True, kw_only=True):
    """The requests where no trace gives them; lengths are log-normal."""

    rate: Rate = 1.0
    mean_prompt: Rate = 1000.0
    mean_output: Rate = 200.0
    spread: Annotated[float, Meta(ge=0, le=4)] = 0.7


class Cluster(_Record, frozen=True, kw_only=True):
    """A whole cluster file."""

    model: ModelFile
    nodes: Annotated[tuple[NodeFile, ...], Meta(min_length=1)]
    devices: dict[str, DeviceFile] = {}
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
        """What a device can do, by the name its node offers it under."""
        kind = name.partition(":")[0]
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

    def wishes(self) -> tuple[tuple[StageWish, ...], ...]:
        """The stages of each pipeline; none if all devices are to be one pipeline.

        Raises:
            ConfigError: one contradicts itself, or their phases leave some requests unserved.
        """
        try:
            check_phases({PipelineId(str(n)): p.phase for n, p in enumerate(self.pipelines)})
        except InvalidPlan as error:
            raise ConfigError(f"pipelines: {error}") from None
        return tuple(_wishes(self, pipeline) for pipeline in self.pipelines)


def load_cluster(path: Path) -> Cluster:
    """Read a cluster file.

    Raises:
        ConfigError: it is missing, not TOML, says something unknown or contradicts itself.
    """
    try:
        return parse_cluster(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cluster: cannot read {path}: {error.strerror}") from None
    except (UnicodeDecodeError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_cluster(text: str) -> Cluster:
    """Read a cluster file's text.

    Raises:
        ConfigError: it is not TOML, says something unknown or contradicts itself.
    """
    try:
        cluster = msgspec.convert(tomllib.loads(text), Cluster)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise ConfigError(str(error)) from None
    nodes = tuple(node for found in cluster.nodes for node in _alike(found))
    cluster = msgspec.structs.replace(cluster, nodes=nodes)
    _check_model(cluster.model)
    _check_nodes(cluster)
    cluster.wishes()
    return cluster


def _alike(node: NodeFile) -> tuple[NodeFile, ...]:
    """The nodes that one entry stands for."""
    if node.count == 1:
        return (node,)
    return tuple(
        msgspec.structs.replace(node, id=f"{node.id}-{number}", count=1)
        for number in range(node.count)
    )


def device_names(node: NodeFile) -> tuple[str, ...]:
    """The names a node offers its devices under, each of them unique."""
    return tuple(f"{kind}:{index}" for index, kind in enumerate(node.devices))


def _shape(model: ModelFile) -> ModelShape:
    return ModelShape(**{k: v for k, v in msgspec.structs.asdict(model).items() if k != "name"})


def _check_model(model: ModelFile) -> None:
    numbers = ("num_layers", "hidden", "num_heads", "num_kv_heads", "head_dim", "intermediate")
    given = [key for key in (*numbers, "vocab") if getattr(model, key)]
    if model.name:
        _expect("model.name", model.name, MODELS)
        if given:
            raise ConfigError(f"model: {model.name!r} has its numbers; {given[0]} is one too many")
    elif len(given) <= len(numbers):
        missing = next(key for key in (*numbers, "vocab") if key not in given)
        raise ConfigError(f"model: give a name ({', '.join(MODELS)}) or all numbers; no {missing}")


def _check_nodes(cluster: Cluster) -> None:
    ids = [node.id for node in cluster.nodes]
    sites = {node.site for node in cluster.nodes}
    twice = [name for name in ids if ids.count(name) > 1 or name in sites]
    if twice:
        raise ConfigError(f"nodes: {twice[0]!r} names two nodes, or a node and a site")
    for node in cluster.nodes:
        for kind in node.devices:
            _expect(f"devices of node {node.id!r}", kind, {**DEVICES, **cluster.devices})
    for link in cluster.links:
        for end in link.between:
            _expect("links.between", end, [*ids, *sorted(sites)])


def _wishes(cluster: Cluster, pipeline: PipelineFile) -> tuple[StageWish, ...]:
    nodes = {node.id: node for node in cluster.nodes}
    if bool(pipeline.nodes) == bool(pipeline.stages):
        raise ConfigError("pipelines: expected either nodes or stages of each")
    for name in (*pipeline.nodes, *(stage.node for stage in pipeline.stages)):
        _expect("pipelines: node", name, nodes)
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
    if stage.device >= len(node.devices):
        raise ConfigError(
            f"pipelines: node {node.id!r} has {len(node.devices)} devices; got device "
            f"{stage.device}, counted from 0"
        )
    return device_names(node)[stage.device]


def _expect(what: str, got: str, known: Iterable[str]) -> None:
    if got not in known:
        raise ConfigError(f"{what}: {got!r} is not one of {', '.join(known)}")
