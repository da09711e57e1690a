"""A service that a test wants brought up: small numbers, each of which a test may change."""

from typing import Any

from actors.placement import ServiceSettings
from scheduling.split import ModelCost

MB = 1_000_000


def wanted_service(num_layers: int, **changes: Any) -> ServiceSettings:
    """A service of as many stages as there are devices, unless changed."""
    cost = ModelCost(
        layer_bytes=(MB,) * num_layers,
        layer_flops=(1e6,) * num_layers,
        embedding_bytes=MB,
        head_bytes=MB,
        head_flops=1e6,
        kv_bytes_per_token=100,
        num_kv_tokens=100,
    )
    usual: dict[str, Any] = {
        "model": "demo",
        "model_name": "demo",
        "model_hash": "h",
        "cost": cost,
        "dtype": "float32",
        "max_model_len": 64,
        "wait_nodes": (),
        "num_nodes": 1,
        "pipelines": (),
        "num_stages": 0,
        "block_tokens": 4,
        "num_blocks": 40,
        "memory_fraction": 0.0,
        "max_running": 8,
        "max_waiting": 64,
        "max_step_tokens": 16,
        "step_deadline_s": 5.0,
    }
    return ServiceSettings(**{**usual, **changes})
