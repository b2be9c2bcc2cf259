"""Bounds on what callers can fill: in all, and for each of them, so that one cannot take the place of the others."""

from __future__ import annotations

from longshore_server.auth.identity import LOCAL
from longshore_server.errors import Reason, ServiceError


class Shares:
    """How many of something there may be at once.

    Args:
        total: how many in all.
        share: how many of one owner. The local principal, who is everyone, has no bound of its own.
    """

    __slots__ = ("_owners", "_share", "_total", "count")

    def __init__(self, *, total: int, share: int) -> None:
        self._total = total
        self._share = share
        self._owners: dict[str, int] = {}
        self.count = 0
        """How many there are."""

    @property
    def full(self) -> bool:
        """Whether there may be no more of anyone."""
        return self.count >= self._total

    def free(self, owner: str) -> bool:
        """Whether there may be one more of this owner."""
        return self.count < self._total and (self._owners.get(owner, 0) < self._share or owner == LOCAL.name)

    def take(self, owner: str) -> None:
        """There is one more, whatever the bounds: the server's own work is never refused."""
        self.count += 1
        self._owners[owner] = self._owners.get(owner, 0) + 1

    def give(self, owner: str) -> None:
        """There is one less."""
        self.count -= 1
        left = self._owners[owner] - 1
        if left:
            self._owners[owner] = left
        else:
            del self._owners[owner]


class Quota(Shares):
    """What callers are refused beyond.

    Args:
        reason: of the refusal.
        what: what there are too many of, for people, for example `watches are open`.
        retry_after: seconds after which trying again makes sense.
        metadata: further facts for the refusal.
    """

    __slots__ = ("_metadata", "_reason", "_retry_after", "_what")

    def __init__(
        self, reason: Reason, what: str, *, total: int, share: int, retry_after: float,
        metadata: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(total=total, share=share)
        self._reason = reason
        self._what = what
        self._retry_after = retry_after
        self._metadata = metadata or {}

    def refusal(self, owner: str) -> ServiceError | None:
        """Why there may not be one more of this owner now, if so."""
        if self.free(owner):
            return None
        if self.full:
            return self._too_many(self._total, "server", "")
        return self._too_many(self._share, "caller", f" for {owner}")

    def place(self, owner: str) -> Place:
        """The place of one of this owner, for the length of the block. Raises `ServiceError` when there is none."""
        return Place(self, owner)

    def _too_many(self, limit: int, scope: str, whose: str) -> ServiceError:
        return ServiceError(
            self._reason,
            f"{limit} {self._what} already{whose}: try again later.",
            retry_after=self._retry_after,
            metadata={**self._metadata, "limit": str(limit), "scope": scope},
        )


class Place:
    """One of what there may be at once. No generator: calls pass it one by one, and such a one costs thrice as much."""

    __slots__ = ("_owner", "_quota")

    def __init__(self, quota: Quota, owner: str) -> None:
        self._quota = quota
        self._owner = owner

    def __enter__(self) -> None:
        refusal = self._quota.refusal(self._owner)
        if refusal is not None:
            raise refusal
        self._quota.take(self._owner)

    def __exit__(self, *_: object) -> None:
        self._quota.give(self._owner)
