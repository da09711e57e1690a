"""The options of `python -m runtime.launch`, and the plan that they ask for.

Short options of a service are keys of its file and checked with it; those of a machine that joins
one elsewhere have no file, and are checked here by the same bounds.
"""

import argparse
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.config import ClusterSettings, Config
from runtime.errors import RemudaError
from runtime.launch_plans import JoinPlan, ServicePlan
from runtime.network import parse_address
from runtime.notice import parse_source
from runtime.profile import content_hash
from runtime.setting_bounds import MAX_HANG_TIMEOUT_S, MAX_NODE_ID, MIN_HANG_TIMEOUT_S

EPILOG = """\
examples:
  python -m runtime.launch                                  the demo model, one stage per device
  python -m runtime.launch --model ./my-llama --stages 2    a Hugging Face directory
  python -m runtime.launch --model demo --layers 0:5,5:12   layers by hand
  python -m runtime.launch cluster.toml                     nodes and layers from a file
  python -m runtime.launch --join 10.0.0.5:7000 --token T   elsewhere: add that machine
"""

DRAIN_S = 30.0


def make_parser() -> argparse.ArgumentParser:
    """Every option with its help."""
    parser = argparse.ArgumentParser(
        prog="python -m runtime.launch",
        description="Serve a language model over this machine's devices, or add them to a service.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_service(parser.add_argument)
    _add_cluster(parser.add_argument)
    return parser


def _add_service(add: Callable[..., Any]) -> None:
    """What is served, and where."""
    add("config", nargs="?", type=Path, metavar="CLUSTER.toml", help="nodes, layers, settings")
    add(
        "--model",
        metavar="DIR|demo",
        help="a Hugging Face model directory (default: demo); with --join, this machine's copy, "
        "which must be of the model that is served",
    )
    add("--stages", type=int, metavar="N", help="stages of the pipeline (default: one per device)")
    add("--layers", metavar="0:5,5:12", help="layers of each stage (default: by measured speed)")
    add("--host", help="address of the HTTP endpoint (default: 127.0.0.1)")
    add("--port", type=int, help="port of the HTTP endpoint; 0 takes a free one (default: 8000)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="any key of the TOML file")
    add("--check", action="store_true", help="check config, ports, memory and model; start nothing")


def _add_cluster(add: Callable[..., Any]) -> None:
    """Which cluster, and how this machine takes part in it."""
    add("--join", metavar="HOST:PORT", help="add this machine's devices to a running launch")
    add("--token", help="the cluster's join token (or environment REMUDA_TOKEN; default: random)")
    add("--node-id", metavar="NAME", help="this machine's name in the cluster")
    add(
        "--drain",
        type=float,
        metavar="S",
        help="seconds a node asked to end has to hand its work on",
    )
    add("--notice", metavar="SOURCE", help="aws, gcp, azure or file=PATH: leave when it says so")
    add(
        "--insecure",
        action="store_true",
        help="open or unencrypted ports and plaintext cluster links off loopback, by name",
    )
    add(
        "--hang-timeout",
        type=float,
        metavar="S",
        help="end a process that answers nobody for so long, and start it again (default: 10)",
    )
    add("--auto", action="store_true", help="go over to a better plan when nodes come and go")
    add("--otlp-endpoint", metavar="URL", help="send a trace of each request to this collector")
    add(
        "--emulated-speed",
        type=float,
        metavar="PART",
        help="have this machine's devices play slower ones: 0.5 takes twice as long (default: 1)",
    )
    add("--chaos", action="store_true", help="let `ctl chaos` cut and slow this machine's links")


def not_for_a_join(options: argparse.Namespace) -> list[str]:
    """The options that speak of a service, where there is one elsewhere already."""
    if options.join is None:
        return []
    names = ("config", "stages", "layers", "host", "port", "check", "auto", "otlp_endpoint")
    values = {name: getattr(options, name) for name in names}
    given = [name for name, value in values.items() if value is not None and value is not False]
    given += ["set"] if options.set else []
    return ["CLUSTER.toml" if name == "config" else f"--{name.replace('_', '-')}" for name in given]


def service_plan(options: argparse.Namespace, config: Config) -> ServicePlan:
    """A service of this machine's own."""
    return ServicePlan(config=config, token=_token(options), node=node_id(options))


def join_plan(options: argparse.Namespace) -> JoinPlan:
    """A service elsewhere; raises `RemudaError` where an option makes no sense."""
    token = _token(options)
    if token is None:
        raise RemudaError("--join needs --token TOKEN (or REMUDA_TOKEN); the launcher printed it")
    if options.notice:
        parse_source(options.notice)
    address = parse_address(options.join)
    if address is None:
        raise RemudaError(f"--join: expected HOST:PORT, got {options.join!r}")
    host, port = address
    return JoinPlan(
        host=host,
        port=port,
        token=token,
        node=node_id(options) or f"{socket.gethostname()[: MAX_NODE_ID - 10]}-{os.getpid()}",
        insecure=options.insecure,
        model_hash=content_hash(options.model) if options.model else "",
        drain_s=DRAIN_S if options.drain is None else options.drain,
        notice=options.notice or "",
        chaos=options.chaos,
        hang_timeout_s=_hang_timeout_s(options),
        emulated_speed=_emulated_speed(options),
    )


def _emulated_speed(options: argparse.Namespace) -> float:
    """With the bounds of `cluster.emulated_speed`, which a launcher that joins does not read."""
    given: float | None = options.emulated_speed
    if given is None:
        return ClusterSettings().emulated_speed
    if not 0 < given <= 1:
        raise RemudaError(f"--emulated-speed: expected above 0 and 1 at most, got {given:g}")
    return given


def _hang_timeout_s(options: argparse.Namespace) -> float:
    """With the bounds of `cluster.hang_timeout_s`, which a launcher that joins does not read."""
    given: float | None = options.hang_timeout
    if given is None:
        return ClusterSettings().hang_timeout_s
    if not MIN_HANG_TIMEOUT_S <= given <= MAX_HANG_TIMEOUT_S:
        bounds = f"{MIN_HANG_TIMEOUT_S:g} to {MAX_HANG_TIMEOUT_S:g}"
        raise RemudaError(f"--hang-timeout: expected {bounds} seconds, got {given:g}")
    return given


def node_id(options: argparse.Namespace) -> str | None:
    """The name asked for; it stands in log lines and messages, so that it is short and plain."""
    name: str | None = options.node_id
    if name is not None and not (name.isprintable() and 0 < len(name) <= MAX_NODE_ID):
        raise RemudaError(f"--node-id: expected 1 to {MAX_NODE_ID} plain letters, got {name!r}")
    return name


def _token(options: argparse.Namespace) -> str | None:
    return options.token or os.environ.get("REMUDA_TOKEN")


def overrides(options: argparse.Namespace) -> list[str]:
    """The flags that are short for `--set`, then `--set` itself, which therefore wins."""
    short = {
        "model.path": options.model,
        "num_stages": options.stages,
        "layers": options.layers,
        "http.host": options.host,
        "http.port": options.port,
        "cluster.insecure": True if options.insecure else None,
        "http.insecure": True if options.insecure else None,
        "cluster.drain_s": options.drain,
        "cluster.notice": options.notice,
        "cluster.chaos": True if options.chaos else None,
        "cluster.hang_timeout_s": options.hang_timeout,
        "cluster.auto": True if options.auto else None,
        "telemetry.otlp_endpoint": options.otlp_endpoint,
        "cluster.emulated_speed": options.emulated_speed,
    }
    return [*(f"{key}={_quoted(v)}" for key, v in short.items() if v is not None), *options.set]


def _quoted(value: object) -> str:
    """A value as TOML writes it, so that a path of digits or with a quote in it stays a path.

    TOML's basic strings, numbers and booleans are written as JSON's are.
    """
    return json.dumps(value, ensure_ascii=False)
