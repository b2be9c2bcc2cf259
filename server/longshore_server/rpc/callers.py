"""Who makes a call: the metadata and the certificate of its connection, given to the server's authenticators."""

from __future__ import annotations

from typing import Any

import grpc

from longshore_server.auth.authentication import Authentication
from longshore_server.auth.identity import LOCAL, Credentials, Principal, unauthenticated
from longshore_server.auth.mtls import names_of

_CERTIFICATE = "x509_pem_cert"


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
        names = names_of(certificate) if certificate else ()
        return await authentication.identify(Credentials(authorization, names, certificate))

    async def still(self, context: grpc.aio.ServicerContext[Any, Any], caller: Principal) -> None:
        """Look again at who makes a call that goes on. Raises `ServiceError` (UNAUTHENTICATED) if it is not `caller`
        any more, with all that it could do."""
        if self._authentication is None:
            return
        await self._authentication.look()
        now = await self.of(context)
        if now.name != caller.name or not caller.capabilities <= now.capabilities:
            raise unauthenticated("The credentials stand for somebody else, or for less, than before.")
