"""JSON Web Tokens, checked by the public keys of their issuer (a JWKS, from a file or a URL).

Signatures are PyJWT's to check, which is loaded only where tokens are configured; times are judged by the
server's clock.
"""

from __future__ import annotations

import asyncio
import json
import logging
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias
from urllib.parse import urlsplit

from longshore_server.auth.files import FileError, Watched, read_bytes
from longshore_server.auth.identity import (
    Authenticator,
    Credentials,
    Principal,
    capabilities_problem,
    name_problem,
    unauthenticated,
)
from longshore_server.clock import SECOND, Clock
from longshore_server.errors import Reason, ServiceError

log = logging.getLogger(__name__)

# Asymmetric only: whoever can check a symmetric signature can also make one.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_KINDS = ("RSA", "EC", "OKP")
_BY_CURVE: Mapping[str, tuple[str, ...]] = {
    "": ALGORITHMS[:6], "P-256": ("ES256",), "P-384": ("ES384",), "P-521": ("ES512",), "Ed25519": ("EdDSA",)
}  # fmt: skip
MAX_AGE = 3600 * SECOND
"""After this time the keys of a URL are fetched again, so that one which was withdrawn counts no more."""
PAUSE = 10 * SECOND
"""How long nothing is fetched after a fetch, whatever key a token names: callers choose what they name."""
TIMEOUT = 5.0
"""Seconds that the URL has to answer."""
MAX_SKEW = 600
"""The most seconds that an issuer's clock may be off."""
MAX_BYTES = 1 << 20
"""The largest JWKS."""


class Key(NamedTuple):
    """One public key of a JWKS."""

    public: Any
    algorithms: tuple[str, ...]
    """What it may check; a key that names no algorithm serves all of its kind."""
    entry: dict[str, Any]
    """As it was written."""


Keys: TypeAlias = Mapping[str, Key]
"""By their ids; "" for one that has none."""


