"""The program that has begun this server, such as `longshore dev`: it says when to open; its end is the server's."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import faulthandler
import os
import signal
import socket
import threading

from longshore_server import mistakes

_PATIENCE = 5.0
"""Seconds that a server may take to stop, beside those that its attempts have."""


class Lifeline:
    """The server's end of a pair of sockets. At the other end one byte is read once the server is made, and one is
    written when it may open.

    When that end is closed, and be it since its holder was killed, the server is asked to stop, as by SIGTERM. One
    that cannot hear that, for a handler holds its event loop up, ends a while later, and says where that is.

    Args:
        descriptor: the open file of the server's end.
        drain: seconds that running attempts get to end.
    """

    def __init__(self, descriptor: int, drain: float) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._drain = drain
        self._may_open: concurrent.futures.Future[None] = concurrent.futures.Future()
        # A thread: it hears while the service is still imported, and while a handler holds the event loop up.
        threading.Thread(target=self._read, name="lifeline", daemon=True).start()

    async def turn(self) -> None:
        """Say that the server is made, and wait until it may open."""
        with contextlib.suppress(ConnectionError):  # the thread hears of it, too
            self._socket.send(b"\n")
        await asyncio.shield(asyncio.wrap_future(self._may_open))

    def _read(self) -> None:
        if self._received():
            self._may_open.set_result(None)
            self._received()
        # Should nothing of Python run at all, not even this thread.
        faulthandler.dump_traceback_later(self._drain + 2 * _PATIENCE, exit=True)
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(self._drain + _PATIENCE)
        place = mistakes.running()
        hint = "a handler waits with await, or in a thread, as by asyncio.to_thread"
        why = (
            f"{place}: this holds the event loop up, so that the server cannot stop: {hint}" if place else "it is late"
        )
        os.write(2, f"error: {why}; it is ended as by a crash\n".encode())
        os._exit(1)

    def _received(self) -> bytes:
        try:
            return self._socket.recv(1)
        except ConnectionError:
            return b""
