"""All authenticators of a server, asked in order, and what they said lately: a call must not cost a signature."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from functools import partial

from longshore_server.auth.identity import Authenticator, Credentials, Principal, expired, name_problem, unauthenticated
from longshore_server.clock import SECOND, Clock, Timer, resolve
from longshore_server.errors import Reason, ServiceError

log = logging.getLogger(__name__)

SIZE = 4096
"""How many callers are remembered. At the next one all are forgotten, which costs each one verification."""
LOOK = SECOND
"""How long calls are answered before somebody looks whether the files have changed."""
PATIENCE = 5 * SECOND
"""How long calls wait for an authenticator that looks. After that it is waited for no more, until it has answered."""


class Authentication:
    """Finds out who makes a call.

    Args:
        authenticators: asked in this order; at least one.
        clock: decides what has expired.
    """

    def __init__(self, authenticators: Sequence[Authenticator], clock: Clock) -> None:
        self._authenticators = tuple(authenticators)
        self._clock = clock
        self._known: dict[tuple[str, bytes], Principal] = {}
        self.version = 0
        """Counts how often what was known has been forgotten, because it may no longer hold."""
        self._due = True  # told by a timer: every call asks, and the clock would cost as much as all else here
        self._timer: Timer | None = None
        self._looking: asyncio.Future[None] | None = None
        # Kept, because the event loop itself keeps no reference to a task.
        self._asked: set[asyncio.Future[None]] = set()
        self._late: set[int] = set()

    def known(self, authorization: str, certificate: bytes) -> Principal | None:
        """Who it was that sent the same a moment ago; None: ask `identify`."""
        if self._due:
            return None
        found = self._known.get((authorization, certificate))
        if found is None or found.expires is None:  # most never expire: they are spared the call
            return found
        return None if self._expired(found) else found

    def holds(self, principal: Principal, version: int) -> bool:
        """Whether what was said at a version still holds, without another look; False: ask again."""
        if version != self.version or self._due or (self._looking is not None and not self._looking.done()):
            return False
        return principal.expires is None or not self._expired(principal)

    def _expired(self, principal: Principal) -> bool:
        return principal.expires is not None and self._clock.now() >= principal.expires

    async def identify(self, credentials: Credentials) -> Principal:
        """Who has these credentials. Raises `ServiceError`: UNAUTHENTICATED, or UNAVAILABLE while nobody can tell."""
        if not credentials.authorization and not credentials.certificate:
            raise unauthenticated(
                "The call carries no credentials: send the metadata `authorization: Bearer TOKEN`.",
                Reason.CREDENTIALS_MISSING,
            )
        if self._due:
            await self.look()
            known = self.known(credentials.authorization, credentials.certificate)
            if known is not None:
                return known
        version = self.version
        refused: ServiceError | None = None
        for authenticator in self._authenticators:
            try:
                found = await authenticator.authenticate(credentials)
            except ServiceError as error:
                # Another of the same kind may know them: a second file, or the same issuer with another audience.
                refused = refused or error
                continue
            if found is not None:
                name = type(authenticator).__name__
                if (misfit := _misfit(found)) is not None:
                    log.error("%s gives %s where a Principal with a frozenset of texts is wanted", name, misfit)
                    refused = refused or unauthenticated("The credentials stand for no principal.")
                    continue
                if (problem := name_problem(found.name)) is not None:
                    log.error("%s gives a caller the name %.80r, which cannot be: %s", name, found.name, problem)
                    refused = refused or unauthenticated(f"The credentials stand for no principal: {problem}.")
                    continue
                if self._expired(found):
                    refused = refused or expired()
                    continue
                if version == self.version:
                    if len(self._known) >= SIZE:
                        self._known.clear()
                    self._known[credentials.authorization, credentials.certificate] = found
                return found
        raise refused or unauthenticated("The credentials are of no kind, or of no issuer, that this server accepts.")

    async def look(self) -> None:
        """Return once somebody has looked within the last second whether what is known has changed."""
        if self._due:
            await self.refresh(force=False)
        elif self._looking is not None:
            await asyncio.shield(self._looking)

    async def refresh(self, *, force: bool) -> None:
        """Let every authenticator look whether what it knows has changed. `force`: read everything again."""
        # Set first: calls that come meanwhile go by what is known, instead of all looking at once.
        self._due = False
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.call_at(self._clock.now() + LOOK, self._fall_due)
        self._looking = asyncio.ensure_future(self._refresh(force=force))
        # Not awaited itself: a caller who goes away must not end the look of all others.
        await asyncio.shield(self._looking)

    def _fall_due(self) -> None:
        self._due, self._timer = True, None

    async def _refresh(self, *, force: bool) -> None:
        for number, authenticator in enumerate(self._authenticators):
            if number in self._late:
                continue
            asked = asyncio.ensure_future(self._ask(number, authenticator, force=force))
            self._asked.add(asked)
            asked.add_done_callback(self._asked.discard)
            over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            timer = self._clock.call_at(self._clock.now() + PATIENCE, partial(resolve, over))
            await asyncio.wait([asked, over], return_when=asyncio.FIRST_COMPLETED)
            timer.cancel()
            if not asked.done() and number not in self._late:
                self._late.add(number)
                name = type(authenticator).__name__
                log.error("%s does not tell whether it has changed: what was known counts until it expires", name)

    async def _ask(self, number: int, authenticator: Authenticator, *, force: bool) -> None:
        try:
            changed = await authenticator.refresh(force=force)
        except Exception:
            name = type(authenticator).__name__
            log.exception("%s cannot look whether it has changed: nothing that was known counts any more", name)
            changed = True
        finally:
            self._late.discard(number)
        if changed:
            self.version += 1
            self._known.clear()


def _misfit(found: object) -> str | None:
    """What an authenticator gives that is no principal, as one of a service's own may; None: it is one."""
    if not isinstance(found, Principal):
        return f"a {type(found).__name__}"
    names: object = found.capabilities
    if isinstance(names, AbstractSet) and all(isinstance(name, str) for name in names):
        return None
    return f"a Principal whose capabilities are {names!r:.80}"
