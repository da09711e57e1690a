"""Turns a model on disk and a configuration into the plain values that planning works with."""

import json
import os
from dataclasses import replace
from pathlib import Path

from actors.placement import ServiceSettings, StageWish
from models.checkpoint import Checkpoint
from models.demo import demo_path
from models.errors import ModelError
from models.fingerprint import facts_of, model_hash
from runtime.config import Config, ModelSettings, PipelineSettings
from runtime.errors import ConfigError
from scheduling.change_cost import AutoPolicy
from scheduling.errors import InvalidPlan
from scheduling.kv_transport import KvLayout
from scheduling.model_profile import UnknownModel, profile
from scheduling.plan import parse_layers
from scheduling.roofline import ModelShape
from scheduling.split import ModelCost

ITEM_BYTES = {"auto": 4, "float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number as planned; `auto` counts as on a CPU, which is the larger."""


def model_path(model: str) -> Path:
    """The directory of a model: the built-in demo by its name, any other by its path."""
    return demo_path() if model == "demo" else Path(model)


def model_name(config: Config) -> str:
    """The name that clients ask for."""
    named = config.model.name or config.model.path
    return "demo" if named == "demo" else config.model.name or Path(named).resolve().name


def open_checkpoint(config: Config) -> Checkpoint:
    """The headers of the model that is to be served.

    Raises:
        ConfigError: there is no such model, or it is not one we run; says what was expected.
    """
    try:
        return Checkpoint.open(model_path(config.model.path))
    except ModelError as error:
        raise ConfigError(f"model: {error}") from None


def content_hash(model: str) -> str:
    """What names exactly the model of a directory, or the demo.

    Raises:
        ConfigError: there is no such model, or it is not one we run; says what was expected.
    """
    return open_checkpoint(Config(model=ModelSettings(path=model))).content_hash


def max_model_len(config: Config, checkpoint: Checkpoint) -> int:
    """Tokens of prompt and answer together."""
    return config.model.max_len or checkpoint.config.max_position


def stage_wishes(config: Config, num_layers: int) -> tuple[tuple[StageWish, ...], ...]:
    """The stages as the operator wrote them; none where the split is ours to choose.

    Raises:
        ConfigError: layers that do not cover the model once and in order.
    """
    try:
        if config.layers:
            ranges = parse_layers(config.layers, num_layers)
            if config.num_stages not in (0, len(ranges)):
                raise ConfigError(
                    f"layers {config.layers!r} are {len(ranges)} stages, but {config.num_stages} "
                    f"are asked for"
                )
            return (tuple(StageWish(layers=layers) for layers in ranges),)
        return tuple(_pipeline_wishes(pipeline, num_layers) for pipeline in config.pipelines)
    except InvalidPlan as error:
        raise ConfigError(str(error)) from None


def _pipeline_wishes(pipeline: PipelineSettings, num_layers: int) -> tuple[StageWish, ...]:
    for stage in pipeline.stages:
        if "," in stage.layers:
            raise ConfigError(f"layers {stage.layers!r} of a stage: expected one start:end")
    ranges = parse_layers(",".join(stage.layers for stage in pipeline.stages), num_layers)
    return tuple(
        StageWish(
            node=stage.node, device=stage.device, layers=layers, num_threads=stage.num_threads
        )
        for stage, layers in zip(pipeline.stages, ranges, strict=True)
    )


def service_settings(config: Config) -> ServiceSettings:
    """All that the coordinator needs to know."""
    checkpoint = open_checkpoint(config)
    max_len = max_model_len(config, checkpoint)
    return ServiceSettings(
        model=_absolute(config.model.path),
        model_name=model_name(config),
        model_hash=_model_hash(checkpoint, config),
        cost=model_cost(checkpoint, ITEM_BYTES[config.model.dtype], max_len),
        dtype=config.model.dtype,
        max_model_len=max_len,
        wait_nodes=tuple(node.id for node in config.nodes),
        num_nodes=config.cluster.num_nodes,
        pipelines=stage_wishes(config, checkpoint.config.num_layers),
        phases=tuple(pipeline.phase for pipeline in config.pipelines),
        num_stages=config.num_stages,
        block_tokens=config.kv.block_tokens,
        num_blocks=config.kv.num_blocks,
        memory_fraction=config.kv.memory_fraction,
        max_running=config.serving.max_running,
        max_waiting=config.serving.max_waiting,
        max_step_tokens=config.serving.max_step_tokens,
        step_deadline_s=config.serving.step_deadline_s,
        kv_transport=config.serving.kv_transport,
        prefix_sharing=config.serving.prefix_sharing,
        kv_layout=KvLayout(
            block_tokens=config.kv.block_tokens,
            head_dim=checkpoint.config.head_dim,
            itemsize=ITEM_BYTES[config.model.dtype],
        ),
        recovery_timeout_s=config.serving.recovery_timeout_s,
        replay_log_bytes=config.kv.replay_log_bytes,
        num_spares=config.cluster.spares,
        weight_source=config.weights.source,
        weight_verify=config.weights.verify,
        store_bytes=config.weights.store_bytes,
        max_weight_bytes_per_s=config.weights.max_bytes_per_s,
        shape=_shape(checkpoint, config),
        targets=config.planner.goal,
        auto=AutoPolicy(
            is_on=config.cluster.auto,
            horizon_s=config.cluster.auto_horizon_s,
            interval_s=config.cluster.auto_interval_s,
            min_gain=config.cluster.auto_min_gain,
        ),
    )


def _shape(checkpoint: Checkpoint, config: Config) -> ModelShape | None:
    """The model's shape, with numbers as they are held; None where planning cannot tell it.

    Raises:
        ConfigError: it cannot be told, and plans are to be changed by it.
    """
    itemsize = ITEM_BYTES[config.model.dtype]
    try:
        path = checkpoint.directory / "config.json"
        found = profile(json.loads(path.read_text(encoding="utf-8")))
    except (UnknownModel, OSError, ValueError) as error:
        if config.cluster.auto or config.planner.goal is not None:
            key = "cluster.auto" if config.cluster.auto else "planner.ttft_s and planner.tpot_s"
            raise ConfigError(
                f"{key}: expected a model that the planner knows the shape of: {error}; "
                f"leave {key} off for this one"
            ) from None
        return None
    return replace(found, dtype_bytes=itemsize)


def digest_cache() -> Path:
    """Where full digests of weights are remembered, for this user on this machine."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "remuda" / "digests"


def _model_hash(checkpoint: Checkpoint, config: Config) -> str:
    try:
        facts = facts_of(checkpoint.tensors, config.weights.verify, digest_cache())
    except (ModelError, OSError) as error:
        raise ConfigError(f"model: {error}") from None
    return model_hash((checkpoint.directory / "config.json").read_bytes(), facts)


def _absolute(model: str) -> str:
    return model if model == "demo" else str(Path(model).resolve())


def model_cost(checkpoint: Checkpoint, itemsize: int, num_kv_tokens: int) -> ModelCost:
    """What a model's parts weigh and compute, for numbers of `itemsize` bytes."""
    model = checkpoint.config
    layers = range(model.num_layers)
    head_bytes = checkpoint.head_bytes(itemsize)
    return ModelCost(
        layer_bytes=tuple(checkpoint.layer_bytes(layer, itemsize) for layer in layers),
        layer_flops=tuple(2.0 * checkpoint.active_parameters(layer) for layer in layers),
        embedding_bytes=checkpoint.embedding_bytes(itemsize),
        head_bytes=head_bytes,
        head_flops=2.0 * head_bytes / itemsize,
        tied=model.tie_word_embeddings,
        kv_bytes_per_token=model.kv_bytes_per_token(1, itemsize),
        num_kv_tokens=num_kv_tokens,
    )
