"""What one end of a call has sent and the other has not read: as much as a connection would take, and no more."""

from __future__ import annotations

import asyncio
from collections import deque

WINDOW = 1 << 16
"""Bytes that are taken ahead of their reader, as HTTP/2 has it by default."""


class Pipe:
    """Messages in order, from one sender to one reader of the same event loop."""

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._size = 0
        self._closed = False
        self._room = asyncio.Event()
        self._news = asyncio.Event()

    async def put(self, message: bytes) -> None:
        """Send `message`, as soon as there is room. After `close` it is dropped."""
        while self._size >= WINDOW and not self._closed:
            self._room.clear()
            await self._room.wait()
        if not self._closed:
            self._messages.append(message)
            self._size += len(message)
            self._news.set()

    async def get(self) -> bytes | None:
        """The next message; None: that was the last."""
        while not self._messages:
            if self._closed:
                return None
            self._news.clear()
            await self._news.wait()
        message = self._messages.popleft()
        self._size -= len(message)
        self._room.set()
        return message

    def close(self, *, drop: bool = False) -> None:
        """Nothing more is sent. `drop`: what has not been read is not read any more. Repeatable."""
        self._closed = True
        if drop:
            self._messages.clear()
        self._room.set()
        self._news.set()
