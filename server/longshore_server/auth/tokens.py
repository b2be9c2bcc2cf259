"""Bearer tokens from a file, which keeps only their hashes.

    [[token]]
    id = "5f0c9a12"
    principal = "checkout"
    capabilities = ["orders.read", "orders.write"]
    sha256 = "..."
    expires = 2027-01-01T00:00:00Z      # optional

`longshore token` makes a token and appends its entry. Taking the entry out revokes the token.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

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

PREFIX = "longshore"
"""What a token begins with, so that scanners for leaked secrets can find it."""
_TOKEN = re.compile(rf"{PREFIX}_([0-9a-f]{{8}})_[A-Za-z0-9_-]{{43}}")
_FIELDS = ("id", "principal", "capabilities", "sha256", "expires")


class _Entry(NamedTuple):
    digest: bytes
    principal: Principal


# Compared with when there is no such token, so that the time says nothing.
_NOBODY = _Entry(bytes(32), Principal("", frozenset()))


class TokenFile(Authenticator):
    """The tokens of one file, and the capabilities that contracts know; see `warn_of_unknown`.

    Raises `FileError` when it cannot be used.
    """

    def __init__(self, path: Path, clock: Clock, known: Collection[str] | None = None) -> None:
        self._clock = clock
        self._entries: Watched[Mapping[str, _Entry]] = Watched([path], lambda: _read(path, known))

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        token = credentials.bearer
        if token is None or not token.startswith(f"{PREFIX}_"):
            return None
        match = _TOKEN.fullmatch(token)
        entry = _NOBODY if match is None else self._entries.value.get(match[1], _NOBODY)
        if not hmac.compare_digest(_digest(token), entry.digest):
            raise unauthenticated("The token is not known here: it was revoked, or is another server's.")
        principal = entry.principal
        if principal.expires is not None and principal.expires <= self._clock.now():
            when = datetime.fromtimestamp(principal.expires / SECOND, UTC)
            raise unauthenticated(f"The token expired at {when:%Y-%m-%dT%H:%M:%SZ}.", Reason.CREDENTIALS_EXPIRED)
        return principal

    async def refresh(self, *, force: bool) -> bool:
        return await self._entries.refresh(force=force)


class Made(NamedTuple):
    """A new token, and the entry that lets a server know it."""

    token: str
    entry: str


def make(principal: str, capabilities: Sequence[str], expires: datetime | None) -> Made:
    """A new token of 256 random bits. Raises `ValueError` for a name or a capability that cannot be."""
    problem = name_problem(principal)
    if problem is not None:
        raise ValueError(f"principal: {problem}")
    problem = capabilities_problem(list(capabilities))
    if problem is not None:
        raise ValueError(f"capabilities: {problem}")
    id = secrets.token_hex(4)
    token = f"{PREFIX}_{id}_{secrets.token_urlsafe(32)}"
    lines = [
        "[[token]]",
        f'id = "{id}"',
        # JSON's texts and lists are TOML's.
        f"principal = {json.dumps(principal, ensure_ascii=False)}",
        f"capabilities = {json.dumps(list(capabilities), ensure_ascii=False)}",
        f'sha256 = "{_digest(token).hex()}"',
    ]
    if expires is not None:
        lines.append(f"expires = {expires.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}")
    return Made(token, "\n".join(lines) + "\n")


def append(path: Path, made: Made) -> None:
    """Add the entry to the file, which is made if it is not there, for its owner only. Raises `FileError`."""
    try:
        if path.exists():
            _read(path)  # an entry behind broken ones would never be found
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            # In one write: a server that reads meanwhile sees all of it or nothing.
            os.write(descriptor, f"\n{made.entry}".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise FileError(path, error.strerror or str(error)) from None


def _digest(token: str) -> bytes:
    """One round is enough: nobody can try out 256 random bits."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def _read(path: Path, known: Collection[str] | None = None) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    for position, table in enumerate(read_tables(path, "token", _FIELDS, _FIELDS[:4])):
        place = f"token[{position}]"
        id, digest, expires = table["id"], table["sha256"], table.get("expires")
        if not isinstance(id, str) or not re.fullmatch(r"[0-9a-f]{8}", id):
            raise FileError(path, f"{place}.id: it must be 8 hexadecimal digits")
        if id in entries:
            raise FileError(path, f"{place}.id: {id} is there twice")
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise FileError(path, f"{place}.sha256: it must be 64 hexadecimal digits")
        problem = name_problem(table["principal"])
        if problem is not None:
            raise FileError(path, f"{place}.principal: {problem}")
        problem = capabilities_problem(table["capabilities"])
        if problem is not None:
            raise FileError(path, f"{place}.capabilities: {problem}")
        if expires is not None and (not isinstance(expires, datetime) or expires.tzinfo is None):
            raise FileError(path, f"{place}.expires: it must be a time with its zone, like 2027-01-01T00:00:00Z")
        end = None if expires is None else int(expires.timestamp()) * SECOND
        capabilities = frozenset(table["capabilities"])
        entries[id] = _Entry(bytes.fromhex(digest), Principal(table["principal"], capabilities, end, "token"))
    warn_of_unknown(path, (entry.principal.capabilities for entry in entries.values()), known)
    return entries
