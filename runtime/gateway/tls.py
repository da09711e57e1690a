"""TLS for the gateway: its certificate, and whom it asks for one."""

import ssl
from pathlib import Path

from runtime.errors import ConfigError


def server_context(certificate: str, private_key: str, client_ca: str) -> ssl.SSLContext | None:
    """The context to listen with, or None where no certificate is configured.

    Args:
        certificate: file of our certificate and those between it and its root, PEM.
        private_key: file of its key, PEM; empty if it is in the same file.
        client_ca: file of roots; clients must then show a certificate under one (mutual TLS).

    Raises:
        ConfigError: a file cannot be read or is not what it should be.
    """
    if not certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _loaded("tls.certificate", certificate, private_key, context)
    if client_ca:
        _trusted(client_ca, context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _loaded(key: str, certificate: str, private_key: str, context: ssl.SSLContext) -> None:
    for name, path in (("tls.certificate", certificate), ("tls.private_key", private_key)):
        if path and not Path(path).is_file():
            raise ConfigError(f"{name}: there is no file {path}")
    try:
        # A key under a passphrase would be asked for on a terminal that a child does not have.
        context.load_cert_chain(certificate, private_key or None, password=lambda: "")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ConfigError(
            f"{key}: {certificate} and its private key cannot be used: {error}; expected PEM files "
            f"that belong together, the key without a passphrase"
        ) from None


def _trusted(client_ca: str, context: ssl.SSLContext) -> None:
    try:
        context.load_verify_locations(cafile=client_ca)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"tls.client_ca: {client_ca} cannot be used: {error}; expected PEM certificates"
        ) from None
