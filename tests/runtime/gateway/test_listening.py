"""What the configuration opens, to whom, and what it refuses to open."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import trustme

from runtime.addresses import is_admin_apart
from runtime.config import Config
from runtime.config_file import load_config
from runtime.errors import ConfigError
from runtime.gateway.app import create_apps
from runtime.gateway.keys import sha256_of
from runtime.gateway.listening import (
    check_exposure,
    listen,
    new_safeguards,
    new_telemetry,
)
from runtime.gateway.tls import server_context
from runtime.network import free_port
from tests.runtime.gateway.guarded import bearer, secret
from tests.runtime.gateway.scripted import (
    MODEL,
    PATIENCE_S,
    AnyGrammar,
    ByteTokenizer,
    ScriptedBackend,
)

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> dict[str, str]:
    """PEM files of a certificate, its key and its root, and a file of keys."""
    ours = authority.issue_cert(HOST)
    paths = {name: tmp_path / f"{name}.pem" for name in ("certificate", "private_key", "root")}
    ours.cert_chain_pems[0].write_to_path(paths["certificate"])
    ours.private_key_pem.write_to_path(paths["private_key"])
    authority.cert_pem.write_to_path(paths["root"])
    keys = tmp_path / "keys.json"
    rows = ",".join(
        f'{{"id": "{name}", "sha256": "{sha256_of(secret(name))}", "scopes": ["{scope}"]}}'
        for name, scope in (("user", "serve"), ("boss", "admin"))
    )
    keys.write_text(f'{{"keys": [{rows}]}}')
    return {name: str(path) for name, path in paths.items()} | {"keys": str(keys)}


def config(*settings: str) -> Config:
    ports = [f"http.port={free_port(HOST)}", f"admin.port={free_port(HOST)}"]
    return load_config(None, [*ports, *settings])


def tls_of(files: dict[str, str]) -> list[str]:
    return [f"tls.certificate={files['certificate']}", f"tls.private_key={files['private_key']}"]


@asynccontextmanager
async def service(config: Config, backend: ScriptedBackend) -> AsyncIterator[None]:

    telemetry = new_telemetry(config, MODEL.name)
    apps = create_apps(
        backend,
        ByteTokenizer(),
        MODEL,
        grammars=AnyGrammar(),
        rng=random.Random(1),
        safeguards=new_safeguards(config, telemetry, lambda: None, {}),
    )
    async with AsyncExitStack() as ending:
        await listen(apps, config, ending)
        yield


async def status_of(
    url: str, *, trust: ssl.SSLContext | None = None, headers: dict[str, str] | None = None
) -> int:
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(url, ssl=trust or True, headers=headers) as answer,
    ):
        return answer.status


@pytest.mark.parametrize(
    ("settings", "apart"),
    [
        ([], False),
        (["admin.place=own"], True),
        (["admin.place=shared", "http.host=0.0.0.0"], False),
        (["http.host=0.0.0.0"], True),
        (["http.host=::1"], False),
    ],
)
def test_the_operators_port_is_apart_where_clients_come_from_elsewhere(
    settings: list[str], apart: bool
) -> None:
    assert is_admin_apart(config(*settings)) is apart


def test_on_loopback_nothing_needs_to_be_secured() -> None:
    check_exposure(config(), {})


def test_off_loopback_keys_and_encryption_are_needed(files: dict[str, str]) -> None:
    off = "http.host=0.0.0.0"
    with pytest.raises(ConfigError, match=r"http\.host 0\.0\.0\.0 .*no API key.* and no cert"):
        check_exposure(config(off), {})
    with pytest.raises(ConfigError, match="there is no certificate"):
        check_exposure(config(off, f"http.keys_file={files['keys']}"), {})
    with pytest.raises(ConfigError, match="there is no API key"):
        check_exposure(config(off, *tls_of(files)), {})
    check_exposure(config(off, *tls_of(files), f"http.keys_file={files['keys']}"), {})
    check_exposure(config(off, *tls_of(files)), {"REMUDA_API_KEYS": secret("user")})
    check_exposure(config(off, *tls_of(files), f"tls.client_ca={files['root']}"), {})
    check_exposure(config(off, "http.insecure=true"), {})


def test_the_operators_own_port_is_not_opened_to_a_network_either() -> None:
    with pytest.raises(ConfigError, match=r"admin\.host 0\.0\.0\.0 is not loopback"):
        check_exposure(config("admin.place=own", "admin.host=0.0.0.0"), {})


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("certificate", r"tls\.certificate: there is no file"),
        ("private_key", r"tls\.private_key: there is no file"),
        ("root", r"tls\.client_ca: .* cannot be used"),
    ],
)
def test_a_file_of_tls_that_is_missing_is_named(
    files: dict[str, str], name: str, complaint: str
) -> None:
    files[name] += ".absent"
    with pytest.raises(ConfigError, match=complaint):
        server_context(files["certificate"], files["private_key"], files["root"])


def test_a_key_that_is_not_the_certificates_is_refused(
    files: dict[str, str], authority: trustme.CA, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    authority.issue_cert("other").private_key_pem.write_to_path(other)
    with pytest.raises(ConfigError, match="cannot be used"):
        server_context(files["certificate"], str(other), "")
    with pytest.raises(ConfigError, match="cannot be used"):
        server_context(files["keys"], "", "")


async def test_on_loopback_both_halves_share_a_port(backend: ScriptedBackend) -> None:
    found = config()
    async with service(found, backend):
        base = f"http://{HOST}:{found.http.port}"
        assert await status_of(f"{base}/v1/models") == 200
        assert await status_of(f"{base}/admin/status") == 200
        assert await status_of(f"{base}/metrics") == 200


async def test_apart_each_port_has_its_own_half_and_keys_hold_on_both(
    backend: ScriptedBackend, files: dict[str, str]
) -> None:
    found = config("admin.place=own", f"http.keys_file={files['keys']}")
    async with service(found, backend):
        clients = f"http://{HOST}:{found.http.port}"
        admin = f"http://{HOST}:{found.admin.port}"
        boss, user = bearer("boss"), bearer("user")
        assert await status_of(f"{clients}/v1/models", headers=user) == 200
        assert await status_of(f"{clients}/admin/status", headers=boss) == 404
        assert await status_of(f"{clients}/metrics", headers=boss) == 404
        assert await status_of(f"{admin}/admin/status", headers=boss) == 200
        assert await status_of(f"{admin}/metrics", headers=boss) == 200
        assert await status_of(f"{admin}/admin/status", headers=user) == 403
        assert await status_of(f"{admin}/admin/status") == 401
        assert await status_of(f"{admin}/v1/models", headers=user) == 404
        assert await status_of(f"{clients}/dashboard") == 404
        assert await status_of(f"{admin}/dashboard") == 200  # the page, and what it chats by:
        assert await status_of(f"{admin}/v1/chat/completions", headers=user) == 405
        assert await status_of(f"{admin}/v1/chat/completions") == 401


async def test_tls_is_spoken_where_it_is_configured(
    backend: ScriptedBackend, files: dict[str, str]
) -> None:
    found = config(*tls_of(files))
    trust = ssl.create_default_context(cafile=files["root"])
    async with service(found, backend):
        url = f"{HOST}:{found.http.port}/health"
        assert await status_of(f"https://{url}", trust=trust) == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await status_of(f"https://{url}")
        with pytest.raises(aiohttp.ClientError):
            await status_of(f"http://{url}")


async def test_with_a_client_ca_only_its_clients_get_in(
    backend: ScriptedBackend, files: dict[str, str], authority: trustme.CA
) -> None:
    found = config(*tls_of(files), f"tls.client_ca={files['root']}")
    trust = ssl.create_default_context(cafile=files["root"])
    stranger = ssl.create_default_context(cafile=files["root"])
    trustme.CA().issue_cert("client").configure_cert(stranger)
    known = ssl.create_default_context(cafile=files["root"])
    authority.issue_cert("client").configure_cert(known)
    async with service(found, backend), asyncio.timeout(PATIENCE_S):
        url = f"https://{HOST}:{found.http.port}/health"
        assert await status_of(url, trust=known) == 200
        for nobody in (trust, stranger):
            with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
                await status_of(url, trust=nobody)
