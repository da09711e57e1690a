"""The configuration as one TOML file and `--set a.b=value`, checked as a whole.

Unknown keys are refused with their path and the known names. `--set` writes into the same tree
before it is checked, so the command line can say nothing that the file could not.
"""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from runtime.config import Config
from runtime.errors import ConfigError
from runtime.notice import parse_source
from scheduling.errors import InvalidPlan
from scheduling.plan import PipelineId, check_phases


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


def _record_in(annotation: Any) -> type[Struct] | None:
    """The record an annotation holds, directly or as the item of a tuple."""
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _record_in(inner)) is not None:
            return found
    return None


def _refuse_contradictions(config: Config) -> None:
    """What each key allows by itself and the whole does not."""
    if config.cluster.notice:
        parse_source(config.cluster.notice)
    _check_encryption(config)
    _check_pipelines(config)
    _check_nodes(config)


def _check_encryption(config: Config) -> None:
    if config.cluster.insecure and config.security.curve == "on":
        raise ConfigError(
            'config: cluster.insecure (--insecure) asks for plaintext, security.curve = "on" for '
            "encryption; give one of them"
        )
    tls = config.tls
    if (tls.private_key or tls.client_ca) and not tls.certificate:
        raise ConfigError("config: tls.private_key and tls.client_ca need tls.certificate as well")


def _check_pipelines(config: Config) -> None:
    if config.pipelines and (config.layers or config.num_stages):
        raise ConfigError("config: give either [[pipelines]] or layers/num_stages, not both")
    phases = {PipelineId(str(n)): p.phase for n, p in enumerate(config.pipelines)}
    try:
        check_phases(phases)
    except InvalidPlan as error:
        raise ConfigError(f"config: pipelines: {error}") from None


def _check_nodes(config: Config) -> None:
    """Every node has a name of its own, and every stage one of them, if they are listed."""
    known = {node.id for node in config.nodes}
    if len(known) != len(config.nodes):
        raise ConfigError("config: two entries of [[nodes]] have the same id")
    for p, pipeline in enumerate(config.pipelines if known else ()):
        for s, stage in enumerate(pipeline.stages):
            if stage.node not in known:
                raise ConfigError(
                    f"config: pipelines[{p}].stages[{s}].node is {stage.node!r}; "
                    f"known nodes: {', '.join(sorted(known))}"
                )
