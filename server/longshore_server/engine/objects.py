"""The stores, as operations use them: what one cannot do is a `TransferError`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator, Mapping

from longshore_server.handler.offers import TransferError
from longshore_server.transfers.objects import ObjectError, ObjectInfo
from longshore_server.transfers.stores import Store

MAX_URL = 8192
"""The most characters of a URL that a store makes: a snapshot has 64 of them at most, and fits into one message."""


class Objects:
    """The objects of all stores of one server; see `longshore_server.handler.offers.Objects`."""

    def __init__(self, stores: Mapping[str, Store]) -> None:
        self._stores = stores

    async def stat(self, store: str, key: str) -> ObjectInfo:
        """What is known of an object."""
        with _told():
            return await self._named(store).stat(key)

    async def open(self, store: str, key: str, offset: int) -> AsyncGenerator[bytes]:
        """Its bytes from `offset` on."""
        with _told():
            async with contextlib.aclosing(self._named(store).open(key, offset)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def presign(self, store: str, key: str, seconds: float) -> str:
        """A URL from which anybody can read it for so long. Raises `ValueError` for what the store may not give."""
        with _told():
            url = await self._named(store).presign(key, seconds)
        if not 0 < len(url) <= MAX_URL or not url.isascii() or not url.isprintable():
            raise ValueError(
                f"the store {store!r} gave {url[:40]!r}, of {len(url)} characters: a URL has 1 to {MAX_URL}, "
                "all of them printable and of ASCII"
            )
        return url

    def _named(self, store: str) -> Store:
        found = self._stores.get(store)
        if found is None:
            raise ValueError(f"the server has no store {store!r}, only {', '.join(sorted(self._stores)) or 'none'}")
        return found


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What callers may know of it: not the key, which is the service's own."""
    try:
        yield
    except ObjectError as error:
        raise TransferError(error.reason) from error
