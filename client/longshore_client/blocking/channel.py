"""The connection to a server, for code without asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec, Self

from longshore_client import channel as asynchronous
from longshore_client.blocking.portal import Blocking, Portal

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

P = ParamSpec("P")


class Channel(Blocking[asynchronous.Channel]):
    """A connection to one server, for any number of threads. Made by `connect`; use it in `with`, or close it yourself.

    Not for processes that are forked later: gRPC does not survive a fork, so each of them connects for itself.
    """

    @classmethod
    def check(cls, value: object) -> Self:
        """Return what clients are made of, if it is that.

        Raises:
            TypeError: It is something else.
        """
        if isinstance(value, cls):
            return value
        raise TypeError(
            "a client that blocks takes the channel that longshore_client.blocking.connect() returns, "
            f"not {asynchronous.called_channel(value)}"
        )

    @property
    def portal(self) -> Portal:
        """Where the calls are made."""
        return self._portal

    @property
    def inner(self) -> asynchronous.Channel:
        """The connection of the asyncio client."""
        return self._inner

    def close(self) -> None:
        """Close the connection. Calls under way end with `CallCancelled`; operations go on. Repeatable."""
        self._portal.close(self._inner.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _blocking(connect: Callable[P, asynchronous.Channel]) -> Callable[P, Channel]:
    def connecting(*args: P.args, **kwargs: P.kwargs) -> Channel:
        channel = connect(*args, **kwargs)
        return Channel(Portal(), channel)

    connecting.__doc__ = (connect.__doc__ or "").replace("async with", "with").replace("Client(", "BlockingClient(")
    return connecting


connect = _blocking(asynchronous.connect)
