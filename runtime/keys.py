"""`remuda api-keys create|list|revoke`: the file of API keys, for the operator.

A key is shown once, on standard output, when it is made; the file keeps its hash. The file is
replaced whole, readable by its owner only, and a running service sees the change by itself.
"""

import argparse
import os
import secrets
import sys
import tempfile
from pathlib import Path

import msgspec

from runtime.control.options import count
from runtime.errors import ConfigError
from runtime.gateway.keys import (
    MAX_PRIORITY,
    PREFIX,
    SCOPES,
    ApiKey,
    KeyDocument,
    Quota,
    read_keys,
    sha256_of,
)
from runtime.gateway.targets import Targets

DEFAULT_FILE = Path("remuda-keys.json")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 if it worked, 1 if not, 2 if it was mistyped."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def create(options: argparse.Namespace) -> None:
    """Make a key, keep its hash, and show it."""
    keys = read_keys(options.file).keys if options.file.exists() else ()
    key_id = options.id or _new_id()
    if any(key.id == key_id for key in keys):
        raise ConfigError(f"--id: {key_id} is in {options.file} already; choose another")
    secret = f"{PREFIX}{secrets.token_urlsafe(32)}"
    _write(options.file, (*keys, _checked(_new_key(options, key_id, secret))))
    sys.stderr.write(f"key {key_id} is in {options.file}; it is shown this once:\n")
    sys.stdout.write(f"{secret}\n")


def show(options: argparse.Namespace) -> None:
    """One line for each key, without the key."""
    for key in read_keys(options.file).keys:
        quota = key.quota or Quota()
        sys.stdout.write(
            f"{key.id} scopes={','.join(key.scopes)} rpm={quota.requests_per_minute} "
            f"tpm={quota.tokens_per_minute} concurrent={quota.max_concurrent} "
            f"weight={key.weight:g} priority={key.priority}{_targets(key.slo)} name={key.name!r}\n"
        )


def revoke(options: argparse.Namespace) -> None:
    """Take a key out of the file; a running service refuses it from its next request on."""
    keys = read_keys(options.file).keys
    left = tuple(key for key in keys if key.id != options.id)
    if len(left) == len(keys):
        known = ", ".join(key.id for key in keys) or "none"
        raise ConfigError(
            f"api-keys revoke: no key {options.id!r} in {options.file}; there are: {known}"
        )
    _write(options.file, left)
    sys.stderr.write(f"key {options.id} is revoked\n")


def _new_id() -> str:
    return f"k{secrets.token_hex(4)}"


def _new_key(options: argparse.Namespace, key_id: str, secret: str) -> ApiKey:
    bounds = (options.rpm, options.tpm, options.concurrent)
    quota = Quota(
        requests_per_minute=options.rpm or 0,
        tokens_per_minute=options.tpm or 0,
        max_concurrent=options.concurrent or 0,
    )
    return ApiKey(
        id=key_id,
        sha256=sha256_of(secret),
        name=options.name,
        scopes=tuple(dict.fromkeys(options.scope)) if options.scope else ("serve",),
        quota=quota if any(bounds) else None,
        weight=options.weight,
        priority=options.priority,
        slo=_wanted_targets(options),
    )


def _wanted_targets(options: argparse.Namespace) -> Targets | None:
    if options.slo_ttft is None and options.slo_tpot is None:
        if options.slo_refuse:
            raise ConfigError("--slo-refuse: expected --slo-ttft or --slo-tpot beside it")
        return None
    return Targets(ttft=options.slo_ttft, tpot=options.slo_tpot, refuse=options.slo_refuse)


def _targets(targets: Targets | None) -> str:
    if targets is None:
        return ""
    seconds = (("ttft", targets.ttft), ("tpot", targets.tpot))
    named = "".join(f" {name}={value:g}s" for name, value in seconds if value is not None)
    return f"{named} late={'refuse' if targets.refuse else 'serve'}"


def _checked(key: ApiKey) -> ApiKey:
    """The key as it will be read again, so that nothing is written that cannot be."""
    try:
        return msgspec.convert(msgspec.to_builtins(key), ApiKey)
    except msgspec.ValidationError as error:
        raise ConfigError(f"api-keys create: {error}") from None


def _write(path: Path, keys: tuple[ApiKey, ...]) -> None:
    data = msgspec.json.format(msgspec.json.encode(KeyDocument(keys=keys)), indent=2)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="remuda api-keys", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    making = commands.add_parser("create", help="make a key and show it once")
    making.set_defaults(run=create)
    making.add_argument("--id", default="", help="its name in logs and metrics (default: random)")
    making.add_argument("--name", default="", help="whose it is, for people")
    making.add_argument("--scope", action="append", choices=SCOPES, help="default: serve")
    making.add_argument("--rpm", type=count, help="requests a minute (default: the config's)")
    making.add_argument("--tpm", type=count, help="tokens a minute (default: the config's)")
    making.add_argument("--concurrent", type=count, help="requests at a time")
    making.add_argument("--weight", type=float, default=1.0, help="share of a busy service")
    making.add_argument(
        "--priority", type=int, default=0, help=f"less goes first, ±{MAX_PRIORITY} (default: 0)"
    )
    making.add_argument("--slo-ttft", type=float, help="seconds to the first token (default: none)")
    making.add_argument("--slo-tpot", type=float, help="seconds a token after it (default: none)")
    making.add_argument(
        "--slo-refuse", action="store_true", help="refuse what is forecast to miss these (429)"
    )
    listing = commands.add_parser("list", help="the keys, without the keys")
    listing.set_defaults(run=show)
    revoking = commands.add_parser("revoke", help="take a key back")
    revoking.set_defaults(run=revoke)
    revoking.add_argument("id", help="as `list` shows it")
    for command in (making, listing, revoking):
        command.add_argument(
            "--file", type=Path, default=DEFAULT_FILE, help="http.keys_file (default: %(default)s)"
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
