"""Reads a cluster file, and refuses what contradicts itself; unknown keys with their path."""

import tomllib
from pathlib import Path

import msgspec

from runtime.errors import ConfigError
from runtime.simulation.catalogue import DEVICES, MODELS
from runtime.simulation.cluster_file import Cluster, ModelFile, NodeFile, expect_known


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


def _check_model(model: ModelFile) -> None:
    numbers = ("num_layers", "hidden", "num_heads", "num_kv_heads", "head_dim", "intermediate")
    given = [key for key in (*numbers, "vocab") if getattr(model, key)]
    if model.name:
        expect_known("model.name", model.name, MODELS)
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
            expect_known(f"devices of node {node.id!r}", kind, {**DEVICES, **cluster.devices})
    for link in cluster.links:
        if link.shared and len(set(link.between)) == 1:
            raise ConfigError(
                f"links: between {link.between[0]!r} and itself: expected two places of a shared "
                "link, got one; describe what lies between two nodes"
            )
        for end in link.between:
            expect_known("links.between", end, [*ids, *sorted(sites)])
