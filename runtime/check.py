"""What can be known before anything starts: configuration, ports, model, memory."""

from collections.abc import Iterator
from pathlib import Path

import zmq

from actors.placement import CPU_MEMORY_FRACTION
from models.checkpoint import Checkpoint
from models.errors import ModelError
from models.tokenizer import Tokenizer
from runtime.addresses import is_admin_apart
from runtime.cluster_keys import load_keys
from runtime.config import Config
from runtime.devices import has_gpu_driver
from runtime.errors import ConfigError
from runtime.gateway.listening import check_exposure
from runtime.memory import available_bytes
from runtime.network import host_port, is_loopback, why_not_bindable
from runtime.profile import (
    ITEM_BYTES,
    max_model_len,
    model_cost,
    model_path,
    open_checkpoint,
    stage_wishes,
)
from runtime.service_security import is_encrypted


def check_launch(config: Config) -> list[str]:
    """Check a configuration against this machine; the lines say what was found.

    Raises:
        ConfigError: something cannot work; says what, where, expected, got and what to do.
    """
    checkpoint = open_checkpoint(config)
    return [
        *_check_ports(config),
        *_check_model(config, checkpoint),
        *_check_plan(config, checkpoint),
        *_check_memory(config, checkpoint),
    ]


def _check_ports(config: Config) -> Iterator[str]:
    ports = [("http", "http.port", config.http.host, config.http.port)]
    if is_admin_apart(config):
        ports.append(("admin", "admin.port", config.admin.host, config.admin.port))
    ports.append(("cluster", "cluster.port", config.cluster.host, config.cluster.port))
    for what, key, host, port in ports:
        if (reason := why_not_bindable(host, port)) is not None:
            raise ConfigError(
                f"{what}: cannot listen at {host_port(host, port)}: {reason}; choose another "
                f"with --set {key}=PORT, or 0 for any free one"
            )
        yield f"ok {what} address {host_port(host, port)}"
    check_exposure(config)
    yield from _check_security(config)


def _check_security(config: Config) -> Iterator[str]:
    host = config.cluster.host
    if not is_encrypted(config):
        if not is_loopback(host) and not config.cluster.insecure:
            raise ConfigError(
                f"cluster.host {host} is not loopback, and cluster links are not encrypted; "
                f"leave out security.curve, or add --insecure if that network is trusted"
            )
        if config.security.keys:
            raise ConfigError(
                "security.keys is given, but cluster links are not encrypted; add --set "
                "security.curve=on, or leave the keys out"
            )
        yield "ok cluster links: plaintext"
        return
    if not zmq.has("curve"):
        raise ConfigError(
            "security: this libzmq was built without CURVE; expected one with it, such as that of "
            "the pyzmq wheels on PyPI"
        )
    if config.security.keys:
        load_keys(Path(config.security.keys))
    yield "ok cluster links: encrypted"


def _check_model(config: Config, checkpoint: Checkpoint) -> Iterator[str]:
    try:
        Tokenizer.from_directory(model_path(config.model.path))
    except ModelError as error:
        raise ConfigError(f"model: {error}") from None
    model = checkpoint.config
    if config.model.max_len > model.max_position:
        raise ConfigError(
            f"model.max_len is {config.model.max_len}, but the model's positions end at "
            f"{model.max_position}"
        )
    yield (
        f"ok model {config.model.path}: {model.architecture}, {model.num_layers} layers, "
        f"context {config.model.max_len or model.max_position}"
    )


def _check_plan(config: Config, checkpoint: Checkpoint) -> Iterator[str]:
    pipelines = stage_wishes(config, checkpoint.config.num_layers)
    if config.num_stages > checkpoint.config.num_layers:
        raise ConfigError(
            f"{config.num_stages} stages for {checkpoint.config.num_layers} layers: "
            f"a stage needs at least one layer"
        )
    num_stages = sum(map(len, pipelines)) or config.num_stages
    yield f"ok plan: {num_stages or 'one stage per device'}{' stages' if num_stages else ''}"


def _check_memory(config: Config, checkpoint: Checkpoint) -> Iterator[str]:
    """Only where all stages run here: another node's memory is known when it joins."""
    if config.nodes or config.cluster.num_nodes > 1:
        yield "ok memory: known when the nodes have joined"
        return
    if has_gpu_driver():
        yield "ok memory: known when the GPUs have been measured"
        return
    weights, kv = _least_bytes(config, checkpoint)
    free = available_bytes()
    fraction = config.kv.memory_fraction or CPU_MEMORY_FRACTION
    if weights + kv > free * fraction:
        raise ConfigError(
            f"memory: weights take {_gb(weights)} and the least KV cache {_gb(kv)}, but this "
            f"machine has {_gb(free)} free, of which kv.memory_fraction gives {fraction:g}; take "
            f"a smaller model or --set model.max_len, raise the fraction, or add nodes"
        )
    yield f"ok memory: weights {_gb(weights)} and KV cache from {_gb(kv)}, {_gb(free)} free"


def _least_bytes(config: Config, checkpoint: Checkpoint) -> tuple[int, int]:
    """Weights and KV cache without which no plan fits, as the planner itself will count them.

    A split that is ours to choose must hold one request of full length; one by hand, a block.
    """
    is_by_hand = bool(config.layers or config.pipelines)
    num_tokens = config.kv.block_tokens if is_by_hand else max_model_len(config, checkpoint)
    cost = model_cost(checkpoint, ITEM_BYTES[config.model.dtype], num_tokens)
    ends = (cost.embedding_bytes, cost.head_bytes)
    weights = sum(cost.layer_bytes) + (max(ends) if cost.tied else sum(ends))
    kv = cost.kv_bytes_per_token * num_tokens * len(cost.layer_bytes)
    num_pipelines = max(1, len(config.pipelines))
    return num_pipelines * weights, num_pipelines * kv


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3g} GB"
