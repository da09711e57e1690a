"""`python -m runtime.launch`: start a service on this machine, or add this machine to one.

Parses, checks and hands over; what a service is made of stands in `runtime.launcher`.
"""

import argparse
import asyncio
import os
import socket
import sys
from pathlib import Path

from runtime.check import check_launch
from runtime.config import Config, load_config
from runtime.errors import RemudaError
from runtime.launcher import JoinPlan, ServicePlan, launch

EPILOG = """\
examples:
  python -m runtime.launch                                  the demo model, one stage per device
  python -m runtime.launch --model ./my-llama --stages 2    a Hugging Face directory
  python -m runtime.launch --model demo --layers 0:5,5:12   layers by hand
  python -m runtime.launch cluster.toml                     nodes and layers from a file
  python -m runtime.launch --join 10.0.0.5:7000 --token T   elsewhere: add that machine
"""


def main(arguments: list[str] | None = None) -> int:
    """Launch, join or check; 0 after a clean stop, 1 after a failure, 2 if mistyped."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except RemudaError as error:
        sys.stdout.flush()
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    if options.join is not None:
        asyncio.run(launch(_join_plan(options)))
        return
    config = load_config(options.config, _overrides(options))
    report = check_launch(config)
    if options.check:
        sys.stdout.write("".join(f"{line}\n" for line in report))
    else:
        asyncio.run(launch(_service_plan(options, config)))


def _service_plan(options: argparse.Namespace, config: Config) -> ServicePlan:
    return ServicePlan(config=config, token=_token(options), node=options.node_id)


def _join_plan(options: argparse.Namespace) -> JoinPlan:
    token = _token(options)
    if token is None:
        raise RemudaError("--join needs --token TOKEN (or REMUDA_TOKEN); the launcher printed it")
    host, colon, port = options.join.rpartition(":")
    if not colon or not port.isdigit():
        raise RemudaError(f"--join: expected HOST:PORT, got {options.join!r}")
    return JoinPlan(
        host=host,
        port=int(port),
        token=token,
        node=options.node_id or f"{socket.gethostname()}-{os.getpid()}",
        insecure=options.insecure,
    )


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
        "cluster.insecure": "true" if options.insecure else None,
    }
    return [*(f"{key}={_quoted(v)}" for key, v in short.items() if v is not None), *options.set]


def _quoted(value: object) -> str:
    """A string as TOML writes it literally, so that a path of digits stays a path."""
    return f"'{value}'" if isinstance(value, str) and value != "true" else str(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.launch",
        description="Serve a language model over this machine's devices, or add them to a service.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("config", nargs="?", type=Path, metavar="CLUSTER.toml", help="nodes, layers, settings")
    add("--model", metavar="DIR|demo", help="a Hugging Face model directory (default: demo)")
    add("--stages", type=int, metavar="N", help="stages of the pipeline (default: one per device)")
    add("--layers", metavar="0:5,5:12", help="layers of each stage (default: by measured speed)")
    add("--host", help="address of the HTTP endpoint (default: 127.0.0.1)")
    add("--port", type=int, help="port of the HTTP endpoint; 0 takes a free one (default: 8000)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="any key of the TOML file")
    add("--check", action="store_true", help="check config, ports, memory and model; start nothing")
    add("--join", metavar="HOST:PORT", help="add this machine's devices to a running launch")
    add("--token", help="the cluster's join token (or environment REMUDA_TOKEN; default: random)")
    add("--node-id", metavar="NAME", help="this machine's name in the cluster")
    add("--insecure", action="store_true", help="allow unencrypted cluster links off loopback")
    return parser


if __name__ == "__main__":
    sys.exit(main())
