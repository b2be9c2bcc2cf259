"""Who calls and what they may do, and how one finds out: the words that every authenticator speaks."""

from __future__ import annotations

import abc
from typing import NamedTuple

from longshore_server.errors import Reason, ServiceError

MAX_NAME = 256
"""The longest name of a principal or of a capability, in bytes."""


class Principal(NamedTuple):
    """A caller who is known."""

    name: str
    """Owns the operations that it starts, and scopes its idempotency keys."""
    capabilities: frozenset[str]
    """What the gates of contracts ask for."""
    expires: int | None = None
    """When its credentials end, in microseconds since the epoch; None: never. Its watches end then, too."""
    method: str = ""
    """How it proved who it is, for example `token`, `jwt` or `mtls`."""

    @property
    def unrestricted(self) -> bool:
        """Whether it passes every gate, as whoever reaches a server without authentication does."""
        return self is LOCAL


LOCAL = Principal("local", frozenset(), method="local")
"""Every caller while no authentication is configured. The name is reserved: no credentials can say it."""


class Credentials(NamedTuple):
    """What a call carries to prove who makes it."""

    authorization: str = ""
    """The metadata `authorization`, for example `Bearer ...`; empty: none."""
    peer_identities: tuple[str, ...] = ()
    """The subject alternative names of a client certificate that TLS has verified, for example
    `URI:spiffe://acme/orders`, `DNS:worker.acme.example`, `EMAIL:ada@acme.example` or `IP:10.0.0.7`."""
    certificate: bytes = b""
    """That certificate, in PEM; empty: the connection has none."""

    @property
    def bearer(self) -> str | None:
        """The token of `authorization: Bearer TOKEN`; None: there is none."""
        scheme, _, token = self.authorization.partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None


class Authenticator(abc.ABC):
    """One way to find out who calls. A server asks its authenticators in order until one knows.

    What it says of some credentials is kept until the principal expires or `refresh` says that it may no longer hold.
    """

    @abc.abstractmethod
    async def authenticate(self, credentials: Credentials) -> Principal | None:
        """The principal, or None when such credentials are not this authenticator's to judge.

        Raises `ServiceError` when they are and are not good; see `unauthenticated`. That is what the caller is told
        if none of the others knows them either.
        """

    async def refresh(self, *, force: bool) -> bool:  # noqa: ARG002 - for those that override it
        """Look whether what it knows has changed; True: what it said before may no longer hold.

        Called when calls come, at most once a second, and with `force` when the operator asks for it (SIGHUP). Calls
        and streams wait for it, but no longer than five seconds, and not again before it has returned: until then what
        it said counts on, each principal until it expires. One that raises has what it said before forgotten.
        """
        return False


def unauthenticated(message: str, reason: Reason = Reason.CREDENTIALS_INVALID) -> ServiceError:
    """The refusal of credentials. `message`: what is wrong with them, without any part of a secret."""
    return ServiceError(reason, message)


def expired() -> ServiceError:
    """The refusal of credentials whose time is over."""
    return unauthenticated("The credentials have expired: call again with new ones.", Reason.CREDENTIALS_EXPIRED)


def name_problem(name: object) -> str | None:
    """Why this cannot be the name of a principal; None: it can."""
    if not isinstance(name, str) or not name:
        return "it must be a text that is not empty"
    if len(name.encode("utf-8", "replace")) > MAX_NAME:
        return f"it must not be longer than {MAX_NAME} bytes"
    if not name.isprintable():
        return "it must be printable"
    if name == LOCAL.name:
        return f"{name!r} is reserved for servers without authentication"
    return None


def capabilities_problem(names: object) -> str | None:
    """Why these cannot be the capabilities of a principal; None: they can."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return "it must be a list of texts"
    for name in names:
        if not name or len(name.encode("utf-8", "replace")) > MAX_NAME or not name.isprintable() or " " in name:
            return f"{name[:80]!r} cannot be a capability"
    return None
