"""What can be known before anything starts: configuration, ports, model, memory."""

from collections.abc import Iterator

from models.checkpoint import Checkpoint
from models.errors import ModelError
from models.tokenizer import Tokenizer
from runtime.config import Config
from runtime.errors import ConfigError
from runtime.memory import available_bytes
from runtime.network import host_port, is_loopback, why_not_bindable
from runtime.profile import model_path, open_checkpoint, stage_wishes

FLOAT32_BYTES = 4


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
    for what, key, host, port in (
        ("http", "http.port", config.http.host, config.http.port),
        ("cluster", "cluster.port", config.cluster.host, config.cluster.port),
    ):
        if (reason := why_not_bindable(host, port)) is not None:
            raise ConfigError(
                f"{what}: cannot listen at {host_port(host, port)}: {reason}; choose another "
                f"with --set {key}=PORT, or 0 for any free one"
            )
        yield f"ok {what} address {host_port(host, port)}"
    if not is_loopback(config.cluster.host) and not config.cluster.insecure:
        raise ConfigError(
            f"cluster.host {config.cluster.host} is not loopback, and cluster links are not "
            f"encrypted; add --insecure if that network is trusted"
        )


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
    model = checkpoint.config
    need = checkpoint.weight_bytes(0, model.num_layers, FLOAT32_BYTES)
    one_request = model.kv_bytes_per_token(model.num_layers, FLOAT32_BYTES) * config.kv.block_tokens
    have = available_bytes()
    if need + one_request > have:
        raise ConfigError(
            f"memory: the model needs {need / 1e9:.1f} GB and KV cache, this machine has "
            f"{have / 1e9:.1f} GB free; take a smaller model or add nodes"
        )
    yield f"ok memory: weights {need / 1e9:.2f} GB of {have / 1e9:.1f} GB free"
