"""What a caller can do about a server that cannot be reached, or does not know who calls, in one sentence."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from longshore_client.errors import DeadlineExceeded, Unauthenticated, Unavailable, Unimplemented

if TYPE_CHECKING:
    from longshore_client.errors import CallError


class Trouble(enum.Enum):
    """Why a connection does not come about."""

    ADDRESS = "there is no such address"
    PLAIN = "the server does not speak TLS"
    UNTRUSTED = "who has signed its certificate is not trusted"
    NAME = "its certificate is of another name"
    FILES = "the files for TLS are of no use"
    HTTP1 = "it speaks HTTP/1"
    CLOSED = "it closes the connection, as servers do that want TLS, or a certificate"


_SIGNS = {
    "errors resolving": Trouble.ADDRESS,
    "DNS resolution failed": Trouble.ADDRESS,
    "target uri is not valid": Trouble.ADDRESS,
    "WRONG_VERSION_NUMBER": Trouble.PLAIN,
    "CERTIFICATE_VERIFY_FAILED": Trouble.UNTRUSTED,
    # Of an authority that was made anew under its old name.
    "certificate signature failure": Trouble.UNTRUSTED,
    "Hostname Verification": Trouble.NAME,
    "not in peer certificate": Trouble.NAME,
    "create security handshaker": Trouble.FILES,
    "http1": Trouble.HTTP1,
    "Socket closed": Trouble.CLOSED,
    "Connection reset": Trouble.CLOSED,
    "Broken pipe": Trouble.CLOSED,
}
"""What the versions of gRPC say of it."""

_ADVICE = {
    Trouble.ADDRESS: "is no address that can be found: give connect() host:port, without https://, or unix:PATH",
    Trouble.PLAIN: "does not speak TLS: leave out credentials=, or give connect() the port that does",
    Trouble.UNTRUSTED: "has a certificate that is not trusted: say who signs it, credentials=tls(ca=FILE)",
    Trouble.NAME: "has a certificate of another name: give connect() the name that stands in it",
    Trouble.FILES: "cannot be asked over TLS: see whether the files of credentials=tls(...) hold what they should",
    Trouble.HTTP1: "speaks HTTP/1 and not gRPC: give connect() the port that `longshore serve` names first",
}


def trouble(error: CallError) -> Trouble | None:
    """Say why there is no connection, as far as gRPC tells."""
    said = _last(error)
    return next((what for sign, what in _SIGNS.items() if sign in said), None)


def _last(error: CallError) -> str:
    return error.message.rpartition("last error: ")[2]


def advice(error: CallError, target: str, *, contacted: bool, credentials: bool, token: bool) -> str:
    """Say what is wrong at `target` and what to do.

    Args:
        error: What a call has failed with for good.
        target: The server, as it was given to `connect`.
        contacted: Whether it has ever answered on this channel.
        credentials: Whether the connection is to be one over TLS.
        token: Whether a token went with the call.

    Returns:
        One sentence, without a full stop; empty where nothing is known beyond the error's own.
    """
    if isinstance(error, Unauthenticated):
        proof = "another token=" if token else "token=, or credentials=tls(...) with a certificate,"
        return f"{error.message.rstrip('.')}: give connect() {proof} that this server accepts"
    if error.domain:
        return ""
    said, found = _last(error), trouble(error)
    if isinstance(error, Unimplemented):
        return f"{target} does not know this call, so it is no Longshore server, or an older one ({said})"
    if isinstance(error, DeadlineExceeded):
        return f"{target} did not answer in time: give it longer by connect(call_timeout=...)"
    known = "" if found is None else _ADVICE.get(found, "")
    if not known and isinstance(error, Unavailable):
        if contacted:
            known = "answers no more: see whether the server runs, or wait longer by connect(retry=Retry(...))"
        elif found is not Trouble.CLOSED and not credentials and not target.partition(":")[2]:
            known = "names no port, and gRPC takes 443 then: give connect() host:port, such as localhost:50051"
        elif found is not Trouble.CLOSED:
            known = "does not answer: start a server with `longshore serve`, or give connect() the address of another"
        elif credentials:
            known = "closes the connection: it may want a certificate, credentials=tls(certificate=FILE, key=FILE)"
        else:
            known = "closes the connection: it may want TLS, credentials=tls(...)"
    return known and f"{target or 'an empty text'} {known} ({said})"
