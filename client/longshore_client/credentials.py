"""How a client proves who it is, and how it knows the server: a token with every call, and TLS."""

from __future__ import annotations

import ipaddress
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


def is_local(target: str) -> bool:
    """Whether what is sent to a gRPC target stays on this machine: a Unix socket, `localhost` or loopback addresses.

    A name that is none of these is not looked up: who answers it may change between this look and the connection.
    """
    scheme, _, rest = target.partition(":")
    if scheme in ("unix", "unix-abstract"):
        return True
    addresses = rest.rpartition("/")[2] if scheme in ("dns", "ipv4", "ipv6") else target
    return all(_is_loopback(address) for address in addresses.split(","))


def _is_loopback(address: str) -> bool:
    if address.startswith("["):
        host = address[1:].partition("]")[0]
    else:
        host = address if address.count(":") > 1 else address.partition(":")[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
