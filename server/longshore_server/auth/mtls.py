"""Client certificates: a file says which principal a subject alternative name stands for.

    [[identity]]
    san = "URI:spiffe://acme.example/checkout"
    principal = "checkout"
    capabilities = ["orders.read", "orders.write"]

TLS has verified the certificate before anybody asks here, once for a connection; its end is looked at again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from longshore_server.auth.files import FileError, Watched, read_tables, warn_of_unknown
from longshore_server.auth.identity import (
    Authenticator,
    Credentials,
    Principal,
    capabilities_problem,
    name_problem,
    unauthenticated,
)
from longshore_server.clock import SECOND, Clock
from longshore_server.errors import Reason

KINDS = ("URI", "DNS", "EMAIL", "IP")
_FIELDS = ("san", "principal", "capabilities")


class CertificateNames(Authenticator):
    """The names of one file, and the capabilities that contracts know; see `warn_of_unknown`.

    Raises `FileError` when it cannot be used.
    """

    def __init__(self, path: Path, clock: Clock, known: Collection[str] | None = None) -> None:
        self._clock = clock
        self._names: Watched[Mapping[str, Principal]] = Watched([path], lambda: _read(path, known))

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        if not credentials.certificate or credentials.authorization:
            # Whoever sends a token means that, and a wrong one is not made good by the connection it came over.
            return None
        found = {p.name: p for p in map(self._names.value.get, credentials.peer_identities) if p is not None}
        if not found:
            shown = ", ".join(credentials.peer_identities)[:300] or "it has none"
            raise unauthenticated(f"No principal is listed for the names of the client certificate: {shown}.")
        if len(found) > 1:
            raise unauthenticated(
                f"The names of the client certificate stand for several principals: {', '.join(sorted(found))[:300]}."
            )
        (principal,) = found.values()
        expires = _end(credentials.certificate)
        if expires <= self._clock.now():
            raise unauthenticated("The client certificate has expired.", Reason.CREDENTIALS_EXPIRED)
        return principal._replace(expires=expires)

    async def refresh(self, *, force: bool) -> bool:
        return await self._names.refresh(force=force)


def names_of(certificate: bytes) -> tuple[str, ...]:
    """The subject alternative names, with their kinds: a name of one kind must not pass for one of another."""
    from cryptography import x509

    kinds: Mapping[type[x509.GeneralName], str] = {
        x509.UniformResourceIdentifier: "URI", x509.DNSName: "DNS", x509.RFC822Name: "EMAIL", x509.IPAddress: "IP"
    }  # fmt: skip
    try:
        extensions = x509.load_pem_x509_certificate(certificate).extensions
        found = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return tuple(f"{kinds[type(name)]}:{name.value}" for name in found if type(name) in kinds)


def _end(certificate: bytes) -> int:
    from cryptography import x509

    return int(x509.load_pem_x509_certificate(certificate).not_valid_after_utc.timestamp()) * SECOND


def _read(path: Path, known: Collection[str] | None) -> dict[str, Principal]:
    names: dict[str, Principal] = {}
    for position, table in enumerate(read_tables(path, "identity", _FIELDS, _FIELDS)):
        place = f"identity[{position}]"
        san = table["san"]
        kind, colon, value = san.partition(":") if isinstance(san, str) else ("", "", "")
        if kind not in KINDS or not colon or not value:
            raise FileError(path, f'{place}.san: it must be one of {", ".join(KINDS)} and a name, like "DNS:a.example"')
        if san in names:
            raise FileError(path, f"{place}.san: {san} is there twice")
        problem = name_problem(table["principal"])
        if problem is not None:
            raise FileError(path, f"{place}.principal: {problem}")
        problem = capabilities_problem(table["capabilities"])
        if problem is not None:
            raise FileError(path, f"{place}.capabilities: {problem}")
        names[san] = Principal(table["principal"], frozenset(table["capabilities"]), method="mtls")
    warn_of_unknown(path, (principal.capabilities for principal in names.values()), known)
    return names
