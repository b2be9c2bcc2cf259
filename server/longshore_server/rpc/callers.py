"""Who makes a call: the metadata and the certificate of its connection, given to the server's authenticators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from longshore_server.auth.authentication import Authentication
from longshore_server.auth.identity import LOCAL, Credentials, Principal, unauthenticated
from longshore_server.auth.mtls import names_of

_CERTIFICATE = "x509_pem_cert"


class Call(Protocol):
    """What a call says of who makes it; the names are those of gRPC's contexts."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...
    def auth_context(self) -> Mapping[str, Iterable[bytes]]: ...


class Callers:
    """Finds out who makes each call.

    Args:
        authentication: None: everyone is the local principal.
        certificates: whether connections have client certificates.
    """

    def __init__(self, authentication: Authentication | None, *, certificates: bool) -> None:
        self._authentication = authentication
        self._certificates = certificates
        self.holds = _always if authentication is None else authentication.holds
        """Whether who was a caller at a version still is, as far as that can be told at once; False: ask `still`."""

    def known(self, call: Call) -> Principal | None:
        """The principal of a call, where that can be told at once; None: ask `of`. Raises as that does."""
        authentication = self._authentication
        if authentication is None:
            return LOCAL
        authorization, certificate = self._shown(call)
        return authentication.known(authorization, certificate)

    async def of(self, call: Call) -> Principal:
        """The principal of a call. Raises `ServiceError` (UNAUTHENTICATED)."""
        authentication = self._authentication
        if authentication is None:
            return LOCAL
        authorization, certificate = self._shown(call)
        known = authentication.known(authorization, certificate)
        if known is not None:
            return known
        names = names_of(certificate) if certificate else ()
        return await authentication.identify(Credentials(authorization, names, certificate))

    def _shown(self, call: Call) -> tuple[str, bytes]:
        """The metadata `authorization` and the certificate of a call; each empty where there is none."""
        authorization = ""
        for key, value in call.invocation_metadata() or ():
            if key == "authorization":
                if authorization:
                    raise unauthenticated("The metadata `authorization` is given twice.")
                authorization = str(value)
        certificate = b""
        if self._certificates:
            # Empty on a Unix socket, which has no TLS.
            certificate = next(iter(call.auth_context().get(_CERTIFICATE, ())), b"")
        return authorization, certificate

    @property
    def version(self) -> int:
        """Of what `of` says: at another one it may say something else of the same call."""
        return 0 if self._authentication is None else self._authentication.version

    async def still(self, call: Call, caller: Principal, version: int) -> int:
        """Look again at who makes a call that goes on, and was `caller` at `version`. Returns the version of now.

        Raises `ServiceError` (UNAUTHENTICATED) if it is not `caller` any more, with all that it could do.
        """
        authentication = self._authentication
        if authentication is None or self.holds(caller, version):
            return version
        await authentication.look()
        version = authentication.version
        now = await self.of(call)
        if now.name != caller.name or not caller.capabilities <= now.capabilities:
            raise unauthenticated("The credentials stand for somebody else, or for less, than before.")
        return version


def _always(caller: Principal, version: int) -> bool:  # noqa: ARG001 - whoever it is
    return True
