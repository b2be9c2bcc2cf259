"""What a caller can do about a server that cannot be reached, or does not know who calls, in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longshore_client.errors import DeadlineExceeded, Unauthenticated, Unavailable, Unimplemented

if TYPE_CHECKING:
    from longshore_client.errors import CallError

_ADDRESS = "is no address that can be found: give connect() host:port, without https://, or unix:PATH"
_NAME = "has a certificate of another name: give connect() the name that stands in it"
_SIGNS = {
    "errors resolving": _ADDRESS,
    "DNS resolution failed": _ADDRESS,
    "target uri is not valid": _ADDRESS,
    "WRONG_VERSION_NUMBER": "does not speak TLS: leave out credentials=, or give connect() the port that does",
    "CERTIFICATE_VERIFY_FAILED": "has a certificate that is not trusted: say who signs it, credentials=tls(ca=FILE)",
    "Hostname Verification": _NAME,
    "not in peer certificate": _NAME,
    "http1": "speaks HTTP/1 and not gRPC: give connect() the port that `longshore serve` names first",
}
"""What the versions of gRPC say of a connection that does not come about, and what to say of the server."""

_CLOSED = ("Socket closed", "Connection reset", "Broken pipe")
"""What it says of one that the other side has closed, as servers do that want TLS, or a certificate."""


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
    said = error.message.rpartition("last error: ")[2]
    if isinstance(error, Unimplemented):
        return f"{target} does not know this call, so it is no Longshore server, or an older one ({said})"
    if isinstance(error, DeadlineExceeded):
        return f"{target} did not answer in time: give it longer by connect(call_timeout=...)"
    known = next((what for sign, what in _SIGNS.items() if sign in said), "")
    if not known and isinstance(error, Unavailable):
        if contacted:
            known = "answers no more: see whether the server runs, or wait longer by connect(retry=Retry(...))"
        elif not any(sign in said for sign in _CLOSED):
            known = "does not answer: start a server with `longshore serve`, or give connect() the address of another"
        elif credentials:
            known = "closes the connection: it may want a certificate, credentials=tls(certificate=FILE, key=FILE)"
        else:
            known = "closes the connection: it may want TLS, credentials=tls(...)"
    return known and f"{target or 'an empty text'} {known} ({said})"
