"""The listener's own certificate: read anew when its files change, and checked before a caller sees it."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path
from typing import NamedTuple

from longshore_server.auth.files import FileError, Watched, read_bytes


class KeyPair(NamedTuple):
    """What the listener shows to callers, and whom it trusts. All in PEM."""

    key: bytes
    certificate: bytes
    client_ca: bytes | None
    """Who signs the certificates that callers must have; None: callers have none."""


class Certificates:
    """The files of a listener. What is wrong with one of them does not keep the others from being read again.

    Args:
        certificate: the server's, followed by those between it and the root.
        key: its private key, not encrypted.
        client_ca: who signs the certificates of callers; None: callers need none.

    Raises `FileError` when they cannot be used.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._own = Watched([certificate, key], lambda: _read_own(certificate, key))
        self._client_ca = None if client_ca is None else Watched([client_ca], lambda: _read_client_ca(client_ca))
        # gRPC asks for certificates in threads of its own.
        self._lock = threading.Lock()
        self.value = self._together()
        """Another object when something has changed."""

    def update(self, *, force: bool = False) -> None:
        """Read the files again if they have changed, or in any case with `force`."""
        with self._lock:
            own = self._own.update(force=force)
            client_ca = self._client_ca is not None and self._client_ca.update(force=force)
            if own or client_ca:
                self.value = self._together()

    def _together(self) -> KeyPair:
        return KeyPair(*self._own.value, None if self._client_ca is None else self._client_ca.value)


def _read_own(certificate: Path, key: Path) -> tuple[bytes, bytes]:
    found = read_bytes(key), read_bytes(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Two files are replaced one after the other: a certificate with the key of another would refuse every caller.
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:  # an SSLError is an OSError, as is a file that has just gone
        what = getattr(error, "reason", None) or str(error)
        raise FileError(certificate, f"it is no certificate for the key {key}: {what}") from None
    if (read_bytes(key), read_bytes(certificate)) != found:
        raise FileError(certificate, "it was written while it was read")
    return found


def _read_client_ca(client_ca: Path) -> bytes:
    found = read_bytes(client_ca)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=found.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise FileError(client_ca, f"it holds no certificates: {error}") from None
    return found


def _no_password() -> str:
    """Asked for the password of an encrypted key; without this the terminal would be asked."""
    raise ValueError("the key is encrypted; write it without a password, readable by the server only")
