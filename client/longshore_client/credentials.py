"""How a client proves who it is, and how it knows the server: a token with every call, and TLS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import grpc

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

Token: TypeAlias = "str | Callable[[], str]"  # noqa: S105 - a type
"""A bearer token, or what returns the one that is good now."""


def tls(
    ca: str | os.PathLike[str] | None = None,
    *,
    certificate: str | os.PathLike[str] | None = None,
    key: str | os.PathLike[str] | None = None,
) -> grpc.ChannelCredentials:
    """Credentials for `connect`, from PEM files that are read now.

    Args:
        ca: Who signs the server's certificate. Default: the roots that gRPC brings along.
        certificate: The client's own certificate, with those between it and the root. Default: none.
        key: Its private key.

    Raises:
        OSError: A file cannot be read.
        ValueError: Only one of `certificate` and `key` is given.
    """
    if (certificate is None) != (key is None):
        raise ValueError("a certificate and its key belong together: give both or neither")
    root, own_key, own = (None if path is None else Path(path).read_bytes() for path in (ca, key, certificate))
    return grpc.ssl_channel_credentials(root, own_key, own)
