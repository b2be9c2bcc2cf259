"""Who makes a call: the metadata and the certificate of its connection, given to the server's authenticators."""

from __future__ import annotations

from typing import Any

import grpc

from longshore_server.auth.authentication import Authentication
from longshore_server.auth.identity import LOCAL, Credentials, Principal, unauthenticated

_CERTIFICATE = "x509_pem_cert"
_NAMES = {"x509_uri": "URI", "x509_dns": "DNS", "x509_email": "EMAIL", "x509_ip": "IP"}


class Callers:
    """Finds out who makes each call.

    Args:
        authentication: None: everyone is the local principal.
        certificates: whether connections have client certificates.
    """

    def __init__(self, authentication: Authentication | None, *, certificates: bool) -> None:
        self._authentication = authentication
        self._certificates = certificates

    async def of(self, context: grpc.aio.ServicerContext[Any, Any]) -> Principal:
        """The principal of a call. Raises `ServiceError` (UNAUTHENTICATED)."""
        authentication = self._authentication
        if authentication is None:
            return LOCAL
        authorization = ""
        for key, value in context.invocation_metadata() or ():
            if key == "authorization":
                if authorization:
                    raise unauthenticated("The metadata `authorization` is given twice.")
                authorization = str(value)
        certificate = b""
        if self._certificates:
            # Empty on a Unix socket, which has no TLS.
            certificate = next(iter(context.auth_context().get(_CERTIFICATE, ())), b"")
        known = authentication.known(authorization, certificate)
        if known is not None:
            return known
        return await authentication.identify(Credentials(authorization, _names(context), certificate))


def _names(context: grpc.aio.ServicerContext[Any, Any]) -> tuple[str, ...]:
    """The subject alternative names, with their kinds: a name of one kind must not pass for one of another."""
    found = context.auth_context()
    return tuple(
        f"{kind}:{value.decode('utf-8', 'replace')}" for key, kind in _NAMES.items() for value in found.get(key, ())
    )