class JwtTokens(Authenticator):
    """Tokens of one issuer.

    Args:
        issuer: what `iss` must be. A token of another issuer is left to other authenticators.
        audience: what `aud` must hold.
        keys: path or https URL of the issuer's JWKS.
        claim: the claim that holds the capabilities: a text with spaces in between, or a list of texts.
        skew: microseconds by which the issuer's clock may be off.
        prefix: what the principals' names begin with. Issuers choose their subjects without knowing of each other, so
            each of several needs its own; see `issuers_problem`.

    `sub` after the prefix is the principal; `exp` and `sub` are required. Raises `FileError` when the file of the keys
    cannot be used, `ImportError` without PyJWT.
    """

    def __init__(
        self, *, issuer: str, audience: str, keys: str, clock: Clock, claim: str = "scope", skew: int = 30 * SECOND,
        prefix: str = "",
    ) -> None:  # fmt: skip
        import jwt

        jwt.algorithms.get_default_algorithms()["ES256"]  # fails without cryptography: not at the first call
        self.issuer = issuer
        self.prefix = prefix
        self._audience = audience
        self._claim = claim
        self._skew = skew
        self._clock = clock
        self._keys: _Keys = _UrlKeys(keys, clock) if "://" in keys else _FileKeys(Path(keys))

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        token = credentials.bearer
        if token is None or token.count(".") != 2:
            return None
        import jwt

        try:
            header = jwt.get_unverified_header(token)
            claimed = jwt.decode(token, options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError):  # the latter for a text that is none in UTF-8
            return None
        if claimed.get("iss") != self.issuer:
            return None
        key = await self._key(header)
        try:
            claims = jwt.decode(
                token, key.public, algorithms=key.algorithms, audience=self._audience, issuer=self.issuer,
                options={"require": ["exp", "sub"], "verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )  # fmt: skip
        except jwt.PyJWTError as error:
            raise unauthenticated(f"The token is not good: {error}.") from None
        return self._principal(claims)

    async def refresh(self, *, force: bool) -> bool:
        return await self._keys.refresh(force=force)

    async def _key(self, header: Mapping[str, Any]) -> Key:
        algorithm, id = header.get("alg"), header.get("kid", "")
        if algorithm not in ALGORITHMS:
            raise unauthenticated(f"The token is signed by {str(algorithm)[:20]!r}: only asymmetric algorithms count.")
        key = await self._keys.find(id)
        if key is None:
            raise unauthenticated(f"The token is signed by a key that its issuer does not list: {str(id)[:80]!r}.")
        return key

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        now = self._clock.now()
        expires = self._time(claims, "exp") + self._skew
        if expires <= now:
            raise unauthenticated("The token has expired.", Reason.CREDENTIALS_EXPIRED)
        if "nbf" in claims and self._time(claims, "nbf") - self._skew > now:
            raise unauthenticated("The token is not valid yet (nbf).")
        problem = name_problem(claims["sub"]) or name_problem(self.prefix + claims["sub"])
        if problem is not None:
            raise unauthenticated(f"The token's subject cannot be a principal: {problem}.")
        names = claims.get(self._claim, [])
        if isinstance(names, str):
            names = names.split()
        problem = capabilities_problem(names)
        if problem is not None:
            raise unauthenticated(f"The token's claim {self._claim!r} does not hold capabilities: {problem}.")
        return Principal(self.prefix + claims["sub"], frozenset(names), expires, "jwt")

    def _time(self, claims: Mapping[str, Any], claim: str) -> int:
        value = claims[claim]
        # NumericDate may have a fraction; beyond the year 9999 it is a slip, and infinity no time at all.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 253_402_300_800:
            raise unauthenticated(f"The token's claim {claim!r} is no time.")
        return int(value * SECOND)


@dataclass(frozen=True)
class JwtSettings:
    """What the configuration says of one issuer; see `JwtTokens`.

    Raises `ValueError`, naming the option, when it means nothing.
    """

    issuer: str = ""
    audience: str = ""
    keys: str = ""
    claim: str = "scope"
    skew: float = 30.0
    """Seconds."""
    prefix: str = ""

    def __post_init__(self) -> None:
        for name in ("issuer", "audience", "keys"):
            if not getattr(self, name):
                raise ValueError(f"{name}: it is missing")
        if "://" in self.keys and (problem := url_problem(self.keys)) is not None:
            raise ValueError(f"keys: {problem}")
        if not 0 <= self.skew <= MAX_SKEW:
            raise ValueError(f"skew: {self.skew} is not between 0 and {MAX_SKEW}")

    def make(self, clock: Clock) -> JwtTokens:
        """What knows the issuer's tokens. Raises as `JwtTokens` does."""
        return JwtTokens(
            issuer=self.issuer, audience=self.audience, keys=self.keys, clock=clock, claim=self.claim,
            skew=int(self.skew * SECOND), prefix=self.prefix,
        )  # fmt: skip


def issuers_problem(authenticators: Sequence[Authenticator]) -> str | None:
    """Why these cannot be asked together: two issuers could name the same principal. None: they can."""
    for a, b in combinations([each for each in authenticators if isinstance(each, JwtTokens)], 2):
        # "x:" and "x:y:" will not do: the subject "y:ada" of the one would be "ada" of the other.
        if a.issuer != b.issuer and (a.prefix.startswith(b.prefix) or b.prefix.startswith(a.prefix)):
            return (
                f"the issuers {a.issuer} and {b.issuer} could name the same principal: give each a prefix, of which "
                "none begins another"
            )
    return None


class _Keys(Protocol):
    async def find(self, id: str) -> Key | None:
        """The key of this id, looked up again if it is not there; None: the issuer lists no such key.

        Raises `ServiceError` (IDENTITY_UNAVAILABLE) while nobody can tell.
        """

    async def refresh(self, *, force: bool) -> bool: ...


def _listed(keys: Keys, id: str) -> Key | None:
    """The key of this id. A token that names none means the only one."""
    if not id and len(keys) == 1:
        (key,) = keys.values()
        return key
    return keys.get(id)


class _FileKeys:
    def __init__(self, path: Path) -> None:
        self._watched: Watched[Keys] = Watched([path], lambda: parse(read_bytes(path), path))

    async def find(self, id: str) -> Key | None:
        if id not in self._watched.value:
            await self._watched.refresh(force=False)
        return _listed(self._watched.value, id)

    async def refresh(self, *, force: bool) -> bool:
        return await self._watched.refresh(force=force)


class _UrlKeys:
    """Fetched at the first use, in a thread; one fetch at a time, for all who wait."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self._keys: Keys | None = None
        self._failed = False
        self._changed = False
        self._next = 0
        self._stale = 0
        self._fetching: asyncio.Future[Keys | None] | None = None

    async def find(self, id: str) -> Key | None:
        if self._keys is None or id not in self._keys:
            await self._fetched()
        key = None if self._keys is None else _listed(self._keys, id)
        # A new key of an issuer that cannot be asked: its tokens may be good, and a refusal would be for good.
        if key is None and (self._keys is None or self._failed):
            raise ServiceError(
                Reason.IDENTITY_UNAVAILABLE, Reason.IDENTITY_UNAVAILABLE.meaning, retry_after=PAUSE / SECOND
            )
        return key

    async def refresh(self, *, force: bool) -> bool:
        if force:
            self._next = 0
            await self._fetched()
        elif self._keys is not None and self._clock.now() >= self._stale:
            # Not waited for: no caller is to wait for an issuer that does not answer, least of all one of another way.
            self._fetch()
        changed, self._changed = self._changed, False
        return changed

    async def _fetched(self) -> None:
        """Return once a fetch has ended, unless one has a moment ago."""
        self._fetch()
        if self._fetching is not None:
            # Not awaited itself: a caller who goes away must not take the keys from the others.
            await asyncio.shield(self._fetching)

    def _fetch(self) -> None:
        """Begin to fetch, unless that is under way or was tried a moment ago."""
        now = self._clock.now()
        if self._fetching is None and now >= self._next:
            self._next = now + PAUSE
            self._fetching = asyncio.get_running_loop().run_in_executor(None, self._fetch_now)
            self._fetching.add_done_callback(self._take)

    def _take(self, fetching: asyncio.Future[Keys | None]) -> None:
        self._fetching = None
        keys, before = fetching.result(), self._keys
        self._failed = keys is None
        if keys is not None:
            self._keys, self._stale = keys, self._clock.now() + MAX_AGE
            if before is None or {i: k.entry for i, k in keys.items()} != {i: k.entry for i, k in before.items()}:
                self._changed = True

    def _fetch_now(self) -> Keys | None:
        try:
            with _opener.open(self._url, timeout=TIMEOUT) as answer:
                # What is cut short is no JSON any more.
                return parse(answer.read(MAX_BYTES), self._url)
        except (OSError, HTTPException, FileError) as error:
            log.error("cannot fetch the keys of tokens: %s: %s", self._url, error)
            return None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The keys come from where the operator said, and over TLS, or not at all."""

    def redirect_request(self, *_: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


def url_problem(url: str) -> str | None:
    """Why keys must not be fetched from here; None: they may."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        return f"{url!r} is no URL: {error}"
    if parts.scheme == "https" and parts.hostname:
        return None
    if parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1"):
        return None
    return f"{url!r} is neither a path nor an https URL: whoever can change the keys on their way can be anyone"


def parse(data: bytes, where: Path | str) -> Keys:
    """The keys of a JWKS that can check signatures, by their ids. Raises `FileError`."""
    import jwt

    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise FileError(where, "keys: it must be a JWKS: a JSON object with a list called keys")
    found: dict[str, Key] = {}
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise FileError(where, f"keys[{position}]: it must be an object")
        if "d" in entry:
            raise FileError(where, f"keys[{position}]: it is a private key, which only its issuer may have")
        # Other uses are none of ours, and a symmetric key in a public document is nobody's secret.
        algorithms = (entry["alg"],) if "alg" in entry else _BY_CURVE.get(str(entry.get("crv", "")), ())
        known = all(algorithm in ALGORITHMS for algorithm in algorithms) and entry.get("kty") in _KINDS
        if entry.get("use", "sig") != "sig" or not known:
            continue
        try:
            key = Key(jwt.PyJWK(entry).key, algorithms, entry)
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            log.warning("%s: keys[%d] cannot be used: %s", where, position, error)
            continue
        id = str(entry.get("kid", ""))
        if id in found:
            raise FileError(where, f"keys[{position}].kid: {id!r} is there twice")
        found[id] = key
    if not found:
        raise FileError(where, "keys: none of them is a public key that can check signatures")
    return found
