"""The listener's own certificate: read anew when its files change, and checked before a caller sees it."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

from longshore_server.auth.files import FileError, Watched, read_bytes


class KeyPair(NamedTuple):
    """What the listener shows to callers, and whom it trusts. All in PEM."""

    key: bytes
    certificate: bytes
    client_ca: bytes | None
    """Who signs the certificates that callers must have; None: callers have none."""


class Certificates(Watched[KeyPair]):
    """The files of a listener.

    Args:
        certificate: the server's, followed by those between it and the root.
        key: its private key, not encrypted.
        client_ca: who signs the certificates of callers; None: callers need none.

    Raises `FileError` when they cannot be used.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        paths = [certificate, key] if client_ca is None else [certificate, key, client_ca]
        super().__init__(paths, lambda: _read(certificate, key, client_ca))


def _read(certificate: Path, key: Path, client_ca: Path | None) -> KeyPair:
    found = KeyPair(read_bytes(key), read_bytes(certificate), None if client_ca is None else read_bytes(client_ca))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Two files are replaced one after the other: a certificate with the key of another would refuse every caller.
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:  # an SSLError is an OSError, as is a file that has just gone
        what = getattr(error, "reason", None) or str(error)
        raise FileError(certificate, f"it is no certificate for the key {key}: {what}") from None
    if client_ca is not None and found.client_ca is not None:
        try:
            context.load_verify_locations(cadata=found.client_ca.decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            raise FileError(client_ca, f"it holds no certificates: {error}") from None
    if (read_bytes(key), read_bytes(certificate)) != found[:2]:
        raise FileError(certificate, "it was written while it was read")
    return found


def _no_password() -> str:
    """Asked for the password of an encrypted key; without this the terminal would be asked."""
    raise ValueError("the key is encrypted; write it without a password, readable by the server only")
