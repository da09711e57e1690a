"""`python -m runtime.launch`: start a service on this machine, or add this machine to one.

Parses, checks and hands over; what a service is made of stands in `runtime.launcher`.
"""

import argparse
import asyncio
import json
import os
import socket
import sys
import traceback
from pathlib import Path

from runtime.check import check_launch
from runtime.config import (
    MAX_HANG_TIMEOUT_S,
    MAX_NODE_ID,
    MIN_HANG_TIMEOUT_S,
    ClusterSettings,
    Config,
    load_config,
)
from runtime.errors import RemudaError
from runtime.launcher import JoinPlan, ServicePlan, launch, local_node
from runtime.logs import FORMAT_ENV
from runtime.network import parse_address
from runtime.notice import parse_source
from runtime.profile import content_hash

EPILOG = """\
examples:
  python -m runtime.launch                                  the demo model, one stage per device
  python -m runtime.launch --model ./my-llama --stages 2    a Hugging Face directory
  python -m runtime.launch --model demo --layers 0:5,5:12   layers by hand
  python -m runtime.launch cluster.toml                     nodes and layers from a file
  python -m runtime.launch --join 10.0.0.5:7000 --token T   elsewhere: add that machine
"""

DRAIN_S = 30.0
INTERRUPTED = 130
"""What a shell expects of a command that Ctrl-C ended."""


def main(arguments: list[str] | None = None) -> int:
    """Launch, join or check; 0 after a clean stop, 1 after a failure, 2 if mistyped.

    Whatever goes wrong, the last line of the output says what it was.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if mixed := _not_for_a_join(options):
        parser.error(f"--join takes the service as it is: {', '.join(mixed)} cannot go with it")
    try:
        _run(options)
    except KeyboardInterrupt:
        return _failed("interrupted before anything was started", INTERRUPTED)
    except RemudaError as error:
        return _failed(str(error))
    except Exception as error:  # noqa: BLE001  # our own bug: all of it, then its one line
        traceback.print_exc()
        return _failed(f"this is a bug: {_innermost(error)!r}")
    return 0


def _failed(reason: str, code: int = 1) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"error: {' '.join(reason.splitlines())}\n")
    return code


def _innermost(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _not_for_a_join(options: argparse.Namespace) -> list[str]:
    """The options that speak of a service, where there is one elsewhere already."""
    if options.join is None:
        return []
    names = ("config", "stages", "layers", "host", "port", "check", "auto", "otlp_endpoint")
    values = {name: getattr(options, name) for name in names}
    given = [name for name, value in values.items() if value is not None and value is not False]
    given += ["set"] if options.set else []
    return ["CLUSTER.toml" if name == "config" else f"--{name.replace('_', '-')}" for name in given]


def _run(options: argparse.Namespace) -> None:
    if options.join is not None:
        asyncio.run(launch(_join_plan(options)))
        return
    config = load_config(options.config, _overrides(options))
    local_node(config, _node_id(options))
    report = check_launch(config)
    if options.check:
        sys.stdout.write("".join(f"{line}\n" for line in report))
    else:
        os.environ[FORMAT_ENV] = config.telemetry.log_format
        asyncio.run(launch(_service_plan(options, config)))


def _service_plan(options: argparse.Namespace, config: Config) -> ServicePlan:
    return ServicePlan(config=config, token=_token(options), node=_node_id(options))


def _join_plan(options: argparse.Namespace) -> JoinPlan:
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
        node=_node_id(options) or f"{socket.gethostname()[: MAX_NODE_ID - 10]}-{os.getpid()}",
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


def _node_id(options: argparse.Namespace) -> str | None:
    """The name asked for; it stands in log lines and messages, so that it is short and plain."""
    name: str | None = options.node_id
    if name is not None and not (name.isprintable() and 0 < len(name) <= MAX_NODE_ID):
        raise RemudaError(f"--node-id: expected 1 to {MAX_NODE_ID} plain letters, got {name!r}")
    return name


def _token(options: argparse.Namespace) -> str | None:
    return options.token or os.environ.get("REMUDA_TOKEN")


def _overrides(options: argparse.Namespace) -> list[str]:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.launch",
        description="Serve a language model over this machine's devices, or add them to a service.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
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
    return parser


if __name__ == "__main__":
    sys.exit(main())
